"""The retrieval index of an experiment's voice."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from menura.errors import TrainingError
from menura.retrieval.build import BuiltIndex, build_index, index_name
from menura.system.files import writing
from menura.train.data.features import load_features
from menura.train.data.report import load_preparation
from menura.train.experiment.folder import VOICE
from menura.train.experiment.settings import load_experiment, write_atomically

_NAME = re.compile(r"added_IVF(?P<cells>\d+)_Flat_nprobe_1_.*_(?P<version>v[12])\.index")


def adopt_index(folder: Path) -> Path | None:
    found = next(iter(sorted((folder / VOICE).glob("added_*.index"))), None)
    parts = None if found is None else _NAME.fullmatch(found.name)
    if found is None or parts is None:
        return found
    named = found.with_name(index_name(int(parts["cells"]), folder.resolve().name, parts["version"]))
    if named != found:
        with writing(named):
            found.replace(named)
    return named


def make_index(folder: Path, *, method: str = "auto") -> tuple[Path, BuiltIndex]:
    """Make the index of all content vectors of an experiment, and delete an earlier one.

    Raises:
        TrainingError: nothing was prepared.
        ResourceError: there is no room for it; an earlier one stays.
    """
    experiment, prepared = load_experiment(folder), load_preparation(folder)
    if prepared is None:
        raise TrainingError(folder, "the recordings are not prepared yet", "Run 'menura train prepare' first")
    parts = [load_features(folder / item.features).content["own"][0].float().numpy() for item in prepared.slices]
    made = build_index(np.concatenate(parts), method=method, seed=experiment.seed)
    name = index_name(made.cells, folder.resolve().name, experiment.synthesizer.version)
    path = folder / VOICE / name
    write_atomically(path, made.data)
    for old in (folder / VOICE).glob("added_*.index"):
        if not old.samefile(path):
            old.unlink()
    return path, made
