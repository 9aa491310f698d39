"""Training as a session: its events, cancelling it, and the commands around it."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import menura
from menura import RunOptions, TrainingError, TrainingOptions, TrainingSession
from menura.cli.main import run
from menura.train.create import slow_device_note
from menura.train.data import prepare as preparation
from menura.train.data.report import REPORT_FILE
from menura.train.events import Exported, Finished, Noted, Saved, Started, Stepped, Trained
from menura.train.experiment.folder import alone_in, checkpoint_paths, find_experiments, remove_experiment
from menura.train.experiment.settings import DataSettings, save_experiment
from support.training import SCHEDULE, tiny_experiment, tiny_rvc, write_features


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "me"
    schedule = dataclasses.replace(SCHEDULE, steps=4, save_every_steps=2, keep_last=2)
    save_experiment(folder, tiny_experiment(schedule=schedule))
    write_features(folder)
    return folder


def test_a_session_tells_what_happens(folder: Path) -> None:
    events: list[Any] = []
    finished = TrainingSession(folder, on_event=events.append).run()
    kinds = [type(event) for event in events]
    assert kinds == [Started, Stepped, Stepped, Saved, Stepped, Stepped, Saved, Trained, Exported, Finished]
    assert [event.step for event in events if isinstance(event, Stepped)] == [1, 2, 3, 4]
    assert events[-1] == finished
    assert (finished.reason, finished.step, finished.last_step) == ("steps", 4, 4)
    assert finished.voice == folder / "voice" / "me.safetensors"
    assert finished.voice.is_file()
    (checkpoint,) = checkpoint_paths(folder)  # the one before it was a reserve
    assert finished.checkpoint_bytes == checkpoint.stat().st_size
    assert TrainingSession(folder).run() == finished


def test_a_cancelled_session_keeps_the_step_it_was_in(folder: Path) -> None:
    cancel = threading.Event()

    def stop_at_three(event: object) -> None:
        if isinstance(event, Stepped) and event.step == 3:
            cancel.set()

    finished = TrainingSession(folder, on_event=stop_at_three, cancel=cancel).run()
    assert (finished.reason, finished.step, finished.voice) == ("cancelled", 3, None)
    events: list[Any] = []
    assert menura.train_voice(folder, on_event=events.append).reason == "steps"
    assert [event.step for event in events if isinstance(event, Stepped)] == [4]


def test_a_session_can_stop_where_it_is_asked_to(folder: Path) -> None:
    finished = TrainingSession(folder, RunOptions(until=2)).run()
    assert (finished.reason, finished.step, finished.voice) == ("until", 2, None)


def test_a_session_needs_an_experiment(tmp_path: Path) -> None:
    with pytest.raises(TrainingError) as caught:
        TrainingSession(tmp_path / "none")
    assert caught.value.subject == str(tmp_path / "none")


def test_rvcs_network_on_a_cpu_is_warned_of() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    (note,) = slow_device_note(tiny_rvc(), cpu)
    assert "{content=menura-starter}" in str(note.advice)
    assert not slow_device_note(tiny_experiment(), cpu)
    assert not slow_device_note(tiny_rvc(), cuda)


def test_the_session_warns_too(folder: Path) -> None:
    save_experiment(folder, tiny_rvc(schedule=dataclasses.replace(SCHEDULE, steps=1, save_every_steps=1)))
    events: list[Any] = []
    TrainingSession(folder, on_event=events.append).run()
    assert isinstance(events[0], Noted)


# -- data that nothing can be learnt from


def prepared_from(tmp_path: Path, recordings: dict[str, np.ndarray]) -> Path:
    """An experiment whose recordings were to be prepared."""
    data = tmp_path / "data"
    data.mkdir()
    for name, samples in recordings.items():
        soundfile.write(data / name, samples.astype(np.float32), 16_000, subtype="FLOAT")
    folder = tmp_path / "me"
    options = TrainingOptions(content="menura-starter", sample_rate="24k", f0="swift", base="none")
    from menura.train.create import create_experiment

    create_experiment(folder, dataset=data, rights="mine", options=options, home=tmp_path)
    return folder


def test_silent_recordings_are_named_and_reported(tmp_path: Path) -> None:
    silence = {f"{number}.wav": np.zeros(5 * 16_000) for number in range(3)}
    folder = prepared_from(tmp_path, silence)
    with pytest.raises(TrainingError) as caught:
        TrainingSession(folder, RunOptions(workers=1)).prepare()
    assert caught.value.subject == "me"
    assert "3 near silent" in caught.value.problem
    text = (folder / REPORT_FILE).read_text()
    assert all(f"{number}.wav" in text for number in range(3))


def test_every_reason_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.9, 6 * 16_000).clip(-1, 1)
    short = np.concatenate([np.random.default_rng(1).normal(0, 0.1, 4_000), np.zeros(80_000)])
    folder = prepared_from(tmp_path, {"clipped.wav": noise, "short.wav": short, "silent.wav": np.zeros(80_000)})
    with pytest.raises(TrainingError) as caught:
        TrainingSession(folder, RunOptions(workers=1)).prepare()
    assert all(reason in caught.value.problem for reason in ("1 clipped", "1 near silent", "1 too short"))


def test_float_recordings_over_full_scale_are_scaled_down_as_in_conversion(tmp_path: Path) -> None:
    """As field recorders with 32 bits make them."""
    t = np.arange(12 * 16_000) / 16_000
    voice = sum(np.sin(2 * np.pi * 130 * k * t) / k for k in range(1, 12)) * (0.55 + 0.45 * np.sin(2 * np.pi * 3 * t))
    folder = prepared_from(tmp_path, {"loud.wav": 2.8 * voice / np.abs(voice).max()})
    (recording,) = preparation.find_recordings(tmp_path / "data", ("me",), by_folder=False)
    sliced = preparation.slice_recording(recording, folder=folder, settings=DataSettings(), sample_rate=24_000)
    assert not sliced.dropped
    assert len(sliced.files) >= 2
    samples, _ = soundfile.read(folder / sliced.files[0])
    assert 0.5 < np.abs(samples).max() <= 1.0


# -- commands


def test_experiments_are_listed_and_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "broken").mkdir()
    (folder.parent / "broken" / "experiment.json").write_text("[]")
    TrainingSession(folder).run()
    mine = folder / "my own notes.txt"
    mine.write_text("kept")
    found = {item.folder.name: item for item in find_experiments(Path())}
    assert (found["me"].step, found["me"].steps, found["me"].exported) == (4, 4, True)
    assert found["broken"].problem
    assert run(["train", "list"]) == 0
    assert "step 4 of 4, exported" in capsys.readouterr().out
    assert run(["train", "remove", "--checkpoints", "me"]) == 0
    assert not checkpoint_paths(folder)
    assert (folder / "voice" / "me.safetensors").is_file()
    assert run(["train", "remove", "me"]) == 0
    assert list(folder.iterdir()) == [mine]
    assert str(mine.relative_to(folder.parent)) in capsys.readouterr().out
    assert run(["train", "remove", "me"]) == 1


def test_an_experiment_in_use_is_not_removed(folder: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom menura.train.experiment.folder import alone_in\n"
        "with alone_in(Path(sys.argv[1])):\n    print('in', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(TrainingError):
            remove_experiment(folder)
        other.kill()
    assert (folder / "experiment.json").is_file()
    with alone_in(folder):
        pass


def test_the_last_line_says_how_to_convert_and_what_can_go(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = folder / "voice" / "added_IVF1_Flat_nprobe_1_me_v2.index"
    index.parent.mkdir()
    assert run(["train", "run", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"menura convert INPUT --voice {folder / 'voice' / 'me.safetensors'}\n" in out
    assert f"menura train remove --checkpoints {folder}" in out
    assert "step 1/4" in out  # the first line soon
    index.write_bytes(b"")
    assert run(["train", "export", str(folder)]) == 0
    assert "--index" not in capsys.readouterr().out  # beside the voice it is found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_is_answered_and_the_step_kept(folder: Path, number: signal.Signals) -> None:
    experiment = tiny_experiment(schedule=dataclasses.replace(SCHEDULE, steps=100_000, save_every_steps=100_000))
    save_experiment(folder, experiment)
    command = [sys.executable, "-m", "menura", "train", "run", str(folder), "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("step 3/"):
                break
        process.send_signal(number)
        assert process.stderr.readline().startswith("finishing step")
        rest = process.stdout.read()
        process.stderr.read()
        assert process.wait() == 128 + number
    (last,) = (line for line in rest.splitlines() if line.startswith("Stopped after step"))
    step = int(last.split()[3])
    assert step >= 3
    assert int(torch.load(folder / "checkpoint.pt", weights_only=True)["step"]) == step
