"""Which F0 methods there are, and how each is loaded. Loads no torch until one is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from menura.errors import AssetMissingError, OptionError
from menura.voices.assets import find_asset

if TYPE_CHECKING:
    import torch

    from menura.f0.base import F0Estimator

METHODS = ("rmvpe", "fcpe", "swift")


def resolve_method(method: str, home: Path | None = None) -> str:
    """The method itself; for 'auto' the best whose weights are there.

    Raises:
        OptionError: no such method.
        AssetMissingError: its weights are not installed.
    """
    if method != "auto":
        method_path(method, home)
        return method
    try:
        return resolve_method("rmvpe", home)
    except AssetMissingError:
        return "swift"


def method_path(method: str, home: Path | None = None) -> Path:
    """The file of a method's weights.

    Raises:
        OptionError: no such method.
        AssetMissingError: its weights are not installed.
    """
    if method not in METHODS:
        raise OptionError(None, f"'{method}' is not one of auto, {', '.join(METHODS)}", option="f0")
    if method != "swift":
        return find_asset(method, home)
    spec = importlib.util.find_spec("swift_f0")
    path = None if spec is None or spec.origin is None else Path(spec.origin).with_name("model.onnx")
    if path is None or not path.is_file():
        raise AssetMissingError(None, "SwiftF0 is not installed", "pip install swift-f0")
    return path


def load_estimator(method: str, path: Path, device: torch.device, threads: int | None = None) -> F0Estimator:
    """Load a method from the weights of `method_path`; SwiftF0 runs on the CPU, with `threads` or torch's number.

    Raises:
        CheckpointError: the weights can't be used.
    """
    if method == "rmvpe":
        from menura.f0.rmvpe import RmvpeEstimator

        return RmvpeEstimator.load(path, device)
    if method == "fcpe":
        from menura.f0.fcpe import FcpeEstimator

        return FcpeEstimator.load(path, device)
    from menura.f0.swift import SwiftEstimator

    return SwiftEstimator(threads=threads)
