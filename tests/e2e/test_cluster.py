"""A batch shared by actors of a local Ray cluster: the same files, journal and report, whatever happens to an actor."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from menura import ConversionOptions, Converter, EngineOptions
from menura.cli.main import run
from menura.jobs import ray as cluster
from menura.jobs.journal import JOURNAL_NAME
from menura.jobs.scheduler import Hooks
from menura.loading import resolve
from menura.types import Item, Progress, Url
from menura.voices.assets import home_folder

ACTORS = 2
CONVERT = ["convert", "talks", "-o", "out", "--voice", "tiny", "--threads", "1", "--json"]


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[Any]:
    """Two CPUs for Ray, whatever the machine has; started as --ray starts one of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "physical_cores", lambda: ACTORS)
        with cluster.connected("local") as found:
            yield found


@pytest.fixture
def talks(place: Path, talk: Path) -> Path:
    """Four recordings of 1.5 s, one of 15 s, so that there is time to kill who converts it, and a bad one."""
    samples, rate = soundfile.read(talk, dtype="float32")
    Path("talks/day").mkdir(parents=True)
    for number in range(4):
        soundfile.write(f"talks/{'day/' if number % 2 else ''}{number}.wav", samples * (0.5 + 0.05 * number), rate)
    soundfile.write("talks/long.wav", np.tile(samples, 10), rate)
    Path("talks/bad.wav").write_text("no recording " * 50)
    return Path("talks")


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What joins the scheduler to its actors, in the order in which they were started."""
    found: list[Any] = []
    start = cluster.Actors.start

    def watched(self: cluster.Actors, number: int) -> Any:
        found.append(start(self, number))
        return found[-1]

    monkeypatch.setattr(cluster.Actors, "start", watched)
    return found


def kill_who_does(name: str, links: list[Any]) -> int:
    """The process that was killed."""
    process = [link.process for link in links if link.item is not None and str(link.item.source).endswith(name)][-1]
    os.kill(process, signal.SIGKILL)
    return int(process)


def test_a_killed_actor_s_file_is_done_by_another(
    talks: Path, links: list[Any], ray_cluster: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []

    def kill(_self: object, progress: Progress) -> None:
        if not killed and progress.file.endswith("long.wav"):
            killed.append(kill_who_does("long.wav", links))

    monkeypatch.setattr("menura.cli.convert.ProgressLine.__call__", kill)
    assert run([*CONVERT, "--ray", "--report", "report.json"]) == 1
    told = capfd.readouterr()
    document = json.loads(told.out)
    assert len(killed) == 1
    assert len(links) == ACTORS + 1
    states = {file["input"]: file["state"] for file in document["files"]}
    assert {name for name, state in states.items() if state != "done"} == {"talks/bad.wav"}
    assert "talks/bad.wav: " in told.err
    assert json.loads(Path("report.json").read_text()) == document
    pairs = [(path, Path("alone") / path.relative_to(talks)) for path in sorted(talks.rglob("*.wav"))]
    Converter(EngineOptions(threads=1)).convert_files(pairs, ConversionOptions(voice="tiny"))
    names = {path.relative_to("alone") for path in Path("alone").rglob("*.wav")}
    assert len(names) == 5
    for name in names:
        assert (Path("out") / name).read_bytes() == (Path("alone") / name).read_bytes()
    left = {path.relative_to("out") for path in Path("out").rglob("*") if path.is_file()}
    assert left == {*names, Path(JOURNAL_NAME)}

    started = len(links)
    Path("out/2.wav").unlink()
    assert run([*CONVERT, "--workers", "1"]) == 1  # the same journal, wherever the files were converted
    resumed = {file["input"]: file["resumed"] for file in json.loads(capfd.readouterr().out)["files"]}
    assert {name for name, flag in resumed.items() if not flag} == {"talks/bad.wav", "talks/2.wav"}
    assert len(links) == started


def test_a_file_that_ends_every_actor_is_given_up(
    talks: Path, links: list[Any], ray_cluster: Any, tmp_path: Path
) -> None:
    def kill(progress: Progress) -> None:
        if progress.file.endswith("long.wav"):
            kill_who_does("long.wav", links)

    here, there = Url(talks.resolve().as_uri()), Url((tmp_path / "given-up").as_uri())
    items = [Item(source=here / name, output=there / name) for name in ("0.wav", "long.wav")]
    engine = EngineOptions(threads=1)
    request = resolve(ConversionOptions(voice="tiny"), home_folder(None))
    hooks = Hooks(on_progress=kill)
    report = cluster.convert_on_cluster(items, request, engine, address="local", workers=1, hooks=hooks)
    assert [result.state.value for result in report.files] == ["done", "failed"]
    assert report.files[1].error is not None
    assert "ended 2 times" in report.files[1].error.problem
    assert [str(result.output) for result in report.files] == [str(there / "0.wav"), "None"]
    assert [path.name for path in (tmp_path / "given-up").iterdir()] == ["0.wav"]


def test_actors_share_one_recording(
    talk: Path, links: list[Any], ray_cluster: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when one is killed amid a part."""
    samples, rate = soundfile.read(talk, dtype="float32")
    soundfile.write("long.wav", np.tile(samples, 80), rate)
    killed: list[int] = []

    def kill(_self: object, progress: Progress) -> None:
        if not killed and progress.audio_done_s > 60:
            killed.append(kill_who_does("long.wav", links))

    monkeypatch.setattr("menura.cli.convert.ProgressLine.__call__", kill)
    arguments = ["convert", "long.wav", "-o", "out/long.wav", "--voice", "tiny", "--threads", "1", "--json", "--ray"]
    assert run([*arguments, "--part-length", "20"]) == 0
    (file,) = json.loads(capfd.readouterr().out)["files"]
    assert (file["parts"], len(killed), len(links)) == (6, 1, ACTORS + 1)
    Converter(EngineOptions(threads=1)).convert("long.wav", "alone.wav", ConversionOptions(voice="tiny"))
    assert Path("out/long.wav").read_bytes() == Path("alone.wav").read_bytes()
    assert [path.name for path in Path("out").iterdir()] == ["long.wav"]


def test_what_is_wrong_with_the_request_is_raised(
    talks: Path, ray_cluster: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("broken.pth").write_bytes(b"no voice")
    assert run([*CONVERT, "--ray", "--workers", "1", "--voice", "broken.pth"]) == 1
    assert "broken.pth" in capfd.readouterr().err
    assert run([*CONVERT, "--ray", "--threads", str(ACTORS + 1)]) == 2
    assert "Use fewer --threads" in capfd.readouterr().err
