"""What a user installs: the wheel's contents, with and without a C++ compiler."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from menura import __version__
from menura.options import DEFAULT_VOICE

ROOT = Path(__file__).parents[2]
RECORDINGS = (".flac", ".wav", ".mp3", ".ogg", ".opus")


LIBRARY = "menura/kernels/libmenura_kernels.so"


def build(what: str, folder: Path, environment: dict[str, str]) -> None:
    """Call the build backend as installers do."""
    call = f"import scikit_build_core.build as b, sys; b.build_{what}(sys.argv[1])"
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))  # cmake and ninja may be there only
    subprocess.run(
        [sys.executable, "-c", call, str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env={**os.environ, "PATH": path, **environment},
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    build("wheel", folder, {})
    build("sdist", folder, {})
    return folder


def test_without_a_compiler(tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\nexit 1\n", encoding="ascii")
    compiler.chmod(0o755)
    build("wheel", tmp_path, {"CXX": str(compiler)})
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "menura/cli/main.py" in names
    assert LIBRARY not in names


def test_wheel(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    assert wheel.name.startswith(f"menura-{__version__}-")
    assert {name.split("/")[0].split("-")[0] for name in names} == {"menura"}
    for wanted in (
        "menura/py.typed",
        "menura/cli/main.py",
        LIBRARY,
        "menura/assets/demo/README.md",
        "menura/assets/starter/content.safetensors",
        "menura/assets/starter/shared.safetensors",
        f"menura/assets/starter/voices/{DEFAULT_VOICE}/voice.safetensors",
        f"menura/assets/starter/voices/{DEFAULT_VOICE}/card.json",
    ):
        assert wanted in names
    assert [name for name in names if name.endswith(RECORDINGS)] == ["menura/assets/demo/librivox_0870.flac"]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
    assert not [name for name in names if "__pycache__" in name or "/cpp/" in name]
    assert "Provides-Extra: media" in metadata
    assert wheel.stat().st_size < 100e6


def test_source_distribution(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "Makefile", "constraints.txt", "LICENSE", "NOTICE", "README.md", "scripts/test"} <= names
    assert "src/menura/kernels/cpp/CMakeLists.txt" in names
    assert not [name for name in names if name.startswith((".venv", ".ci", "demo/"))]
