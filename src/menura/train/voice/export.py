"""From a checkpoint to a voice: RVC's file, safetensors, a card; or RVC's own checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from menura.checkpoints.rvc import save_voice
from menura.checkpoints.voice import LoadedVoice, VoiceMetadata
from menura.errors import TrainingError
from menura.models.config import SOURCE_FILTER
from menura.models.weights import classic
from menura.train.data.report import Preparation, load_preparation
from menura.train.experiment.folder import BEST, VOICE, checkpoint_paths
from menura.train.experiment.settings import Experiment, is_one_part, load_experiment, write_atomically
from menura.train.learning.checkpoint import read_state, write_state
from menura.voices.library import CARD_NAME, read_card

_CPU = torch.device("cpu")


def export_voice(
    folder: Path,
    target: Path,
    *,
    metadata: VoiceMetadata | None = None,
    speaker: str | None = None,
    newest: bool = False,
) -> None:
    """Write the averaged weights of an experiment as a voice: .pth (RVC's layout) or .safetensors.

    Those that validated best, unless `newest`; of one speaker, or all; what the file says beside them is by default
    what Applio's files say.

    Raises:
        TrainingError: nothing was trained yet, there is no such speaker, or RVC's layout can't hold the voice.
    """
    _check_target(target, load_experiment(folder))
    voice, _ = _voice(folder, name=target.stem, metadata=metadata, speaker=speaker, newest=newest)
    save_voice(target, voice)


def _voice(
    folder: Path, *, name: str, metadata: VoiceMetadata | None = None, speaker: str | None, newest: bool
) -> tuple[LoadedVoice, dict[str, Any]]:
    """An experiment's voice, and the checkpoint that it comes from."""
    experiment, state = load_experiment(folder), _weights(folder, newest=newest)
    step = int(state["step"])
    if metadata is None:
        metadata = _metadata(experiment, load_preparation(folder), step, name=name)
    return voice_of(experiment, state["average"], step=step, metadata=metadata, speaker=speaker), state


def _check_target(target: Path, experiment: Experiment) -> None:
    suffix = target.suffix.lower()
    if suffix not in (".pth", ".safetensors"):
        raise TrainingError(target, "a voice file ends in .pth or .safetensors")
    if suffix == ".pth" and experiment.synthesizer.vocoder == SOURCE_FILTER:
        raise TrainingError(
            target, "other programs can't run this voice's vocoder", "Write it as .safetensors for Menura"
        )


def export_experiment(folder: Path, *, speaker: str | None = None, newest: bool = False) -> tuple[Path, ...]:
    """Write the voice as others load it (.pth), as safetensors, and its card, into the experiment's `voice` folder.

    Voices with Menura's own vocoder are written as safetensors only.

    Returns:
        The files.
    """
    name, experiment, prepared = folder.resolve().name, load_experiment(folder), load_preparation(folder)
    ours = experiment.synthesizer.vocoder == SOURCE_FILTER
    suffixes = (".safetensors",) if ours else (".pth", ".safetensors")
    paths = tuple(folder / VOICE / f"{name}{suffix}" for suffix in suffixes)
    voice, state = _voice(folder, name=name, speaker=speaker, newest=newest)
    for path in paths:
        save_voice(path, voice)
    _remove_earlier_name(folder / VOICE, paths)
    card = json.dumps(_card(name, experiment, prepared, state, speaker=speaker), indent=1, ensure_ascii=False)
    write_atomically(folder / VOICE / CARD_NAME, (card + "\n").encode("utf-8", "backslashreplace"))
    return (*paths, folder / VOICE / CARD_NAME)


def _remove_earlier_name(folder: Path, written: Sequence[Path]) -> None:
    """Delete the voice that was exported before the experiment's folder got another name; its card says which.

    What can't be found or deleted stays. On disks where case makes no difference another name may be the same file's.
    """
    with contextlib.suppress(OSError, ValueError):
        earlier = read_card(folder / CARD_NAME).name
        for path in (folder / f"{earlier}{suffix}" for suffix in (".pth", ".safetensors")):
            ours = is_one_part(earlier) and path.is_file()
            if ours and not any(path.samefile(made) for made in written):
                path.unlink()


def export_checkpoints(folder: Path) -> tuple[Path, ...]:
    """Write G_<step>.pth and D_<step>.pth as RVC's own training does, to go on with there."""
    experiment, state = load_experiment(folder), _newest(folder)
    step, written = int(state["step"]), []
    parts = [("G", "generator", "optimizer", experiment.schedule.learning_rate)]
    parts.append(("D", "discriminators", "discriminator_optimizer", experiment.schedule.discriminator_learning_rate))
    for letter, network, optimizer, rate in parts:
        if network in state:
            path = folder / VOICE / f"{letter}_{step}.pth"
            content = {
                "model": classic(state[network]),
                "iteration": _epoch(experiment, load_preparation(folder), step) or 1,
                "optimizer": {name: state[optimizer][name] for name in ("state", "param_groups")},
                "learning_rate": rate,
            }
            write_state(path, content)
            written.append(path)
    return tuple(written)


def _weights(folder: Path, *, newest: bool) -> dict[str, Any]:
    best = folder / BEST
    return read_state(best, _CPU) if best.is_file() and not newest else _newest(folder)


def _newest(folder: Path) -> dict[str, Any]:
    paths = checkpoint_paths(folder)
    if not paths:
        raise TrainingError(folder, "nothing is trained yet", "Run 'menura train run' first")
    return read_state(paths[0], _CPU)


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
    config, step = experiment.synthesizer, int(state["step"])
    median = prepared.f0_median_hz(speaker) if prepared else None
    card: dict[str, Any] = {
        "name": name,
        "source": "trained with Menura",
        "rights": experiment.data.rights,
        "speakers": [speaker] if speaker else list(experiment.speakers),
        "minutes": round(prepared.seconds(speaker) / 60, 1) if prepared else None,
        "f0_median_hz": round(median, 1) if median else None,
        "content_encoder": config.content_encoder,
        "f0_method": experiment.data.f0,
        "sample_rate": config.sample_rate,
        "vocoder": config.vocoder,
        "steps": step,
        "epochs": _epoch(experiment, prepared, step),
        "validation_mel": round(state["held_out"], 4) if "held_out" in state else None,
        "seed": experiment.seed,
        "base": experiment.warm_start.origin or None,
    }
    return {key: value for key, value in card.items() if value is not None}


def voice_of(
    experiment: Experiment,
    weights: dict[str, Tensor],
    *,
    step: int,
    metadata: VoiceMetadata | None = None,
    speaker: str | None = None,
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
    if metadata is None:
        metadata = VoiceMetadata()
    metadata = dataclasses.replace(
        metadata,
        step=step,
        info=metadata.info or f"{step} steps",
        speaker_names=names,
        model_hash=metadata.model_hash or _hash(state),
    )
    return LoadedVoice(config=config, state=state, metadata=metadata)


def _hash(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
