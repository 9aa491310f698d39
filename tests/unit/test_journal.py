"""What counts as done, and what doesn't."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from menura.audio.places import FileStamp
from menura.errors import EncodeError, ErrorDetails
from menura.jobs.journal import JOURNAL_NAME, Journal
from menura.types import FileResult, StageTimes, State


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "a.flac"
    path.parent.mkdir()
    path.write_bytes(b"a recording")
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    path = tmp_path / "out" / "deep" / "a.wav"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"a conversion")
    return path


def result_of(output: Path) -> FileResult:
    return FileResult(
        input="in/a.flac",
        output=output,
        state=State.WARNING,
        error=ErrorDetails(kind="damaged", subject="a.flac", problem="cut off"),
        notes=("a note",),
        audio_s=1.5,
        output_samples=36_000,
        output_rate=24_000,
        f0_method="swift",
        transpose=2.0,
        wall_s=0.5,
        stages=StageTimes(decode_s=0.1),
        seams_s=(20.0,),
    )


def record(source: Path, output: Path, request: str = "r") -> FileResult:
    result = result_of(output)
    Journal(output.parents[1]).record(FileStamp.of(source), result, request)
    return result


def finished(source: Path, output: Path, request: str = "r") -> FileResult | None:
    return Journal(output.parents[1]).finished(FileStamp.of(source), output, request)


def test_a_finished_output_is_known_with_all_its_facts(source: Path, output: Path) -> None:
    assert finished(source, output) is None
    result = record(source, output)
    again = finished(source, output)
    assert again is not None
    assert again.resumed
    assert {n: getattr(again, n) for n in FileResult.__slots__ if n != "resumed"} == {
        n: getattr(result, n) for n in FileResult.__slots__ if n != "resumed"
    }


def touch(path: Path) -> None:
    facts = path.stat()
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1_000_000))


@pytest.mark.parametrize(
    "change",
    [
        lambda source, output: touch(source),
        lambda source, output: source.write_bytes(b"another"),
        lambda source, output: source.unlink(),
        lambda source, output: touch(output),
        lambda source, output: output.write_bytes(b"cut"),
        lambda source, output: output.unlink(),
    ],
)
def test_a_changed_file_is_not_done(source: Path, output: Path, change: Callable[[Path, Path], object]) -> None:
    record(source, output)
    change(source, output)
    assert finished(source, output) is None


def test_another_request_or_input_is_not_done(source: Path, output: Path) -> None:
    record(source, output)
    assert finished(source, output, "another") is None
    twin = source.with_name("b.flac")
    twin.write_bytes(source.read_bytes())
    os.utime(twin, ns=(source.stat().st_atime_ns, source.stat().st_mtime_ns))
    assert finished(twin, output) is None
    assert finished(source, output) is not None


def test_the_last_entry_counts(source: Path, output: Path) -> None:
    record(source, output, "one")
    output.write_bytes(b"converted anew")
    record(source, output, "two")
    assert finished(source, output, "one") is None
    assert finished(source, output, "two") is not None


def test_a_cut_off_line_costs_one_output(source: Path, output: Path) -> None:
    other = output.with_name("b.wav")
    other.write_bytes(b"another")
    record(source, output)
    record(source, other)
    journal = output.parents[1] / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes()[:-20])
    assert finished(source, output) is not None
    assert finished(source, other) is None
    record(source, other)
    assert finished(source, other) is not None


STRANGE = [b"[]", b"{}", b"null", b'{"menura_journal": 2}', b"\xff\xfe", b"{" * 50, b"[" * 300_000]


@pytest.mark.parametrize("line", STRANGE, ids=range(len(STRANGE)))
def test_lines_of_another_kind_count_for_nothing(source: Path, output: Path, line: bytes) -> None:
    record(source, output)
    with (output.parents[1] / JOURNAL_NAME).open("ab") as file:
        file.write(line + b"\n")
    assert finished(source, output) is not None


def test_what_failed_is_not_written_down(source: Path, output: Path) -> None:
    failed = FileResult(input="x", output=None, state=State.FAILED, error=ErrorDetails(kind="decode", problem="bad"))
    Journal(output.parents[1]).record(FileStamp.of(source), failed, "r")
    assert (output.parents[1] / JOURNAL_NAME).read_bytes() == b""


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EncodeError) as caught:
        Journal(tmp_path / "file")
    assert caught.value.subject == str(tmp_path / "file" / JOURNAL_NAME)


def test_a_journal_that_is_no_file_is_refused(tmp_path: Path) -> None:
    """A pipe would never end, nor would a device."""
    os.mkfifo(tmp_path / JOURNAL_NAME)
    with pytest.raises(EncodeError) as caught:
        Journal(tmp_path)
    assert "not a regular file" in caught.value.problem


def test_the_shifts_of_a_batch_are_kept(source: Path, output: Path) -> None:
    folder = output.parents[1]
    record(source, output)
    assert Journal(folder).shifts("r") is None
    for shifts in ((12.0, -3.0), ()):
        Journal(folder).keep_shifts("r", shifts)
        assert Journal(folder).shifts("r") == shifts
    with (folder / JOURNAL_NAME).open("a") as file:
        file.write('{"menura_journal": 3, "request": "r", "shifts": ["a"]}\n{"menura_journal": 3, "shifts": [1]}\n')
    assert Journal(folder).shifts("r") == ()
    assert Journal(folder).shifts("s") is None
    assert finished(source, output) is not None
