"""Sizes of a network from a config file as RVC's and Applio's training have them. Loads no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from menura.errors import OptionError
from menura.models.config import SynthesizerConfig
from menura.system.files import read_json

_NUMBERS = (
    "inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers", "kernel_size",
    "upsample_initial_channel", "gin_channels",
)  # fmt: skip
_LISTS = ("resblock_kernel_sizes", "upsample_rates", "upsample_kernel_sizes")
_CROP_FRAMES = (8, 200)
"""Shortest and longest crops that training decodes."""


def resized(config: SynthesizerConfig, path: Path) -> SynthesizerConfig:
    """A network with a config file's sizes.

    Args:
        config: what is not in the file, and all that isn't a size (speakers, content, vocoder).
        path: JSON with `model`, and perhaps `data` (`filter_length`, `hop_length`, `sampling_rate`) and `train`
            (`segment_size`).
    """
    try:
        content: Any = read_json(path)
        sizes = _sizes(content, config.sample_rate)
    except OSError as error:
        raise _error(path, f"can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise _error(path, str(error)) from error
    except (TypeError, AttributeError, OverflowError) as error:
        raise _error(path, "isn't a config of RVC") from error
    if not sizes:
        raise _error(path, "has no sizes ('model' is missing)")
    network = dataclasses.replace(config, **sizes)
    _check_crops(network, path)
    return network


def _check_crops(network: SynthesizerConfig, path: Path) -> None:
    padding = network.spec_channels - 1 - network.sample_rate // 200
    shortest = max(_CROP_FRAMES[0], padding // (network.sample_rate // 100) + 1)
    if padding < 0:
        raise _error(path, f"has a filter_length of {2 * network.spec_channels - 2}, shorter than a frame")
    if not shortest <= network.segment_size_frames <= _CROP_FRAMES[1]:
        raise _error(
            path,
            f"has a segment_size of {network.segment_size_frames} frames, outside {shortest} to {_CROP_FRAMES[1]}",
        )


def _error(path: Path, problem: str) -> OptionError:
    return OptionError(path, problem, "Give {config} a config file of RVC (JSON)", "config")


def _sizes(content: Any, sample_rate: int) -> dict[str, Any]:
    model, data, train = (content.get(part, {}) for part in ("model", "data", "train"))
    sizes: dict[str, Any] = {name: _whole(model[name]) for name in _NUMBERS if name in model}
    sizes |= {name: tuple(map(_whole, model[name])) for name in _LISTS if name in model}
    if "resblock_dilation_sizes" in model:
        sizes["resblock_dilation_sizes"] = tuple(tuple(map(_whole, row)) for row in model["resblock_dilation_sizes"])
    if "resblock" in model:
        sizes["resblock"] = str(model["resblock"])
    return sizes | _frames(data, train, sample_rate)


def _frames(data: Mapping[str, Any], train: Mapping[str, Any], sample_rate: int) -> dict[str, int]:
    """Sizes that the file gives in samples."""
    rate = _whole(data.get("sampling_rate", data.get("sample_rate", sample_rate)))
    if rate != sample_rate:
        raise ValueError(f"is for {rate} Hz, the voice has {sample_rate} Hz")
    hop = _whole(data.get("hop_length", rate // 100))
    if hop * 100 != rate:
        raise ValueError(f"has a hop_length of {hop}, not of 10 ms ({rate // 100})")
    sizes = {}
    if "filter_length" in data:
        size = _whole(data["filter_length"])
        if size % 2:
            raise ValueError(f"has an odd filter_length ({size})")
        sizes["spec_channels"] = size // 2 + 1
    if "segment_size" in train:
        sizes["segment_size_frames"] = _whole(train["segment_size"]) // hop
    return sizes


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise ValueError(f"has {value!r} in place of a whole number")
    return int(value)
