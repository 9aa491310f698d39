"""Recordings and outputs at URLs, with fsspec's file system in memory for the remote one."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from menura.audio.listing import Selection
from menura.audio.remote import (
    RemoteNotes,
    facts_of,
    fetched,
    is_url,
    place_of,
    publish,
    remote_files,
    remove_unfinished_at,
)
from menura.errors import DecodeError, EncodeError, OptionError
from menura.jobs.journal import FileStamp, Journal
from menura.jobs.plan import check_outputs, find_inputs, folder_outputs
from menura.types import FileResult, State, Url

TALKS, OUT = Url("memory://bucket/talks"), Url("memory://bucket/talks/out")
ALL = Selection(recursive=True)


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """Two recordings in folders, what isn't one, and an earlier output."""
    system = fsspec.filesystem("memory")
    for name in ("a.wav", "day/b.MP3", "notes.txt", ".hidden/c.wav", "out/a.wav"):
        system.pipe(f"/bucket/talks/{name}", name.encode())
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_what_is_a_url() -> None:
    assert place_of("s3://bucket/talks/") == Url("s3://bucket/talks")
    assert Url("s3://bucket/talks") / Path("day/b.wav") == Url("s3://bucket/talks/day/b.wav")
    for path in ("talks/a.wav", "C:\\talks", "C:/talks", "-", "a:b", "//server/share"):
        assert not is_url(path)
        assert place_of(path) == Path(path)


def names(text: str, selection: Selection = ALL) -> list[tuple[str, str]]:
    return [(str(entry.path), entry.relative.as_posix()) for entry in remote_files(text, selection) if not entry.error]


@pytest.mark.usefixtures("memory")
def test_listing() -> None:
    relatives = ("a.wav", "day/b.MP3", "out/a.wav")
    assert names("memory://bucket/talks") == [(f"memory://bucket/talks/{relative}", relative) for relative in relatives]
    assert names("memory://bucket/talks/") == names("memory://bucket/talks")
    assert [relative for _, relative in names("memory://bucket/talks", Selection())] == ["a.wav"]
    assert [
        relative for _, relative in names("memory://bucket/talks", Selection(recursive=True, exclude=("out/",)))
    ] == [
        "a.wav",
        "day/b.MP3",
    ]
    assert names("memory://bucket/talks/day/*.MP3") == [("memory://bucket/talks/day/b.MP3", "b.MP3")]
    assert names("memory://bucket/talks/notes.txt") == [
        ("memory://bucket/talks/notes.txt", "notes.txt")
    ]  # named, so taken
    (nothing,) = remote_files("memory://bucket/nowhere", ALL)
    assert "memory://bucket/nowhere" in str(nothing.error)


@pytest.mark.usefixtures("memory")
def test_plan() -> None:
    """What lies in the output folder is no input; no output is written over an input."""
    found = find_inputs(["memory://bucket/talks"], "memory://bucket/talks/out")
    assert found.many
    jobs = folder_outputs(found.items, OUT, ".wav")
    assert [str(job.output) for job in jobs] == [
        "memory://bucket/talks/out/a.wav",
        "memory://bucket/talks/out/day/b.wav",
    ]
    check_outputs(jobs)
    with pytest.raises(OptionError):
        check_outputs([dataclasses.replace(jobs[0], output=jobs[0].source)])
    assert find_inputs(["talk.wav"], "memory://bucket/out").many


def test_there_and_back(memory: fsspec.AbstractFileSystem, tmp_path: Path) -> None:
    with fetched(TALKS / "a.wav") as copy:
        assert copy.read_bytes() == b"a.wav"
    assert not copy.exists()
    with pytest.raises(DecodeError, match=r"memory://bucket/talks/x\.wav: no such file"), fetched(TALKS / "x.wav"):
        pass
    made = tmp_path / "made.wav"
    made.write_bytes(b"sound")
    publish(made, OUT / "day" / "b.wav")
    assert memory.cat("/bucket/talks/out/day/b.wav") == b"sound"
    assert memory.ls("/bucket/talks/out/day", detail=False) == ["/bucket/talks/out/day/b.wav"]


def test_half_written(memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made.wav").write_bytes(b"sound")
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "mv", lambda *_: (_ for _ in ()).throw(RuntimeError("gone")))
        with pytest.raises(EncodeError, match="gone; choose a place"):
            publish(tmp_path / "made.wav", OUT / "b.wav")
    assert memory.ls("/bucket/talks/out", detail=False) == ["/bucket/talks/out/a.wav"]
    for name in (".a.wav.0123abcd.part", ".b.wav.0123abcd.part"):
        memory.pipe(f"/bucket/talks/out/{name}", b"half")
    remove_unfinished_at(OUT / "a.wav")
    assert sorted(memory.ls("/bucket/talks/out", detail=False)) == [
        "/bucket/talks/out/.b.wav.0123abcd.part",
        "/bucket/talks/out/a.wav",
    ]


def test_journal(memory: fsspec.AbstractFileSystem) -> None:
    source, output = TALKS / "a.wav", OUT / "a.wav"
    result = FileResult(input=str(source), output=output, state=State.DONE, audio_s=2.0)
    stamp = FileStamp.of(source)
    with Journal(OUT, [output]) as journal:
        assert journal.finished(stamp, output, "request") is None
        journal.record(stamp, result, "request")
        journal.record(stamp, dataclasses.replace(result, output=OUT / "never-made.wav"), "request")
    with Journal(OUT, [output]) as journal:
        assert journal.finished(stamp, output, "request") == dataclasses.replace(result, resumed=True)
        assert journal.finished(stamp, output, "another") is None
        memory.pipe("/bucket/talks/a.wav", b"changed")
        assert journal.finished(FileStamp.of(source), output, "request") is None
        memory.pipe("/bucket/talks/out/a.wav", b"changed")
        assert journal.finished(stamp, output, "request") is None
    assert len(RemoteNotes(OUT / ".menura-journal").read()) == 1
    memory.pipe("/bucket/talks/out/.menura-journal/damaged.json", b"{")
    with Journal(OUT, [output]):
        pass


@pytest.mark.usefixtures("memory")
def test_facts() -> None:
    assert facts_of(TALKS / "x.wav") is None
    facts = facts_of(TALKS / "a.wav")
    assert facts is not None
    assert facts[0] == 5


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="nonsense"):
        remote_files("nonsense://bucket", ALL)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(OptionError, match=r"pip install 'menura\[remote\]'"):
        remote_files("memory://bucket/talks", ALL)
