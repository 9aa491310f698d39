"""What a trained experiment becomes: a voice (RVC's file, safetensors), its card, its index; or RVC's checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

from menura.checkpoints.voice import LoadedVoice, VoiceMetadata, save_voice
from menura.errors import TrainingError
from menura.models.config import SOURCE_FILTER
from menura.models.weights import State, classic
from menura.retrieval.faiss_index import BuiltIndex, build_index, index_name
from menura.system.files import writing
from menura.train.data.features import load_features
from menura.train.data.report import Preparation, load_preparation
from menura.train.experiment.folder import BEST, VOICE, checkpoint_paths
from menura.train.experiment.settings import Experiment, is_one_part, load_experiment, write_atomically
from menura.train.learning.checkpoint import read_state, write_state
from menura.train.sharpness import sharpened
from menura.voices.library import CARD_NAME, read_card

_SUFFIXES = (".pth", ".safetensors")
_NOTHING = VoiceMetadata()
_INDEX_NAME = re.compile(r"added_IVF(?P<cells>\d+)_Flat_nprobe_1_.*_(?P<version>v[12])\.index")


def export_voice(
    folder: Path,
    target: Path,
    *,
    metadata: VoiceMetadata | None = None,
    speaker: str | None = None,
    newest: bool = False,
) -> None:
    """Write the averaged weights of an experiment as a voice: .pth (RVC's layout) or .safetensors.

    Those that validated best, unless `newest`; of one speaker, or all; by default with what Applio's files say.
    """
    experiment, suffix = load_experiment(folder), target.suffix.lower()
    if suffix not in _SUFFIXES:
        raise TrainingError(target, "a voice file ends in .pth or .safetensors")
    if suffix == ".pth" and experiment.synthesizer.vocoder == SOURCE_FILTER:
        problem = "other programs can't run this voice's vocoder"
        raise TrainingError(target, problem, "Write it as .safetensors for Menura")
    prepared, state = load_preparation(folder), _weights(folder, newest=newest)
    if metadata is None:
        metadata = _metadata(experiment, prepared, state["step"], name=target.stem)
    weights = _formed(folder, experiment, prepared, state, speaker)
    save_voice(target, voice_of(experiment, weights, step=state["step"], metadata=metadata, speaker=speaker))


def export_experiment(folder: Path, *, speaker: str | None = None, newest: bool = False) -> tuple[Path, ...]:
    """Write the voice (as safetensors, and as others load it where they can), then its card; returns the files."""
    name, experiment, prepared = folder.resolve().name, load_experiment(folder), load_preparation(folder)
    state = _weights(folder, newest=newest)
    metadata = _metadata(experiment, prepared, state["step"], name=name)
    weights = _formed(folder, experiment, prepared, state, speaker)
    voice = voice_of(experiment, weights, step=state["step"], metadata=metadata, speaker=speaker)
    ours = experiment.synthesizer.vocoder == SOURCE_FILTER
    paths = [folder / VOICE / f"{name}{suffix}" for suffix in (_SUFFIXES[1:] if ours else _SUFFIXES)]
    for path in paths:
        save_voice(path, voice)
    _remove_earlier_name(folder / VOICE, paths)
    card = json.dumps(_card(name, experiment, prepared, state, speaker=speaker), indent=1, ensure_ascii=False)
    write_atomically(folder / VOICE / CARD_NAME, (card + "\n").encode("utf-8", "backslashreplace"))
    return (*paths, folder / VOICE / CARD_NAME)


def _formed(
    folder: Path, experiment: Experiment, prepared: Preparation | None, state: Mapping[str, Any], speaker: str | None
) -> State:
    """The averaged weights, with formants as deep as the experiment has them, by what there is of whom they are for."""
    weights: State = state["average"]
    if not (experiment.sharpness and prepared):
        return weights
    slices = [folder / item.features for item in prepared.slices if speaker in (None, item.speaker)]
    voice = voice_of(experiment, weights, step=state["step"], speaker=speaker)
    return {**sharpened(voice, slices, experiment.sharpness), "emb_g.weight": weights["emb_g.weight"]}


def _remove_earlier_name(folder: Path, written: Sequence[Path]) -> None:
    """Delete the voice of the name that the experiment's folder, by the card, had before; what can't be found stays."""
    with contextlib.suppress(OSError, ValueError):
        earlier = read_card(folder / CARD_NAME).name
        for path in (folder / f"{earlier}{suffix}" for suffix in _SUFFIXES):
            # Where case makes no difference another name may be the same file's.
            if is_one_part(earlier) and path.is_file() and not any(path.samefile(made) for made in written):
                path.unlink()


def export_checkpoints(folder: Path) -> tuple[Path, ...]:
    """Write G_<step>.pth and D_<step>.pth as RVC's own training does, to go on with there."""
    experiment, state, written = load_experiment(folder), _weights(folder, newest=True), []
    for letter, network, optimizer, rate in (
        ("G", "generator", "optimizer", experiment.schedule.learning_rate),
        ("D", "discriminators", "discriminator_optimizer", experiment.schedule.discriminator_learning_rate),
    ):
        if network in state:
            written.append(folder / VOICE / f"{letter}_{state['step']}.pth")
            content = {
                "model": classic(state[network]),
                "iteration": _epoch(experiment, load_preparation(folder), state["step"]) or 1,
                "optimizer": {name: state[optimizer][name] for name in ("state", "param_groups")},
                "learning_rate": rate,
            }
            write_state(written[-1], content)
    return tuple(written)


def _weights(folder: Path, *, newest: bool) -> dict[str, Any]:
    paths = checkpoint_paths(folder)
    if not newest and (folder / BEST).is_file():
        paths = [folder / BEST]
    if not paths:
        raise TrainingError(folder, "nothing is trained yet", "Run 'menura train run' first")
    return read_state(paths[0], torch.device("cpu"))


def _epoch(experiment: Experiment, prepared: Preparation | None, step: int) -> int | None:
    """Passes over the data: steps times the frames in each, by the frames there are."""
    if prepared is None:
        return None
    seen = step * experiment.schedule.batch_size * experiment.schedule.row_frames / 100
    return math.ceil(seen / max(1.0, prepared.seconds()))


def _metadata(experiment: Experiment, prepared: Preparation | None, step: int, *, name: str) -> VoiceMetadata:
    epoch = _epoch(experiment, prepared, step)
    seconds = round(prepared.seconds()) if prepared else 0
    return VoiceMetadata(
        name=name,
        info=f"{epoch}epoch" if epoch else f"{step} steps",
        epoch=epoch,
        step=step,
        creation_date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        dataset_length=f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}" if seconds else "",
        source=experiment.data.rights,
    )


def _card(
    name: str, experiment: Experiment, prepared: Preparation | None, state: Mapping[str, Any], *, speaker: str | None
) -> dict[str, Any]:
    config, median = experiment.synthesizer, prepared.f0_median_hz(speaker) if prepared else None
    quick = experiment.schedule.longest_s is not None
    card: dict[str, Any] = {
        "name": name,
        "source": "cloned with Menura" if quick else "trained with Menura",
        "rights": experiment.data.rights,
        "speakers": [speaker] if speaker else list(experiment.speakers),
        "minutes": round(prepared.seconds(speaker) / 60, 1) if prepared else None,
        "recordings": [recording.source for recording in prepared.recordings] if quick and prepared else None,
        "f0_median_hz": round(median, 1) if median else None,
        "f0_range_hz": prepared.f0_range_hz(speaker) if prepared else None,
        "content_encoder": config.content_encoder,
        "f0_method": experiment.data.f0,
        "sample_rate": config.sample_rate,
        "vocoder": config.vocoder,
        "steps": state["step"],
        "epochs": _epoch(experiment, prepared, state["step"]),
        "validation_mel": round(state["held_out"], 4) if "held_out" in state else None,
        "seed": experiment.seed,
        "base": experiment.warm_start.origin or None,
    }
    return {key: value for key, value in card.items() if value is not None}


def voice_of(
    experiment: Experiment, weights: State, *, step: int, metadata: VoiceMetadata = _NOTHING, speaker: str | None = None
) -> LoadedVoice:
    """A voice of the generator's weights, with one speaker or all."""
    config, names = experiment.synthesizer, experiment.speakers
    state = {name: value for name, value in classic(weights).items() if not name.startswith("enc_q.")}
    if speaker is not None:
        if speaker not in names:
            raise TrainingError(None, f"no speaker '{speaker}'; this experiment has {', '.join(names)}")
        row = names.index(speaker)
        state["emb_g.weight"] = state["emb_g.weight"][row : row + 1]
        config, names = dataclasses.replace(config, n_speakers=1), (speaker,)
    metadata = dataclasses.replace(
        metadata,
        step=step,
        info=metadata.info or f"{step} steps",
        speaker_names=names,
        model_hash=metadata.model_hash or _hash(state),
    )
    return LoadedVoice(config=config, state=state, metadata=metadata)


def _hash(state: State) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def adopt_index(folder: Path) -> Path | None:
    """The index that is there, by a name that has the experiment's in it; None where there is none."""
    found = min((folder / VOICE).glob("added_*.index"), default=None)
    if found is None or (parts := _INDEX_NAME.fullmatch(found.name)) is None:
        return found
    named = found.with_name(index_name(int(parts["cells"]), folder.resolve().name, parts["version"]))
    if named != found:
        with writing(named):
            found.replace(named)
    return named


def make_index(folder: Path, *, method: str = "auto") -> tuple[Path, BuiltIndex]:
    """Make the index of all content vectors of an experiment, and delete an earlier one."""
    experiment, prepared = load_experiment(folder), load_preparation(folder)
    if prepared is None:
        raise TrainingError(folder, "the recordings are not prepared yet", "Run 'menura train prepare' first")
    parts = [load_features(folder / item.features).content["own"][0].float().numpy() for item in prepared.slices]
    made = build_index(np.concatenate(parts), method=method, seed=experiment.seed)
    path = folder / VOICE / index_name(made.cells, folder.resolve().name, experiment.synthesizer.version)
    write_atomically(path, made.data)
    for old in (folder / VOICE).glob("added_*.index"):
        if not old.samefile(path):
            old.unlink()
    return path, made
