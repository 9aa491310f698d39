"""Two runs of one experiment: the second is refused, and nothing stays locked when the first is gone."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from menura.cli.main import run
from menura.errors import TrainingError
from menura.train.experiment import folder as experiment_folder
from menura.train.experiment.folder import LOCK, alone_in
from menura.train.experiment.settings import save_experiment
from support.training import tiny_experiment


@pytest.mark.parametrize("command", ["run", "prepare"])
def test_a_second_run_is_refused(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my voice ü"
    save_experiment(folder, tiny_experiment())
    with alone_in(folder):
        assert run(["train", command, str(folder)]) == 1
    assert "another run" in capsys.readouterr().err
    with alone_in(folder):  # free again
        pass


def test_a_killed_run_locks_nobody_out(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom menura.train.experiment.folder import alone_in\n"
        "with alone_in(Path(sys.argv[1])):\n    print('in', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(TrainingError, match="another run"), alone_in(tmp_path):
            pass
        other.kill()
    with alone_in(tmp_path):
        pass


def test_without_locks_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks here")

    monkeypatch.setattr(experiment_folder.FileLock, "acquire", none)
    with alone_in(tmp_path):
        pass
    monkeypatch.undo()
    (tmp_path / LOCK).unlink(missing_ok=True)
    (tmp_path / LOCK).mkdir()  # can't be opened
    with alone_in(tmp_path):
        pass


def test_an_error_inside_is_the_one_that_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), alone_in(tmp_path):
        raise OSError(errno.ENOSPC, "full")
