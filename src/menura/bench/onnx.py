"""The decoder in ONNX Runtime, for comparison. Menura itself doesn't run it so."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from menura.models.synthesizer import Synthesizer

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
    inputs = (z,) if source is None else (z, source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        try:
            torch.onnx.export(
                _Decode(network, g),
                inputs,
                str(path),
                input_names=["z", "source"][: len(inputs)],
                output_names=["sound"],
                opset_version=_OPSET,
                dynamo=False,  # the newer exporter needs a package more
            )
        except Exception as error:  # noqa: BLE001  (exporters come and go with torch; why it failed is the finding)
            return f"torch {torch.__version__} can't export the decoder ({' '.join(str(error).split())[:200]})"
    return None


def decoder_session(path: Path, z: Tensor, source: Tensor | None, threads: int) -> Callable[[], Tensor]:
    """The exported decoder, ready to run on these inputs.

    Returns:
        A call that gives (1, frames * frame_samples).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {"z": z.numpy()} if source is None else {"z": z.numpy(), "source": source.numpy()}
    return lambda: torch.from_numpy(session.run(None, feeds)[0])
