"""From options to an experiment's settings: which network, which schedule. Loads no torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from menura.content.registry import STARTER, content_dim
from menura.errors import OptionError
from menura.models.config import RVC_UPSAMPLING, SOURCE_FILTER, SynthesizerConfig, rvc_config, small_config
from menura.options import TRAINING_RATES, RunOptions, TrainingOptions
from menura.system.files import read_json
from menura.train.experiment.settings import FILTER_WEIGHTS, RVC_WEIGHTS, DataSettings, Experiment, Schedule

_SAVE_EVERY_STEPS = 500
_VALIDATION_SHARE = 0.05
_NUMBERS = (
    "inter_channels", "hidden_channels", "filter_channels", "n_heads", "n_layers", "kernel_size",
    "upsample_initial_channel", "gin_channels",
)  # fmt: skip
_LISTS = ("resblock_kernel_sizes", "upsample_rates", "upsample_kernel_sizes")
_FEWEST_CROP_FRAMES, _MOST_CROP_FRAMES = 8, 200
"""Shortest and longest crops that training decodes."""


def network(options: TrainingOptions, n_speakers: int) -> SynthesizerConfig:
    """The network that the options ask for.

    Raises:
        OptionError: options that don't go together, or sizes that make no network.
    """
    size, rate = options.size, TRAINING_RATES[options.sample_rate]
    if size == "auto":
        size = "small" if options.content == STARTER else "v2"
    _check_together(options, size)
    if size == "small":
        config = small_config(rate, n_speakers)
    else:
        vocoder = "HiFi-GAN" if options.vocoder == "auto" else options.vocoder
        config = rvc_config(size, rate, n_speakers, content=options.content, has_f0=options.pitch, vocoder=vocoder)
    dim = content_dim(options.content, size)
    config = dataclasses.replace(config, content_encoder=options.content, content_dim=dim)
    return config if options.config is None else _resized(config, options.config)


def _check_together(options: TrainingOptions, size: str) -> None:
    small, vocoder, pitch = size == "small", options.vocoder, options.pitch
    only = f"the small network is trained with {SOURCE_FILTER} only, not with {vocoder}"
    leave_out = "Leave out {vocoder}, or take RVC's network with {size=v2}"
    unknown = not small and (size, TRAINING_RATES[options.sample_rate]) not in RVC_UPSAMPLING
    v1_needs = f"v1 needs 256-dimensional content; {STARTER} has 384"
    theirs = f"{SOURCE_FILTER} is the vocoder of the small network"
    with_pitch = "Use {pitch=true}, or leave out {vocoder}"
    for wrong, problem, advice, option in (
        (size == "v1" and options.content == STARTER, v1_needs, "Take v2 or small", "size"),
        (small and vocoder not in ("auto", SOURCE_FILTER), only, leave_out, "vocoder"),
        (small and not pitch, "the small network needs pitch", "Take {size=v2} for a voice without", "pitch"),
        (not small and vocoder == SOURCE_FILTER, theirs, "Take {size=small}", "vocoder"),
        (unknown, f"RVC {size} has no {options.sample_rate}", "Take 32k, 40k or 48k", "sample_rate"),
        (not pitch and vocoder not in ("auto", "HiFi-GAN"), f"{vocoder} needs pitch", with_pitch, "vocoder"),
    ):
        if wrong:
            raise OptionError(None, problem, advice, option)


def _resized(config: SynthesizerConfig, path: Path) -> SynthesizerConfig:
    """With the sizes of a config file as RVC's and Applio's training have them: JSON with `model`, `data`, `train`."""
    try:
        made = dataclasses.replace(config, **_sizes(read_json(path), config.sample_rate))
        _check_crops(made)
    except (OSError, ValueError, TypeError, AttributeError, OverflowError) as error:
        problem = str(error) if isinstance(error, ValueError) else "isn't a config of RVC"
        if isinstance(error, OSError):
            problem = f"can't be read: {error.strerror or error}"
        raise OptionError(path, problem, "Give {config} a config file of RVC (JSON)", "config") from error
    return made


def _sizes(content: Any, sample_rate: int) -> dict[str, Any]:
    model, data, train = (content.get(part, {}) for part in ("model", "data", "train"))
    sizes: dict[str, Any] = {name: _whole(model[name]) for name in _NUMBERS if name in model}
    sizes |= {name: tuple(map(_whole, model[name])) for name in _LISTS if name in model}
    if "resblock_dilation_sizes" in model:
        sizes["resblock_dilation_sizes"] = tuple(tuple(map(_whole, row)) for row in model["resblock_dilation_sizes"])
    if "resblock" in model:
        sizes["resblock"] = str(model["resblock"])
    rate = _whole(data.get("sampling_rate", data.get("sample_rate", sample_rate)))
    if rate != sample_rate:
        raise ValueError(f"is for {rate} Hz, the voice has {sample_rate} Hz")
    hop = _whole(data.get("hop_length", rate // 100))
    if hop * 100 != rate:
        raise ValueError(f"has a hop_length of {hop}, not of 10 ms ({rate // 100})")
    if (window := _whole(data.get("filter_length", 0))) % 2:
        raise ValueError(f"has an odd filter_length ({window})")
    if "filter_length" in data:
        sizes["spec_channels"] = window // 2 + 1
    if "segment_size" in train:
        sizes["segment_size_frames"] = _whole(train["segment_size"]) // hop
    if not sizes:
        raise ValueError("has no sizes ('model' is missing)")
    return sizes


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise ValueError(f"has {value!r} in place of a whole number")
    return int(value)


def _check_crops(config: SynthesizerConfig) -> None:
    window, frames = 2 * config.spec_channels - 2, config.segment_size_frames
    padding = config.spec_channels - 1 - config.sample_rate // 200
    if padding < 0:
        raise ValueError(f"has a filter_length of {window}, shorter than a frame")
    shortest = max(_FEWEST_CROP_FRAMES, padding // (config.sample_rate // 100) + 1)
    if not shortest <= frames <= _MOST_CROP_FRAMES:
        raise ValueError(f"has a segment_size of {frames} frames, outside {shortest} to {_MOST_CROP_FRAMES}")


def experiment_of(
    options: TrainingOptions, config: SynthesizerConfig, speakers: tuple[str, ...], *, dataset: Path, rights: str
) -> Experiment:
    small = config.vocoder == SOURCE_FILTER
    return Experiment(
        synthesizer=config,
        speakers=speakers,
        objective="direct" if small else "vits",
        seed=options.seed,
        precision=options.precision,
        weights=FILTER_WEIGHTS if small else RVC_WEIGHTS,
        schedule=_schedule(options, small=small),
        gradient_checkpointing=options.gradient_checkpointing,
        data=DataSettings(
            dataset=str(dataset.resolve()),
            by_folder=len(speakers) > 1,
            rights=rights,
            f0=options.f0,
            slicing=options.slicing,
            slice_s=options.slice_length,
            overlap_s=options.overlap,
            loudness=options.loudness,
            high_pass=options.high_pass,
            denoise=options.denoise,
            perturbed=2 if small else 0,
            held_out=_VALIDATION_SHARE,
        ),
    )


def _schedule(options: TrainingOptions, *, small: bool) -> Schedule:
    rate = options.learning_rate or (5e-4 if small else 1e-4)
    steps = options.steps or (3_000 if small else 10_000)
    base = Schedule() if small else Schedule(row_frames=300, gan_from_step=0, max_gradient=1000.0)
    return dataclasses.replace(
        base,
        steps=steps,
        batch_size=options.batch_size,
        learning_rate=rate,
        final_learning_rate=rate / (10 if small else 2),
        warmup_steps=min(300, steps // 10) if small else 0,
        discriminator_learning_rate=2e-4 if small else min(rate, 2e-4),
        save_every_steps=min(_SAVE_EVERY_STEPS, steps),
        log_every_steps=min(25, steps),
        keep_last=options.keep,
        evaluate_every_steps=min(_SAVE_EVERY_STEPS, steps),
        patience=options.patience or None,
    )


def changed(experiment: Experiment, options: RunOptions) -> Experiment:
    before, data, rate = experiment.schedule, experiment.data, options.learning_rate
    schedule = dataclasses.replace(
        before,
        steps=options.steps or before.steps,
        batch_size=options.batch_size or before.batch_size,
        patience=before.patience if options.patience is None else options.patience or None,
    )
    if rate:
        final = rate * before.final_learning_rate / before.learning_rate
        schedule = dataclasses.replace(schedule, learning_rate=rate, final_learning_rate=final)
    if options.dataset is not None:
        data = dataclasses.replace(data, dataset=str(options.dataset.resolve()))
    precision = options.precision or experiment.precision
    return dataclasses.replace(experiment, schedule=schedule, precision=precision, data=data)
