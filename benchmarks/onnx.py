"""The decoder and HuBERT's linear layers in ONNX Runtime, for comparison. Menura itself doesn't run them so."""

from __future__ import annotations

import functools
import importlib.util
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from menura.models.synthesizer import Synthesizer

ONNX = "ONNX Runtime"
_OPSET = 17
_NEEDED = ("onnxruntime", "onnx")


class _Decode(nn.Module):
    """A latent and its excitation to sound, for a fixed speaker."""

    def __init__(self, network: Synthesizer, g: Tensor) -> None:
        super().__init__()
        self.network, self.g = network, g

    def forward(self, z: Tensor, source: Tensor | None = None) -> Tensor:
        with torch.enable_grad():  # torch's plain convolutions, not those laid out for its own CPU library
            return self.network.decode(z, self.g, source)


def why_not() -> str | None:
    """Why it can't be measured here, None if it can."""
    lacking = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    return f"{' and '.join(lacking)} not installed (pip install {' '.join(lacking)})" if lacking else None


def export_decoder(network: Synthesizer, z: Tensor, g: Tensor, source: Tensor | None, path: Path) -> str | None:
    """Write the decoder for inputs of these shapes.

    Returns:
        Why torch couldn't, None if it could.
    """
    inputs = {"z": z} if source is None else {"z": z, "source": source}
    problem = _export(_Decode(network, g), inputs, str(path))
    return problem and f"torch {torch.__version__} can't export the decoder ({problem})"


def _export(network: nn.Module, inputs: dict[str, Tensor], target: str | io.BytesIO) -> str | None:
    """What went wrong, None if nothing did."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        try:
            torch.onnx.export(
                network,
                tuple(inputs.values()),
                target,  # type: ignore[arg-type] # memory, too, with this exporter
                input_names=list(inputs),
                output_names=["made"],
                opset_version=_OPSET,
                dynamo=False,  # the newer exporter needs a package more
            )
        except Exception as error:  # noqa: BLE001  (exporters come and go with torch; why it failed is the finding)
            return " ".join(str(error).split())[:200]
    return None


def decoder_session(path: Path, z: Tensor, source: Tensor | None, threads: int) -> Callable[[], Tensor]:
    """The exported decoder, ready to run on these inputs.

    Returns:
        A call that gives (1, frames * frame_samples).
    """
    return _session(str(path), {"z": z} if source is None else {"z": z, "source": source}, threads)


def layers_session(layers: nn.Module, x: Tensor) -> Callable[[], Tensor] | None:
    """Layers that take one tensor, ready to run on this one with as many threads as torch has at each call.

    Returns:
        A call that gives their output; None where ONNX Runtime isn't there, or torch can't export them.
    """
    file = io.BytesIO()
    if why_not() is not None or _export(layers, {"x": x}, file) is not None:
        return None
    session = functools.cache(lambda threads: _session(file.getvalue(), {"x": x}, threads))
    return lambda: session(torch.get_num_threads())()


def _session(model: str | bytes, inputs: dict[str, Tensor], threads: int) -> Callable[[], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Its threads would go on spinning after a run, and slow whoever's turn comes next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
    return lambda: torch.from_numpy(session.run(None, feeds)[0])
