"""Files are written whole or not at all, wherever their name leads; what killed processes left is removed."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from menura.audio.encode import AudioWriter
from menura.checkpoints.pickles import save_tensors
from menura.cli.terminal import write_json
from menura.errors import EncodeError, MenuraError, ResourceError
from menura.system import files as files_module
from menura.system.files import (
    NewFile,
    check_writable,
    claimed_folder,
    parts_folder,
    remove_abandoned,
    remove_unfinished,
    replacing,
    temporary_folder,
    write_whole,
)


def write_sound(path: Path) -> None:
    with AudioWriter(path, 16_000, format="wav") as writer:
        writer.write(np.zeros(10, dtype=np.float32))


def write_torch(path: Path) -> None:
    with replacing(path) as partial:
        save_tensors({"a": 1}, partial)


WRITERS: list[Callable[[Path], None]] = [
    write_sound,
    write_torch,
    lambda path: write_whole(path, b"all of it"),
    lambda path: write_json({"a": "\udcff"}, path),
]


@pytest.fixture(params=WRITERS, ids=["sound", "torch", "whole", "json"])
def write(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("mask", [0o027, 0o077, 0o022])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, write: Callable[[Path], None], mask: int) -> None:
    before = os.umask(mask)
    try:
        write(tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o666 & ~mask


def test_a_links_target_is_replaced_and_the_link_stays(tmp_path: Path, write: Callable[[Path], None]) -> None:
    target, link, dangling = tmp_path / "there" / "target", tmp_path / "link", tmp_path / "dangling"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "new" / "file")
    for path in (link, dangling):
        write(path)
        assert path.is_symlink()
    assert target.read_bytes() != b"old"
    assert (tmp_path / "new" / "file").read_bytes() == target.read_bytes()
    assert not list(tmp_path.rglob("*.part"))


def test_folders_are_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    with pytest.raises(MenuraError) as caught:
        write(tmp_path)
    assert (caught.value.subject, caught.value.problem) == (str(tmp_path), "is a folder")


@pytest.mark.parametrize("write", [write_sound, write_torch])
def test_devices_and_pipes_are_refused_where_files_are_needed(tmp_path: Path, write: Callable[[Path], None]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to_device").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", tmp_path / "to_device", Path("/dev/null"), Path("/dev/stdout"), Path("/dev/fd/1")):
        with pytest.raises(MenuraError) as caught:
            write(path)
        assert caught.value.problem == "is a device or a pipe, not a file"
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert Path("/dev/null").is_char_device()


def test_small_documents_are_written_through_pipes_and_devices(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"document")
    reader.join(10)
    assert got == [b"document"]
    write_whole(Path("/dev/null"), b"document")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(ResourceError, match="Free space"):
        write_whole(Path("/dev/full"), b"document")


def test_standard_output_in_a_file_is_added_to(tmp_path: Path) -> None:
    code = "from menura.system.files import *; print('1', flush=True); write_whole(Path('/dev/stdout'), b'2')"
    with (tmp_path / "log").open("wb") as log:
        subprocess.run([sys.executable, "-c", code], stdout=log, check=True, timeout=60)
    assert (tmp_path / "log").read_bytes() == b"1\n2"


def test_what_can_not_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EncodeError, match="file is not a folder"):
        check_writable(tmp_path / "file" / "x" / "y.wav", EncodeError)
    check_writable(tmp_path / "new" / "er" / "y.wav")
    check_writable(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_without_write_permission_is_known_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ResourceError, match="no write permission"):
        check_writable(tmp_path / "x.wav")


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(path: Path) -> None:
        with replacing(path) as partial:
            partial.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail(path)
    assert [item.read_bytes() for item in tmp_path.iterdir()] == [b"old"]


KILLED = """
import os, sys
from menura.system.files import *
file = NewFile(Path(sys.argv[1]))
folder = temporary_folder(parent=Path(sys.argv[2]))
(folder.__enter__() / "x").touch()
os.kill(os.getpid(), 9)
"""


def test_what_killed_processes_left_goes_and_nothing_else(tmp_path: Path) -> None:
    mine, other = (tmp_path / f"{'long' * 15}{number}.json" for number in (1, 2))
    for path in (mine, other):
        subprocess.run([sys.executable, "-c", KILLED, str(path), str(tmp_path)], check=False, timeout=60)
    foreign = [tmp_path / "menura-mine", tmp_path / f".{mine.name}.part", tmp_path / "menura-0123456789abcdef"]
    for path in foreign:
        path.mkdir()
    alive = NewFile(mine)
    assert len(list(tmp_path.glob(".*.*.part"))) == 4
    with temporary_folder(parent=tmp_path) as folder, temporary_folder(parent=tmp_path) as second:
        assert {path for path in tmp_path.glob("menura-*.tmp")} == {folder, second}
    remove_unfinished([mine])
    left = [path for path in tmp_path.glob(".*.part") if path.is_file()]
    assert alive.path in left
    assert len(left) == 2  # the other file's
    alive.discard()
    assert all(path.is_dir() for path in foreign)


@pytest.mark.skipif(os.name != "posix", reason="Windows opens no folders")
def test_a_folder_that_another_process_clears_away_at_once_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    make = Path.mkdir

    def cleared_first(self: Path, *args: object, **named: object) -> None:
        make(self, *args, **named)  # type: ignore[arg-type]
        made.append(self)
        if len(made) == 1:
            self.rmdir()

    monkeypatch.setattr(Path, "mkdir", cleared_first)
    with temporary_folder(parent=tmp_path) as folder:
        assert folder.is_dir()
    assert len(made) == 2


def claim_in_another_process(folder: Path) -> bool:
    code = "import sys; from menura.system.files import *\nwith claimed_folder(Path(sys.argv[1])) as ours: print(ours)"
    run = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=60, capture_output=True)
    return run.stdout.strip() == b"True"


def test_a_claimed_folder_is_removed_by_nobody_else_and_then_by_its_owner(tmp_path: Path) -> None:
    folder = parts_folder(tmp_path / "a.wav")
    with claimed_folder(folder) as ours:
        assert ours
        (folder / "part").touch()
        assert not claim_in_another_process(folder)
        remove_abandoned([folder])
        assert (folder / "part").exists()
    assert claim_in_another_process(folder), "and leaves it, as something is in it"
    remove_abandoned([folder])
    assert not list(tmp_path.iterdir())
    with claimed_folder(folder):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such locks")
def test_without_locks_a_claimed_folder_goes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def lockless(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no locks")

    monkeypatch.setattr(fcntl, "flock", lockless)
    folder = parts_folder(tmp_path / "a.wav")
    with claimed_folder(folder) as ours:
        assert ours
        (folder / "part").touch()
    remove_abandoned([folder])
    assert not list(tmp_path.iterdir())


FLAG = 1 << 28


def test_on_windows_a_folder_is_claimed_while_its_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pretended: a file that goes when it is closed, and no locks."""
    opened: dict[int, Path] = {}
    opening, closing = os.open, os.close

    def open_file(path: Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        number = opening(path, flags & ~FLAG, mode, dir_fd=dir_fd)
        if flags & FLAG:
            opened[number] = Path(path)
        return number

    def close_file(number: int) -> None:
        closing(number)
        if number in opened:
            opened.pop(number).unlink(missing_ok=True)

    monkeypatch.setattr(files_module, "_GOES_WHEN_CLOSED", FLAG)
    monkeypatch.setattr(files_module, "_lock", lambda _number: None)
    monkeypatch.setattr(os, "open", open_file)
    monkeypatch.setattr(os, "close", close_file)
    folder = parts_folder(tmp_path / "a.wav")
    with claimed_folder(folder) as ours, claimed_folder(folder) as theirs:
        assert (ours, theirs) == (True, False)
        (folder / "part").touch()
        remove_abandoned([folder])
        assert (folder / "part").exists()
    assert [path.name for path in folder.iterdir()] == ["part"]
    remove_abandoned([folder])
    assert not list(tmp_path.iterdir())
