"""A new experiment: everything that would stop it later is checked now."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from menura.checkpoints.voice import check_config, config_problem, load_voice, save_voice, weights_bytes
from menura.content.registry import STARTER, encoder_path
from menura.errors import ErrorDetails, MenuraError, OptionError, TrainingError
from menura.f0.registry import resolve_method
from menura.models.config import SOURCE_FILTER, SynthesizerConfig
from menura.options import DEFAULT_VOICE, TRAINING_RATES, TrainingOptions
from menura.system.device import resolve_device
from menura.system.files import replacing
from menura.train.data.recordings import ADVISED_S, DatasetFacts, find_recordings, speakers_of, survey_dataset
from menura.train.experiment.defaults import experiment_of, network
from menura.train.experiment.folder import BEGIN
from menura.train.experiment.settings import EXPERIMENT_FILE, Experiment, WarmStart, save_experiment
from menura.train.learning.checkpoint import check_disk_space
from menura.train.learning.networks import check_warm_start
from menura.train.learning.stepper import fastest_precision
from menura.voices.assets import catalogue
from menura.voices.library import find_voice

_PRETRAINED = "https://huggingface.co/lj1995/VoiceConversionWebUI/resolve/main"
"""Of those that the catalogue lacks: RVC's v1, and voices that follow no pitch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Created:
    experiment: Experiment
    facts: DatasetFacts
    notes: tuple[ErrorDetails, ...]


def create_experiment(
    folder: Path,
    *,
    dataset: Path,
    rights: str,
    options: TrainingOptions,
    home: Path,
    adapted: Callable[[Experiment], Experiment] = lambda made: made,
) -> Created:
    """Check everything and write `experiment.json`, `adapted` in what isn't an option.

    Raises:
        TrainingError: there is an experiment already, or the data are missing or too little.
        AssetMissingError: a network's weights are not installed.
        ResourceError: the disk is too small.
        OptionError: options that don't go together.
        CheckpointError, UnsafeCheckpointError: the weights to begin with can't be read.
    """
    if (folder / EXPERIMENT_FILE).exists():
        advice = "Take another name, or delete it with 'menura train remove'"
        raise TrainingError(folder, "an experiment with this name exists", advice)
    if not (rights := rights.strip()):
        advice = "Say who made the recordings and what allows their use: it is kept in the voice"
        raise OptionError(None, "empty", advice, "rights")
    speakers = speakers_of(dataset, folder.resolve().name)
    config = checked_network(options, len(speakers))
    _check_encoder(config.content_encoder, home)
    warm, notes = warm_start(options, config, home)
    options = dataclasses.replace(options, f0=resolve_method(options.f0, home))
    if options.precision == "auto":
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        options = dataclasses.replace(options, precision=fastest_precision(device))
    experiment = experiment_of(options, config, speakers, dataset=dataset, rights=rights)
    experiment = adapted(dataclasses.replace(experiment, warm_start=warm))
    facts = survey_dataset(find_recordings(dataset, speakers, by_folder=experiment.data.by_folder), config.sample_rate)
    copied_bytes = sum(_copied_bytes(Path(path)) for path in (warm.generator, warm.discriminator) if path)
    check_disk_space(folder, experiment, seconds=facts.total_s, copied_bytes=copied_bytes)
    check_warm_start(folder, experiment)
    experiment = dataclasses.replace(experiment, warm_start=_copied(folder, warm))
    save_experiment(folder, experiment)
    notes = (*_data_notes(facts, experiment), *notes, *slow_device_note(experiment, resolve_device("auto")))
    return Created(experiment=experiment, facts=facts, notes=notes)


def checked_network(options: TrainingOptions, n_speakers: int) -> SynthesizerConfig:
    config = network(options, n_speakers)
    if options.config is not None and (problem := config_problem(config)):
        raise OptionError(str(options.config), f"the network would have {problem}", "Change the sizes", "config")
    check_config(Path("the experiment"), config)
    return config


def _check_encoder(name: str, home: Path) -> None:
    try:
        encoder_path(name, home)
    except MenuraError as error:
        other = "Or take {content=menura-starter}, which needs no download (such voices run in Menura only)"
        advice = f"{error.advice.rstrip('.')}. {other}" if error.advice else other
        raise type(error)(error.subject, error.problem, advice, error.option) from error


def warm_start(
    options: TrainingOptions, config: SynthesizerConfig, home: Path
) -> tuple[WarmStart, tuple[ErrorDetails, ...]]:
    g, d, base = options.pretrained_g, options.pretrained_d, options.base
    if g is not None:
        for path, option in ((g, "pretrained_g"), (d, "pretrained_d")):
            if path is not None and not path.is_file():
                raise OptionError(str(path), "no such file", option=option)
        return WarmStart(generator=str(g.resolve()), discriminator=str(d.resolve()) if d else ""), ()
    if base == "none":
        return WarmStart(), ()
    usual = options.config is None or config == network(dataclasses.replace(options, config=None), config.n_speakers)
    if base == "auto" and usual and config.content_encoder == STARTER and config.vocoder == SOURCE_FILTER:
        base = DEFAULT_VOICE
    if base != "auto":
        voice = find_voice(base, home)
        return WarmStart(generator=str(voice.path.resolve()), origin=voice.name), ()
    rvcs = config.vocoder == "HiFi-GAN" and config.content_encoder == "contentvec" and config.sample_rate >= 32_000
    if not usual or not rvcs:  # nothing is pretrained for other sizes
        others = "{pretrained_g} and {pretrained_d} give others"
        return WarmStart(), (_note("training starts from random weights", others),)
    return _pretrained(config, home)


def _pretrained(config: SynthesizerConfig, home: Path) -> tuple[WarmStart, tuple[ErrorDetails, ...]]:
    """RVC's pretrained files where they are installed, or where they come from."""
    part = "pretrained" if config.version == "v1" else "pretrained_v2"
    names = [f"{'f0' if config.has_f0 else ''}{kind}{config.sample_rate // 1000}k.pth" for kind in "GD"]
    paths = [home / "assets" / part / name for name in names]
    if all(path.is_file() for path in paths):
        note = _note(f"training starts from {part}/{names[0]}")
        return WarmStart(generator=str(paths[0]), discriminator=str(paths[1])), (note,)
    wanted = [f"{part}/{name}" for name in names]
    known = next((asset.name for asset in catalogue().values() if [file.path for file in asset.files] == wanted), None)
    how = (
        f"run 'menura assets fetch {known}'"
        if known
        else (f"fetch {_PRETRAINED}/{wanted[0]} and {names[1]}, put them into {paths[0].parent},")
    )
    problem = "training starts from random weights, which takes hours of recordings and days on a GPU"
    return WarmStart(), (_note(problem, f"Better {how} and make the experiment again"),)


def _copied(folder: Path, warm: WarmStart) -> WarmStart:
    kept = {}  # copies in the experiment's folder, so that it can be moved before training has begun
    for kind, source in (("generator", warm.generator), ("discriminator", warm.discriminator)):
        if source:
            kept[kind] = f"{BEGIN}/{kind}{Path(source).suffix}"
            if Path(source).suffix.lower() == ".safetensors":  # not copied: starter voices share their weights
                save_voice(folder / kept[kind], load_voice(Path(source)), dtype="exact")
                continue
            with replacing(folder / kept[kind]) as partial:
                shutil.copyfile(source, partial)
    return WarmStart(**kept, origin=warm.origin or Path(warm.generator).name)


def _copied_bytes(source: Path) -> int:
    return weights_bytes(source) if source.suffix.lower() == ".safetensors" else source.stat().st_size


def _data_notes(facts: DatasetFacts, experiment: Experiment) -> list[ErrorDetails]:
    notes = [dataclasses.replace(fault, problem=f"left out: {fault.problem}") for fault in facts.unreadable]
    config, quick = experiment.synthesizer, experiment.schedule.longest_s is not None
    if quick and facts.total_s < 3 * experiment.data.least_s:
        notes.append(_note(f"{facts.total_s:.0f} s of recordings are little", "A minute or more makes a better voice"))
    elif facts.total_s < ADVISED_S and not quick:
        minutes = f"{facts.total_s / 60:.1f} minutes of recordings are little"
        notes.append(_note(minutes, "Ten minutes or more make a better voice"))
    if facts.low_rate:
        lower = config.sample_rate > min(TRAINING_RATES.values()) and not quick
        narrow = (
            f"{len(facts.low_rate)} recordings have a lower sample rate than the voice's {config.sample_rate} Hz "
            f"and lack its highest frequencies (the first: {facts.low_rate[0]})"
        )
        notes.append(_note(narrow, "A lower {sample_rate} fits them better" if lower else None))
    return notes


def slow_device_note(experiment: Experiment, device: torch.device) -> tuple[ErrorDetails, ...]:
    if device.type != "cpu" or experiment.objective == "direct":
        return ()
    advice = (
        "Make the experiment with {content=menura-starter} and {sample_rate=24k} for a small network that a CPU trains "
        "in hours"
    )
    return (_note("RVC's network needs a GPU: on this CPU training takes weeks", advice),)


def _note(problem: str, advice: str | None = None) -> ErrorDetails:
    return ErrorDetails(kind="note", problem=problem, advice=advice)
