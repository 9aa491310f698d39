"""The networks that can be trained, by name: RVC's own sizes, and the starter pack's small one. Loads no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from menura.errors import OptionError
from menura.models.config import SynthesizerConfig

_UPSAMPLING: dict[tuple[str, int], tuple[tuple[int, ...], tuple[int, ...]]] = {
    ("v1", 32_000): ((10, 4, 2, 2, 2), (16, 16, 4, 4, 4)),
    ("v1", 40_000): ((10, 10, 2, 2), (16, 16, 4, 4)),
    ("v1", 48_000): ((10, 6, 2, 2, 2), (16, 16, 4, 4, 4)),
    ("v2", 24_000): ((10, 6, 2, 2), (20, 12, 4, 4)),
    ("v2", 32_000): ((10, 8, 2, 2), (20, 16, 4, 4)),
    ("v2", 40_000): ((10, 10, 2, 2), (16, 16, 4, 4)),
    ("v2", 48_000): ((12, 10, 2, 2), (24, 20, 4, 4)),
}
"""Rates and kernels of RVC's decoders; 24 kHz is Applio's."""
SOURCE_FILTER = "Source-filter"
"""Menura's own vocoder, by the name that its files give."""
MEL_BANDS = {24_000: 80, 32_000: 80, 40_000: 125, 48_000: 128}
"""Of the mel spectrogram that RVC's training compares."""


def rvc_config(
    version: str, sample_rate: int, n_speakers: int, *, content: str, has_f0: bool, vocoder: str
) -> SynthesizerConfig:
    """RVC's own architecture.

    Args:
        version: 'v1' (256 wide content) or 'v2' (768).
        sample_rate: Hz.
        n_speakers: at least 1.
        content: the content encoder's name.
        has_f0: whether the voice follows pitch.
        vocoder: by Applio's name.

    Raises:
        OptionError: RVC has no such size.
    """
    if (version, sample_rate) not in _UPSAMPLING:
        raise OptionError(f"sample_rate: RVC {version} has no {sample_rate // 1000}k; take 32k, 40k or 48k.")
    if not has_f0 and vocoder != "HiFi-GAN":
        raise OptionError(f"vocoder: {vocoder} needs F0; leave out --no-pitch or take HiFi-GAN.")
    rates, kernels = _UPSAMPLING[version, sample_rate]
    return SynthesizerConfig(
        spec_channels=513 if sample_rate <= 32_000 else 1025,
        segment_size_frames=36 if (version, sample_rate) in (("v2", 48_000), ("v2", 24_000)) else 32,
        inter_channels=192,
        hidden_channels=192,
        filter_channels=768,
        n_heads=2,
        n_layers=6,
        kernel_size=3,
        p_dropout=0.0,
        resblock="1",
        resblock_kernel_sizes=(3, 7, 11),
        resblock_dilation_sizes=((1, 3, 5), (1, 3, 5), (1, 3, 5)),
        upsample_rates=rates,
        upsample_initial_channel=512,
        upsample_kernel_sizes=kernels,
        n_speakers=n_speakers,
        gin_channels=256,
        sample_rate=sample_rate,
        content_dim=256 if version == "v1" else 768,
        version=version,
        has_f0=has_f0,
        vocoder=vocoder,
        content_encoder=content,
    )


def small_config(sample_rate: int, n_speakers: int) -> SynthesizerConfig:
    """The starter pack's architecture, an eighth of RVC's work, on the starter encoder's 384 wide content.

    Args:
        sample_rate: Hz.
        n_speakers: at least 1.
    """
    return SynthesizerConfig(
        spec_channels=513,
        segment_size_frames=100,
        inter_channels=192,
        hidden_channels=128,
        filter_channels=512,
        n_heads=2,
        n_layers=5,
        kernel_size=3,
        p_dropout=0.0,
        resblock="1",
        resblock_kernel_sizes=(7,) * 6,
        resblock_dilation_sizes=((1,),) * 6,
        upsample_rates=(2, sample_rate // 200),
        upsample_initial_channel=256,
        upsample_kernel_sizes=(4, sample_rate // 50),
        n_speakers=n_speakers,
        gin_channels=256,
        sample_rate=sample_rate,
        content_dim=384,
        version="v2",
        has_f0=True,
        vocoder=SOURCE_FILTER,
        content_encoder="menura-starter",
    )


_NUMBERS = (
    "inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers", "kernel_size",
    "upsample_initial_channel", "gin_channels",
)  # fmt: skip
_LISTS = ("resblock_kernel_sizes", "upsample_rates", "upsample_kernel_sizes")
_MOST_BYTES = 1 << 20
_CUT_FRAMES = (8, 200)
"""Shortest and longest cuts that training decodes."""


def resized(config: SynthesizerConfig, path: Path) -> SynthesizerConfig:
    """A network with the sizes of a config file as RVC's and Applio's training have them.

    Args:
        config: what is not in the file, and all that isn't a size (speakers, content, vocoder).
        path: JSON with `model`, and perhaps `data` (`filter_length`, `hop_length`, `sampling_rate`) and `train`
            (`segment_size`).

    Raises:
        OptionError: it can't be read, or is for another sample rate.
    """
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(_MOST_BYTES))
        model, data, train = (content.get(part, {}) for part in ("model", "data", "train"))
        sizes: dict[str, Any] = {name: _whole(model[name]) for name in _NUMBERS if name in model}
        sizes |= {name: tuple(map(_whole, model[name])) for name in _LISTS if name in model}
        if "resblock_dilation_sizes" in model:
            rows = model["resblock_dilation_sizes"]
            sizes["resblock_dilation_sizes"] = tuple(tuple(map(_whole, row)) for row in rows)
        if "resblock" in model:
            sizes["resblock"] = str(model["resblock"])
        sizes |= _frames(data, train, config.sample_rate)
    except (OSError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise OptionError(f"config: {path} can't be taken: {error}. Give a config file of RVC (JSON).") from error
    if not sizes:
        raise OptionError(f"config: {path} names no sizes ('model' is missing); give RVC's config file.")
    made = dataclasses.replace(config, **sizes)
    padding = made.spec_channels - 1 - made.sample_rate // 200
    shortest = max(_CUT_FRAMES[0], padding // (made.sample_rate // 100) + 1)
    if not shortest <= made.segment_size_frames <= _CUT_FRAMES[1] or padding < 0:
        raise OptionError(
            f"config: {path} has cuts (segment_size) of {made.segment_size_frames} frames and spectra of "
            f"{2 * made.spec_channels - 2} samples (filter_length): cuts must have {shortest} to {_CUT_FRAMES[1]} "
            "frames, spectra at least one frame's samples."
        )
    return made


def _frames(data: Mapping[str, Any], train: Mapping[str, Any], sample_rate: int) -> dict[str, Any]:
    """Sizes that the file gives in samples."""
    rate = _whole(data.get("sampling_rate", data.get("sample_rate", sample_rate)))
    if rate != sample_rate:
        raise ValueError(f"it is for {rate} Hz, the voice has {sample_rate} (--sample-rate)")
    hop = _whole(data.get("hop_length", rate // 100))
    if hop * 100 != rate:
        raise ValueError(f"a hop_length of {hop} isn't 10 ms, {rate // 100}")
    sizes = {}
    if "filter_length" in data:
        size = _whole(data["filter_length"])
        if size % 2:
            raise ValueError(f"a filter_length of {size} is odd")
        sizes["spec_channels"] = size // 2 + 1
    if "segment_size" in train:
        sizes["segment_size_frames"] = _whole(train["segment_size"]) // hop
    return sizes


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise ValueError(f"{value!r} is no whole number")
    return int(value)
