"""From a checkpoint to a voice file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from menura.checkpoints.maps import classic
from menura.checkpoints.rvc import LoadedVoice, VoiceMetadata, save_rvc, save_safetensors
from menura.errors import TrainingError
from menura.train.loop import CHECKPOINT
from menura.train.spec import Experiment, load_experiment


def export_voice(
    folder: Path, target: Path, *, metadata: VoiceMetadata | None = None, speaker: str | None = None
) -> None:
    """Write the averaged weights of an experiment as a voice.

    Args:
        folder: the experiment's.
        target: a .pth (RVC's layout) or .safetensors file.
        metadata: what the file says beside its weights; by default the speakers' names and the steps.
        speaker: keep only this one; all of them where None.

    Raises:
        TrainingError: nothing was trained yet, or there is no such speaker.
    """
    experiment = load_experiment(folder)
    path = folder / CHECKPOINT
    if not path.exists():
        raise TrainingError(f"{folder}: nothing to export yet; run 'menura train run' first.")
    state = torch.load(path, map_location="cpu", weights_only=True)
    voice = voice_of(experiment, state["average"], step=int(state["step"]), metadata=metadata, speaker=speaker)
    (save_rvc if target.suffix == ".pth" else save_safetensors)(target, voice)


def voice_of(
    experiment: Experiment,
    weights: dict[str, Tensor],
    *,
    step: int,
    metadata: VoiceMetadata | None = None,
    speaker: str | None = None,
) -> LoadedVoice:
    """A voice of the generator's weights, with one speaker or all."""
    import dataclasses

    config, names = experiment.synthesizer, experiment.speakers
    state = {name: value for name, value in classic(weights).items() if not name.startswith("enc_q.")}
    if speaker is not None:
        if speaker not in names:
            raise TrainingError(f"there is no speaker '{speaker}'; this experiment has {', '.join(names)}.")
        row = names.index(speaker)
        state["emb_g.weight"] = state["emb_g.weight"][row : row + 1]
        config, names = dataclasses.replace(config, n_speakers=1), (speaker,)
    if metadata is None:
        metadata = VoiceMetadata()
    metadata = dataclasses.replace(metadata, step=step, info=metadata.info or f"{step} steps", speaker_names=names)
    return LoadedVoice(config=config, state=state, metadata=metadata)
