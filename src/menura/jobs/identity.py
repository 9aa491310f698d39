"""What a request is, so that an earlier run's output can be told to be of the same one. Loads no torch."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from menura import __version__
from menura.errors import AssetMissingError
from menura.f0.registry import method_path, resolve_method
from menura.loading.pool import ModelKey
from menura.options import ConversionOptions
from menura.voices.assets import asset_status
from menura.voices.library import find_voice


def request_identity(options: ConversionOptions, home: Path) -> str:
    """A hash of everything that decides an output beside its input: options, files of networks, voice and index.

    Files count by path, size and time of change, as for the models that stay loaded. Another version of Menura makes
    another request.

    Args:
        options: what is asked for.
        home: Menura's data folder.

    Raises:
        VoiceNotFoundError: no such voice. What else is missing makes a request of its own, and is told when it is used.
    """
    voice = find_voice(options.voice, home)
    method, weights = _f0(options, home)
    index = options.index or voice.index_path
    files = [
        _key("voice", voice.path),
        _key("index", index) if options.index_rate else None,
        _key("f0", weights),
    ]
    if not voice.builtin:  # which encoder it needs is known only when it is read
        files += [_key("content", s.path) for s in asset_status(home) if s.asset.is_folder]
    named = ("voice", "index", "f0", "f0_file")
    fields = {
        "version": __version__,
        "f0_method": method,
        "f0_median_hz": voice.f0_median_hz,
        "files": [None if key is None else dataclasses.astuple(key) for key in files],
        "options": {k: v for k, v in dataclasses.asdict(options).items() if k not in named},
    }
    return hashlib.sha256(json.dumps(fields, sort_keys=True, default=str).encode()).hexdigest()


def _f0(options: ConversionOptions, home: Path) -> tuple[str, Path | None]:
    """The method, and the file that decides its result."""
    if options.f0_file is not None:
        return "file", options.f0_file
    try:
        method = resolve_method(options.f0, home)
        return method, method_path(method, home)
    except AssetMissingError:  # which a voice without F0 doesn't need
        return options.f0, None


def _key(kind: str, path: Path | None) -> ModelKey | None:
    try:
        return None if path is None else ModelKey.of(kind, path)
    except OSError:
        return None
