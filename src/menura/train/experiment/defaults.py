"""From options to an experiment's settings: which network, which schedule. Loads no torch."""

from __future__ import annotations

import dataclasses
from typing import Any

from menura.content.registry import STARTER, content_dim
from menura.errors import OptionError
from menura.models.config import SynthesizerConfig
from menura.models.sizes import RVC_UPSAMPLING, SOURCE_FILTER, rvc_config, small_config
from menura.options import TRAINING_RATES, RunOptions, TrainingOptions
from menura.train.experiment.config_file import resized
from menura.train.experiment.settings import (
    FILTER_WEIGHTS,
    RVC_WEIGHTS,
    DataSettings,
    Experiment,
    Schedule,
)

SMALL = "small"
_VALIDATION_SHARE = 0.05
_SAVE_EVERY_STEPS = 500
_LOG_EVERY_STEPS = 25


def network(options: TrainingOptions, n_speakers: int) -> SynthesizerConfig:
    """The network that the options ask for.

    Raises:
        OptionError: options that don't go together, or sizes that make no network.
    """
    size = options.size
    if size == "auto":
        size = SMALL if options.content == STARTER else "v2"
    if size == "v1" and options.content == STARTER:
        raise OptionError(None, f"v1 needs 256-dimensional content; {STARTER} has 384", "Take v2 or small", "size")
    rate = TRAINING_RATES[options.sample_rate]
    if size == SMALL:
        _check_small(options)
        config = small_config(rate, n_speakers)
    elif options.vocoder == SOURCE_FILTER:
        raise OptionError(None, f"{SOURCE_FILTER} is the vocoder of the small network", "Take {size=small}", "vocoder")
    else:
        _check_rvc(options, size)
        vocoder = "HiFi-GAN" if options.vocoder == "auto" else options.vocoder
        config = rvc_config(size, rate, n_speakers, content=options.content, has_f0=options.pitch, vocoder=vocoder)
    dim = content_dim(options.content, size)
    config = dataclasses.replace(config, content_encoder=options.content, content_dim=dim)
    return config if options.config is None else resized(config, options.config)


def _check_rvc(options: TrainingOptions, version: str) -> None:
    if (version, TRAINING_RATES[options.sample_rate]) not in RVC_UPSAMPLING:
        raise OptionError(None, f"RVC {version} has no {options.sample_rate}", "Take 32k, 40k or 48k", "sample_rate")
    if not options.pitch and options.vocoder not in ("auto", "HiFi-GAN"):
        raise OptionError(None, f"{options.vocoder} needs pitch", "Use {pitch=true}, or leave out {vocoder}", "vocoder")


def _check_small(options: TrainingOptions) -> None:
    if options.vocoder not in ("auto", SOURCE_FILTER):
        raise OptionError(
            None,
            f"the small network is trained with {SOURCE_FILTER} only, not with {options.vocoder}",
            "Leave out {vocoder}, or take RVC's network with {size=v2}",
            "vocoder",
        )
    if not options.pitch:
        raise OptionError(None, "the small network needs pitch", "Take {size=v2} for a voice without", "pitch")


def experiment_of(
    options: TrainingOptions,
    config: SynthesizerConfig,
    speakers: tuple[str, ...],
    data: DataSettings,
    *,
    precision: str,
) -> Experiment:
    small = config.vocoder == SOURCE_FILTER
    return Experiment(
        synthesizer=config,
        speakers=speakers,
        objective="direct" if small else "vits",
        seed=options.seed,
        precision=precision,
        weights=FILTER_WEIGHTS if small else RVC_WEIGHTS,
        schedule=_schedule(options, small=small),
        gradient_checkpointing=options.gradient_checkpointing,
        data=dataclasses.replace(
            data,
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
    common = Schedule(
        steps=steps,
        batch_size=options.batch_size,
        learning_rate=rate,
        save_every_steps=min(_SAVE_EVERY_STEPS, steps),
        log_every_steps=min(_LOG_EVERY_STEPS, steps),
        keep_last=options.keep,
        evaluate_every_steps=min(_SAVE_EVERY_STEPS, steps),
        patience=options.patience or None,
    )
    if small:
        return dataclasses.replace(common, final_learning_rate=rate / 10, warmup_steps=min(300, steps // 10))
    return dataclasses.replace(
        common,
        row_frames=300,
        final_learning_rate=rate / 2,
        warmup_steps=0,
        gan_from_step=0,
        discriminator_learning_rate=min(rate, 2e-4),
        max_gradient=1000.0,
    )


def changed(experiment: Experiment, options: RunOptions) -> Experiment:
    schedule = experiment.schedule
    rate = options.learning_rate
    schedule = dataclasses.replace(
        schedule,
        steps=options.steps or schedule.steps,
        batch_size=options.batch_size or schedule.batch_size,
        patience=schedule.patience if options.patience is None else options.patience or None,
        learning_rate=rate or schedule.learning_rate,
        final_learning_rate=(
            rate * schedule.final_learning_rate / schedule.learning_rate if rate else schedule.final_learning_rate
        ),
    )
    changes: dict[str, Any] = {"schedule": schedule, "precision": options.precision or experiment.precision}
    if options.dataset is not None:
        changes["data"] = dataclasses.replace(experiment.data, dataset=str(options.dataset.resolve()))
    return dataclasses.replace(experiment, **changes)
