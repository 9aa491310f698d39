"""`menura doctor`."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from menura import __version__
from menura.audio.places import BASE_SUFFIXES, MEDIA_SUFFIXES
from menura.cli.derive import home_option
from menura.cli.library import asset_document, asset_lines, voice_lines
from menura.cli.terminal import say_json, say_lines, table
from menura.options import DEFAULT_VOICE, FORMATS
from menura.system.device import default_threads, peak_memory_mb, processor_name, resolve_device
from menura.system.gpu import nvidia_driver, unused_gpu
from menura.voices.assets import asset_status, home_folder, needed_by
from menura.voices.library import list_voices

_PACKAGES = {
    "torch": "torch", "numpy": "numpy", "soundfile": "soundfile", "soxr": "soxr", "safetensors": "safetensors",
    "faiss": "faiss-cpu", "click": "click",
    "platformdirs": "platformdirs", "av": "av",
}  # fmt: skip
"""Module and distribution of what Menura runs on; av belongs to the extra `media`."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
@home_option
def doctor(as_json: bool, home: Path | None) -> None:
    """Check this installation: problems first, then device, voices, weights, formats, folders and versions."""
    folder = home_folder(home)
    findings = _findings(folder)
    if as_json:
        say_json(findings)
        return
    needed = needed_by(folder)
    sections = {
        "device": _fact_lines(findings["device"]),
        "voices": voice_lines(list_voices(folder)),
        "weights": asset_lines(asset_status(folder, needed), folder, needed, everything=False),
        **{title: _fact_lines(findings[title]) for title in ("formats", "folders", "menura", "packages")},
    }
    say_lines(f"- {line}" for line in findings["advice"] or ["no problems found"])
    for title, lines in sections.items():
        say_lines(("", title, *(f"  {line}" for line in lines)))


def _findings(home: Path) -> dict[str, Any]:
    packages = {module: _package(module, name) for module, name in _PACKAGES.items()}
    media = packages["av"] is not None and not packages["av"].startswith("broken")
    findings: dict[str, Any] = {
        "menura": {
            "version": __version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "executable": sys.executable,
            "package": str(Path(__file__).resolve().parent.parent),
        },
        "packages": packages,
        "device": _device(),
        "folders": {"data": _folder(home), "temporary": _folder(Path(tempfile.gettempdir()))},
        "formats": {
            "read": " ".join(sorted(name[1:] for name in BASE_SUFFIXES | (MEDIA_SUFFIXES if media else frozenset()))),
            "write": " ".join(name for name in FORMATS if media or name != "m4a"),
        },
        "assets": [asset_document(status, home) for status in asset_status(home)],
        "voices": [
            {"name": v.name, "builtin": v.builtin, "source": v.source, "index": v.index_path is not None}
            for v in list_voices(home)
        ],
        "memory_mb": round(peak_memory_mb(), 1),
    }
    return findings | {"advice": list(_advice(findings))}


def _package(module: str, distribution: str) -> str | None:
    """The version of a package that can be imported, 'broken: why' of one that can't, None of one that isn't there."""
    try:
        version = importlib.metadata.version(distribution)
        loaded = importlib.import_module(module)
    except importlib.metadata.PackageNotFoundError:
        return None
    except Exception as error:  # noqa: BLE001  (whatever a broken installation raises is the finding)
        return f"broken: {' '.join(str(error).split())}"
    return f"{version} (libsndfile {loaded.__libsndfile_version__})" if module == "soundfile" else version


def _device() -> dict[str, Any]:
    facts = {"cpu": processor_name(), "logical_cores": os.cpu_count(), "threads": default_threads()}
    try:
        import torch
    except Exception:  # noqa: BLE001  (reported under packages)
        return facts
    from menura.kernels.selftest import kernels_in_words

    return facts | {
        "auto": str(resolve_device("auto")),
        "nvidia_driver": nvidia_driver() or None,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "convolution_kernels": kernels_in_words(),
    }


def _folder(path: Path) -> dict[str, Any]:
    existing = next(place for place in (path, *Path(os.path.realpath(path)).parents) if place.exists())
    return {
        "path": str(path),
        "exists": path.is_dir(),
        "writable": os.access(existing, os.W_OK),
        "free_gb": round(shutil.disk_usage(existing).free / 1e9, 1),
    }


def _advice(findings: dict[str, Any]) -> Iterator[str]:
    for module, version in findings["packages"].items():
        if module == "av" and version is None:
            yield "m4a, aac, webm, mp4 and wma need the extra 'media': pip install 'menura[media]'."
        elif version is None or version.startswith("broken"):
            yield f"{_PACKAGES[module]} is {version or 'missing'}. Reinstall Menura."
    if "gpus" in findings["device"] and (unused := unused_gpu()):
        yield unused
    for name, folder in findings["folders"].items():
        if not folder["writable"]:
            yield f"The {name} folder {folder['path']} is not writable. Change its permissions or location."
        elif folder["free_gb"] < 1:
            yield f"The {name} folder {folder['path']} has less than 1 GB free."
    if not any(voice["name"] == DEFAULT_VOICE for voice in findings["voices"]):
        yield f"The starter voice '{DEFAULT_VOICE}' is missing. Reinstall Menura."
    if any(asset["name"] == "contentvec" and not asset["found"] for asset in findings["assets"]):
        fetch = "'menura assets import FOLDER' takes it from Applio or RVC WebUI, 'menura assets list --all' says where"
        yield f"RVC voices need contentvec (starter voices don't): {fetch} to fetch it."


def _fact_lines(facts: dict[str, Any]) -> Iterator[str]:
    return table((name.replace("_", " "), _shown(value)) for name, value in facts.items())


def _shown(value: object) -> str:
    if isinstance(value, dict):  # a folder
        state = "" if value["exists"] else " (not created yet)"
        writable = "" if value["writable"] else ", not writable"
        return f"{value['path']}{state}, {value['free_gb']} GB free{writable}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not installed" if value is None else str(value)
