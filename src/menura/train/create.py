"""A new experiment: its settings from options, and everything checked that would stop it later."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from menura.checkpoints.voice import check_config, config_problem
from menura.errors import MenuraError, OptionError, TrainingError
from menura.f0.registry import resolve_method
from menura.models.config import SynthesizerConfig
from menura.models.sizes import SOURCE_FILTER, resized, rvc_config, small_config
from menura.options import DEFAULT_VOICE, TRAINING_RATES, RunOptions, TrainingOptions
from menura.system.files import replacing
from menura.train.folders import BEGIN
from menura.train.networks import check_warm_start
from menura.train.precision import fastest_precision
from menura.train.recordings import ADVISED_S, DatasetFacts, find_recordings, speakers_of, survey_dataset
from menura.train.room import check_room
from menura.train.spec import (
    DIRECT_WEIGHTS,
    EXPERIMENT_FILE,
    FILTER_WEIGHTS,
    ContentMix,
    DataSettings,
    Experiment,
    LossWeights,
    Schedule,
    WarmStart,
    save_experiment,
)
from menura.train.work import STARTER
from menura.voices.assets import find_asset
from menura.voices.library import find_voice

SMALL = "small"
_HELD_OUT = 0.05
_SAVE_EVERY = 500
_LOG_EVERY = 25
_PRETRAINED = "https://huggingface.co/lj1995/VoiceConversionWebUI/resolve/main"
_RANDOM = "Training begins with random weights: --pretrained-g and --pretrained-d give others."


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    """A new experiment and what is to be told of it."""

    experiment: Experiment
    facts: DatasetFacts
    notes: tuple[str, ...]


def create_experiment(folder: Path, *, dataset: Path, rights: str, options: TrainingOptions, home: Path) -> Created:
    """Check everything and write `experiment.json`.

    Args:
        folder: of the experiment; made if needed.
        dataset: folder of recordings.
        rights: who recorded them and what allows their use.
        options: all else.
        home: Menura's data folder.

    Raises:
        TrainingError: there is an experiment already, or the data are missing or too little.
        AssetMissingError: a network's weights are not installed.
        ResourceError: the disk is too small.
        OptionError: options that don't go together.
        CheckpointError, UnsafeCheckpointError: the weights to begin with can't be read.
    """
    if (folder / EXPERIMENT_FILE).exists():
        raise TrainingError(f"{folder}: there is an experiment already; choose another name.")
    if not rights.strip():
        raise OptionError(
            "rights: say who recorded the data and what allows their use; it is kept in the voice's card."
        )
    speakers = speakers_of(dataset, folder.resolve().name)
    config = _network(options, len(speakers))
    if config.content_encoder != STARTER:
        _check_encoder(config.content_encoder, home)
    warm, notes = _warm_start(options, config, home)
    experiment = _experiment(options, config, speakers, warm, rights=rights, dataset=dataset, home=home)
    recordings = find_recordings(dataset, speakers, by_folder=experiment.data.by_folder)
    facts = survey_dataset(recordings, config.sample_rate)
    copied = sum(Path(path).stat().st_size for path in (warm.generator, warm.discriminator) if path)
    check_room(folder, experiment, seconds=facts.total_s, copied_bytes=copied)
    check_warm_start(folder, experiment)
    experiment = dataclasses.replace(experiment, warm_start=_kept(folder, warm))
    save_experiment(folder, experiment)
    return Created(experiment=experiment, facts=facts, notes=(*_data_notes(facts, config), *notes))


def _kept(folder: Path, warm: WarmStart) -> WarmStart:
    """With copies of the files in the experiment's folder, which can so be moved before training has begun."""
    kept = {}
    for kind in ("generator", "discriminator"):
        if source := getattr(warm, kind):
            name = f"{BEGIN}/{kind}{Path(source).suffix}"
            with replacing(folder / name) as partial:
                shutil.copyfile(source, partial)
            kept[kind] = name
    return WarmStart(**kept, origin=warm.origin or Path(warm.generator).name)


def _size(options: TrainingOptions) -> str:
    if options.size == "auto":
        return SMALL if options.content == STARTER else "v2"
    return options.size


def _network(options: TrainingOptions, n_speakers: int) -> SynthesizerConfig:
    size = _size(options)
    if size == "v1" and options.content == STARTER:
        raise OptionError("size: v1 takes contentvec's 256 wide vectors; menura-starter has 384. Take v2 or small.")
    rate, vocoder = TRAINING_RATES[options.sample_rate], options.vocoder
    if size == SMALL:
        config = small_config(rate, n_speakers, vocoder=SOURCE_FILTER if vocoder == "auto" else vocoder)
        if not options.pitch:
            raise OptionError("size: small follows pitch; for a voice that doesn't take v2.")
    elif vocoder == SOURCE_FILTER:
        raise OptionError("vocoder: Source-filter is for --size small.")
    else:
        vocoder = "HiFi-GAN" if vocoder == "auto" else vocoder
        config = rvc_config(size, rate, n_speakers, content=options.content, has_f0=options.pitch, vocoder=vocoder)
    dim = 384 if options.content == STARTER else 256 if size == "v1" else 768
    config = dataclasses.replace(config, content_encoder=options.content, content_dim=dim)
    if options.config is not None:
        config = resized(config, options.config)
        if problem := config_problem(config):
            raise OptionError(f"config: with {options.config} the network has {problem}; change its sizes.")
    check_config(Path("the experiment"), config)
    return config


def _check_encoder(name: str, home: Path) -> None:
    try:
        find_asset(name, home)
    except MenuraError as error:
        raise type(error)(
            f"{error} Or take --content menura-starter, which needs no download (such voices run in Menura only)."
        ) from error


def _experiment(
    options: TrainingOptions,
    config: SynthesizerConfig,
    speakers: tuple[str, ...],
    warm: WarmStart,
    *,
    rights: str,
    dataset: Path,
    home: Path,
) -> Experiment:
    direct = _size(options) == SMALL
    data = DataSettings(
        dataset=str(dataset.resolve()),
        by_folder=len(speakers) > 1,
        rights=rights.strip(),
        f0=resolve_method(options.f0, home),
        slicing=options.slicing,
        slice_s=options.slice_length,
        overlap_s=options.overlap,
        loudness=options.loudness,
        high_pass=options.high_pass,
        denoise=options.denoise,
        perturbed=2 if direct else 0,
        held_out=_HELD_OUT,
    )
    filters = config.vocoder == SOURCE_FILTER
    rate = options.learning_rate or (5e-4 if filters else 4e-4 if direct else 1e-4)
    steps = options.steps or (3_000 if filters else 10_000)
    schedule = Schedule(
        steps=steps,
        batch_size=options.batch_size,
        row_frames=200 if direct else 300,
        learning_rate=rate,
        final_learning_rate=rate / (10 if filters else 4 if direct else 2),
        warmup_steps=min(300, steps // 10) if direct else 0,
        gan_from_step=None if filters else steps // 2 if direct else 0,
        discriminators_alone_steps=min(350, steps // 20) if direct and not filters else 0,
        discriminator_learning_rate=2 * rate if direct else min(rate, 2e-4),
        discriminator_every=2 if direct else 1,
        save_every_steps=min(_SAVE_EVERY, steps),
        log_every_steps=min(_LOG_EVERY, steps),
        keep_last=options.keep,
        evaluate_every_steps=min(_SAVE_EVERY, steps),
        patience=options.patience or None,
        max_gradient=5.0 if direct else 1000.0,
    )
    return Experiment(
        synthesizer=config,
        speakers=speakers,
        objective="direct" if direct else "vits",
        seed=options.seed,
        precision=_precision(options.precision),
        weights=_loss_weights(config, direct=direct),
        schedule=schedule,
        mix=ContentMix(),
        discriminators="small" if direct else "rvc",
        gradient_checkpointing=options.gradient_checkpointing,
        data=data,
        warm_start=warm,
    )


def _loss_weights(config: SynthesizerConfig, *, direct: bool) -> LossWeights:
    if not direct:
        return LossWeights(log_spectrum=0.0, convergence=0.0, mel=45.0, kl=1.0)
    return FILTER_WEIGHTS if config.vocoder == SOURCE_FILTER else DIRECT_WEIGHTS


def _precision(asked: str) -> str:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return fastest_precision(device) if asked == "auto" else asked


def _warm_start(options: TrainingOptions, config: SynthesizerConfig, home: Path) -> tuple[WarmStart, tuple[str, ...]]:
    if options.pretrained_g is not None:
        chosen = WarmStart(
            generator=str(options.pretrained_g.resolve()),
            discriminator=str(options.pretrained_d.resolve()) if options.pretrained_d else "",
        )
        for path in filter(None, (chosen.generator, chosen.discriminator)):
            if not Path(path).is_file():
                raise OptionError(f"pretrained: {path} is no file; check the path.")
        return chosen, ()
    if options.base not in ("auto", "none"):
        return _from_voice(options.base, home), ()
    if options.base == "none":
        return WarmStart(), ()
    if options.config is not None and config != _network(dataclasses.replace(options, config=None), config.n_speakers):
        return WarmStart(), (_RANDOM,)  # nothing is pretrained for other sizes
    if config.content_encoder == STARTER and config.vocoder == SOURCE_FILTER:
        return _from_voice(DEFAULT_VOICE, home), ()
    return _pretrained(config, home)


def _from_voice(name: str, home: Path) -> WarmStart:
    voice = find_voice(name, home)
    return WarmStart(generator=str(voice.path.resolve()), origin=voice.name)


def _pretrained(config: SynthesizerConfig, home: Path) -> tuple[WarmStart, tuple[str, ...]]:
    """RVC's pretrained files where they are installed, or where they come from."""
    part = "pretrained" if config.version == "v1" else "pretrained_v2"
    suffix = f"{config.sample_rate // 1000}k.pth"
    names = [f"{'f0' if config.has_f0 else ''}{kind}{suffix}" for kind in "GD"]
    paths = [home / "assets" / part / name for name in names]
    if config.vocoder != "HiFi-GAN" or config.content_encoder != "contentvec" or config.sample_rate < 32_000:
        return WarmStart(), (_RANDOM,)
    if all(path.is_file() for path in paths):
        return WarmStart(generator=str(paths[0]), discriminator=str(paths[1])), (f"Begins with {part}/{names[0]}.",)
    return WarmStart(), (
        "Training begins with random weights, which takes hours of recordings and days on a GPU. Better fetch "
        f"{_PRETRAINED}/{part}/{names[0]} and {names[1]}, put them into {paths[0].parent}, and make the experiment "
        "again.",
    )


def _data_notes(facts: DatasetFacts, config: SynthesizerConfig) -> list[str]:
    notes = [f"left out: {line}" for line in facts.unreadable]
    if facts.total_s < ADVISED_S:
        notes.append(f"{facts.total_s / 60:.1f} minutes are little; ten or more make a better voice.")
    if facts.low_rate:
        advice = "; a lower --sample-rate fits them better" if config.sample_rate > min(TRAINING_RATES.values()) else ""
        notes.append(
            f"{len(facts.low_rate)} recordings have a lower rate than the voice's {config.sample_rate} Hz and will "
            f"lack its highest sounds (the first: {facts.low_rate[0]}){advice}."
        )
    return notes


def changed(experiment: Experiment, options: RunOptions) -> Experiment:
    """The experiment as a run's options want it."""
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
