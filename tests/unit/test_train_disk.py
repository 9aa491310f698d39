"""A full disk while training writes: which file, what to do, nothing half-written, and the same course afterwards."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from menura.cli import main
from menura.errors import ResourceError
from menura.system.files import append_whole, replacing
from menura.system.memory import enough_memory
from menura.train.experiment.folder import CHECKPOINT, LOG, remove_unfinished
from menura.train.experiment.settings import EXPERIMENT_FILE, save_experiment, write_atomically
from menura.train.learning.checkpoint import write_state
from menura.train.run.log import Curves
from menura.train.run.trainer import open_trainer
from menura.train.run.validation import ValidationSet
from support.disk import no_file_longer_than
from support.training import CPU, run, tiny_experiment, write_features


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_experiment(tmp_path, tiny_experiment())
    write_features(tmp_path)
    return tmp_path


def copy_in(path: Path) -> None:
    with replacing(path) as partial:
        shutil.copyfile(__file__, partial)


def test_what_killed_runs_left_goes_but_nothing_elsewhere(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "exp", tmp_path / "elsewhere"
    for place in (folder / "slices" / "anna", elsewhere):
        place.mkdir(parents=True)
        (place / ".x.flac.1.part").touch()
    (folder / "begin").symlink_to(elsewhere)
    remove_unfinished(folder)
    assert [path.parent for path in tmp_path.rglob("*.part")] == [elsewhere]


def test_where_memory_runs_out_less_is_advised() -> None:
    for error in (MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory")):
        with pytest.raises(ResourceError, match="Take less"), enough_memory("Take less"):
            raise error
    with pytest.raises(RuntimeError, match="odd"), enough_memory("take less"):
        raise RuntimeError("odd")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_atomically(path, bytes(5000)),
        lambda path: append_whole(path, bytes(5000)),
        lambda path: write_state(path, {"step": 3, "average": torch.zeros(5000)}),
        copy_in,
    ],
    ids=["whole", "append", "state", "copy"],
)
def test_what_does_not_fit_leaves_what_was_there(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"as it was")
    with no_file_longer_than(3000), pytest.raises(ResourceError, match=r"/file: .*File too large.*Free space on that"):
        write(path)
    assert path.read_bytes() == b"as it was"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]
    write(path)
    assert path.stat().st_size >= 5000


def test_a_place_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (write_atomically, append_whole):
        with pytest.raises(ResourceError, match=r"/file/x: can't be written: .*/file is not a folder|Not a directory"):
            write(tmp_path / "file" / "x", b"1")


def test_an_event_file_is_cut_between_events(tmp_path: Path) -> None:
    writer = Curves(tmp_path)
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    with no_file_longer_than(len(before) + 20), pytest.raises(ResourceError, match="tfevents"):
        writer.scalars({"loss/mel": 1.0}, 1)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("broken", "room"), [(LOG, 10), (CHECKPOINT, 5000)])
def test_training_goes_on_where_a_full_disk_stopped_it(
    folder: Path, broken: str, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ValidationSet, "previews", lambda *_: ())
    monkeypatch.setattr("menura.train.run.log.curves_available", lambda: False)  # they would be the largest file
    run(folder, 6)
    straight = losses(folder)
    for path in (*folder.glob("*.pt"), folder / LOG):
        path.unlink()
    run(folder, 2)
    limit = (folder / LOG).stat().st_size + room
    with no_file_longer_than(limit), pytest.raises(ResourceError, match=rf"/{broken}: .*Free space on that disk"):
        run(folder, 6)
    assert open_trainer(folder, CPU).step == 2
    assert all(line.endswith("}") for line in (folder / LOG).read_text().splitlines())
    assert not list(folder.rglob("*.part"))
    run(folder, 6)
    assert losses(folder) == straight


def losses(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line)["losses"] for line in (folder / LOG).read_text().splitlines()]


def test_the_command_names_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / EXPERIMENT_FILE).read_bytes()
    with no_file_longer_than(200):
        assert main.run(["train", "run", str(folder), "--steps", "7"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"menura: {folder / EXPERIMENT_FILE}: can't be written: File too large. Free space")
    assert (folder / EXPERIMENT_FILE).read_bytes() == before


def test_what_killed_runs_left_half_written_goes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = tiny_experiment()
    save_experiment(
        folder, dataclasses.replace(experiment, schedule=dataclasses.replace(experiment.schedule, patience=3))
    )
    half = [folder / name for name in (".checkpoint.pt.1.part", "features/.x.safetensors.1.part")]
    being_exported = folder / "voice" / ".me.pth.a1.part"
    being_exported.parent.mkdir()
    for path in (*half, being_exported):
        path.write_bytes(b"half")
    assert main.run(["train", "run", str(folder), "--until", "1", "--threads", "1"]) == 0
    assert not any(path.exists() for path in half)
    assert being_exported.exists()
    assert "--patience is ignored" in capsys.readouterr().err


def test_devices_are_checked_before_anything_is_prepared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = tiny_experiment()
    data = dataclasses.replace(experiment.data, dataset=str(folder / "nothing"))
    save_experiment(folder, dataclasses.replace(experiment, data=data))
    assert main.run(["train", "run", str(folder), "--devices", "3", "--device", "cpu"]) == 2
    assert "--batch-size" in capsys.readouterr().err
