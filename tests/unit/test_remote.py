"""Recordings and outputs at URLs, with fsspec's file system in memory for the remote one."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from menura.audio.places import (
    FileStamp,
    Selection,
    file_facts,
    is_url,
    local_input,
    local_output,
    place_of,
    read_notes,
    remote_files,
    remove_partial,
)
from menura.errors import DecodeError, EncodeError, OptionError
from menura.jobs.journal import Journal
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
    with local_input(TALKS / "a.wav") as copy:
        assert copy.read_bytes() == b"a.wav"
    assert not copy.exists()
    with pytest.raises(DecodeError) as caught, local_input(TALKS / "x.wav"):
        pass
    assert (caught.value.subject, caught.value.problem) == ("memory://bucket/talks/x.wav", "no such file or folder")
    with local_output(OUT / "day" / "b.wav") as copy:
        copy.write_bytes(b"sound")
    assert not copy.exists()
    assert memory.cat("/bucket/talks/out/day/b.wav") == b"sound"
    assert memory.ls("/bucket/talks/out/day", detail=False) == ["/bucket/talks/out/day/b.wav"]
    with local_output(OUT / "never.wav"):
        pass
    assert not memory.exists("/bucket/talks/out/never.wav")
    here = tmp_path / "here.wav"
    with local_input(here) as source, local_output(here) as output:
        assert source == output == here


def test_half_written(memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "mv", lambda *_: (_ for _ in ()).throw(RuntimeError("gone")))
        with pytest.raises(EncodeError) as caught, local_output(OUT / "b.wav") as copy:
            copy.write_bytes(b"sound")
    assert (caught.value.subject, caught.value.problem) == (str(OUT / "b.wav"), "can't be written: gone")
    assert memory.ls("/bucket/talks/out", detail=False) == ["/bucket/talks/out/a.wav"]
    for name in (".a.wav.0123abcd.part", ".b.wav.0123abcd.part"):
        memory.pipe(f"/bucket/talks/out/{name}", b"half")
    remove_partial(OUT / "a.wav")
    assert sorted(memory.ls("/bucket/talks/out", detail=False)) == [
        "/bucket/talks/out/.b.wav.0123abcd.part",
        "/bucket/talks/out/a.wav",
    ]


def test_journal(memory: fsspec.AbstractFileSystem) -> None:
    source, output = TALKS / "a.wav", OUT / "a.wav"
    result = FileResult(input=str(source), output=output, state=State.DONE, audio_s=2.0)
    stamp = FileStamp.of(source)
    journal = Journal(OUT)
    assert journal.finished(stamp, output, "request") is None
    journal.record(stamp, result, "request")
    journal.record(stamp, dataclasses.replace(result, output=OUT / "never-made.wav"), "request")
    journal = Journal(OUT)
    assert journal.finished(stamp, output, "request") == dataclasses.replace(result, resumed=True)
    assert journal.finished(stamp, output, "another") is None
    memory.pipe("/bucket/talks/a.wav", b"changed")
    assert journal.finished(FileStamp.of(source), output, "request") is None
    memory.pipe("/bucket/talks/out/a.wav", b"changed")
    assert journal.finished(stamp, output, "request") is None
    assert len(read_notes(OUT / ".menura-journal")) == 1
    memory.pipe("/bucket/talks/out/.menura-journal/damaged.json", b"{")
    Journal(OUT)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize("recursive", [True, False])
def test_urls_of_nothing_say_why(tmp_path: Path, recursive: bool) -> None:
    pytest.importorskip("aiohttp")
    served = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = "http:" + f"//127.0.0.1:{server.server_port}"
        (absent,) = remote_files(f"{here}/talk.flac", Selection(recursive=recursive))
        with pytest.raises(DecodeError) as caught, local_input(Url(f"{here}/talk.flac")):
            pass
        server.shutdown()
    assert absent.error is not None
    assert absent.error.problem == caught.value.problem == "no such file or folder"
    (unreachable,) = remote_files(f"{here}/talk.flac", Selection(recursive=recursive))
    assert unreachable.error is not None
    assert "can't be reached" in unreachable.error.problem


@pytest.mark.usefixtures("memory")
def test_facts(tmp_path: Path) -> None:
    assert file_facts(TALKS / "x.wav") is None
    facts = file_facts(TALKS / "a.wav")
    assert facts is not None
    assert facts[0] == 5
    assert file_facts(tmp_path / "x.wav") is None
    (tmp_path / "a.wav").write_bytes(b"sound")
    assert file_facts(tmp_path / "a.wav") == (5, (tmp_path / "a.wav").stat().st_mtime_ns)


def test_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="nonsense"):
        remote_files("nonsense://bucket", ALL)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(OptionError, match=r"pip install 'menura\[remote\]'"):
        remote_files("memory://bucket/talks", ALL)
