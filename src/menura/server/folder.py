"""The service's data folder: recordings, results and half-sent uploads, under names that the service makes."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread
from filelock import FileLock, Timeout

from menura.errors import MenuraError, ResourceError
from menura.server.store import ConflictError
from menura.system.files import NewFile, remove_abandoned, remove_unfinished, sha256_of, writing

_SHA256 = re.compile(r"[0-9a-f]{64}")
_RECEIVING = "receiving"
_PIECE_BYTES = 2**19
_LEAST_FREE_BYTES = 256 * 2**20
_FRESH_S = 600.0
"""A file so young may belong to a request that hasn't told the database yet."""
_DAY_S = 86_400.0
_EXPORT_S, _MOST_EXPORTS = 3600.0, 4
"""What is kept of exported voices, after they were last asked for."""


class TooLargeError(MenuraError):
    """More than the service takes."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A file that was received."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Partial:
    """An upload of which a part has come."""

    received_bytes: int
    saved: Saved | None = None
    """Set once it is complete."""


class DataFolder:
    """Makes its folders. Raises ResourceError where they can't be written.

    Args:
        path: the service's own folder.
        most_upload_bytes: of one file.
    """

    def __init__(self, path: Path, most_upload_bytes: int) -> None:
        self.path, self.most_upload_bytes = path, most_upload_bytes
        self._audio, self._results, self._uploads = path / "audio", path / "results", path / "uploads"
        self._samples = path / "samples"
        named = (self.incoming, self.exports, self.trainings)
        for folder in (path, self._audio, self._results, self._uploads, self._samples, *named):
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                remove_unfinished([folder / _RECEIVING])

    @property
    def incoming(self) -> Path:
        """Where uploaded voices lie until they are installed."""
        return self.path / "incoming"

    def sample(self, identity: str) -> Path:
        """A voice's sample, made once for what decides its sound."""
        return self._samples / f"{identity}.wav"

    @property
    def exports(self) -> Path:
        """Voices for other programs, each in a folder of its own, for a while."""
        return self.path / "exports"

    @property
    def trainings(self) -> Path:
        """Where experiments lie."""
        return self.path / "trainings"

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.path / 'menura.db'}"

    def audio(self, id: str) -> Path:
        """A recording's file. The id is a SHA-256, so that no other text can name a path."""
        if not _SHA256.fullmatch(id):
            raise ValueError(id)
        return self._audio / id

    def result(self, job_id: str, position: int, format: str) -> Path:
        """An item's output."""
        return self._job(job_id) / f"{position}.{format}"

    def pitch(self, job_id: str, position: int) -> Path:
        """F0 of an item's recording and output, once it was asked for."""
        return self._job(job_id) / f"{position}.f0.json"

    def remove_results(self, job_id: str) -> None:
        shutil.rmtree(self._job(job_id), ignore_errors=True)

    def _job(self, id: str) -> Path:
        if not id.isalnum():
            raise ValueError(id)
        return self._results / id

    async def receive(self, chunks: AsyncIterator[bytes]) -> Saved:
        """Keep a file under its SHA-256, written as it comes. Raises TooLargeError, ResourceError."""
        return await self._receive(chunks, self._audio, None)

    async def receive_once(self, chunks: AsyncIterator[bytes]) -> Path:
        """The same under a name of its own, for the caller to delete."""
        name = secrets.token_hex(16)
        await self._receive(chunks, self.incoming, name)
        return self.incoming / name

    async def _receive(self, chunks: AsyncIterator[bytes], folder: Path, name: str | None) -> Saved:
        self.check_room()
        received = _Received(folder)
        with writing(folder):
            try:
                async for chunk in _gathered(chunks):
                    self._check_size(received.size_bytes + len(chunk))
                    await to_thread.run_sync(self._feed, received, chunk)
                return received.kept(name)
            finally:
                received.discard()

    async def receive_part(self, key: str, part: range, total: int, chunks: AsyncIterator[bytes]) -> Partial:
        """Append bytes to an upload; they must begin where it ended. Complete, it becomes a recording.

        Raises:
            TooLargeError, ResourceError: as for `receive`.
            ConflictError: another request is sending the same upload.
        """
        self._check_size(total)
        path = self._upload(key)
        lock = FileLock(path.with_suffix(".lock"), thread_local=False)
        with writing(path):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise ConflictError(None, "another request is sending this upload", "Wait until it ends") from None
            try:
                return await self._append(path, part, total, chunks)
            finally:
                lock.release()

    async def _append(self, path: Path, part: range, total: int, chunks: AsyncIterator[bytes]) -> Partial:
        received = _size(path)
        if part.start != received:
            return Partial(received)
        with path.open("ab", buffering=0) as file:
            async for chunk in chunks:
                self.check_room()
                received += await to_thread.run_sync(file.write, chunk[: max(0, part.stop - received)])
        if received < total:
            return Partial(received)
        saved = await to_thread.run_sync(_hashed, path)
        path.replace(self.audio(saved.sha256))
        return Partial(received, saved)

    def received(self, key: str) -> int:
        """Bytes of an upload so far."""
        return _size(self._upload(key))

    def _upload(self, key: str) -> Path:
        return self._uploads / hashlib.sha256(key.encode()).hexdigest()

    def used_bytes(self) -> dict[str, int]:
        """Bytes by kind."""
        folders = (self._audio, self._results, self._uploads, self.trainings)
        return {f.name: sum(size for _, size in _sizes(f)) for f in folders}

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    def check_room(self) -> None:
        if self.free_bytes() < _LEAST_FREE_BYTES:
            raise ResourceError("disk", "is nearly full", "Delete jobs that are no longer needed")

    def sweep(
        self, recordings: Collection[str], jobs: Collection[str], going_on: Collection[str], most_samples: int
    ) -> None:
        """Delete what nobody knows of or finishes, uploads that stopped a day ago, and all samples but the newest.

        The jobs that are `going_on` keep finished parts of recordings.
        """
        now = time.time()
        for folder, known in ((self._audio, recordings), (self._results, jobs)):
            _remove(path for path, moment in _ages(folder) if path.name not in known and moment < now - _FRESH_S)
        remove_abandoned(self._results.glob("*/.*.part"))  # of recordings that were cancelled after a crash
        remove_abandoned(path for path in self._results.glob("*/.*.parts") if path.parent.name not in going_on)
        exported = sorted(_ages(self.exports), key=lambda aged: -aged[1])
        _remove(path for n, (path, moment) in enumerate(exported) if n >= _MOST_EXPORTS or moment < now - _EXPORT_S)
        for folder in (self._uploads, self.incoming):
            _remove(path for path, moment in _ages(folder) if moment < now - _DAY_S)
        _remove(path for path, _ in sorted(_ages(self._samples), key=lambda aged: -aged[1])[most_samples:])

    def results_bytes(self) -> dict[str, int]:
        """Size of each job's results."""
        return {folder.name: sum(size for _, size in _sizes(folder)) for folder, _ in _ages(self._results)}

    def _feed(self, received: _Received, chunk: bytearray) -> None:
        self.check_room()
        received.feed(chunk)

    def _check_size(self, size: int) -> None:
        if size > self.most_upload_bytes:
            limit = self.most_upload_bytes // 2**20
            raise TooLargeError(None, f"larger than {limit} MiB", "Send a compressed file, such as flac")


class _Received:
    """A file that is being received; made when the first bytes come. Raises OSError."""

    def __init__(self, folder: Path) -> None:
        self.size_bytes = 0
        self._folder, self._digest = folder, hashlib.sha256()
        self._file: NewFile | None = None

    def feed(self, chunk: bytearray) -> None:
        self._file = self._file or NewFile(self._folder / _RECEIVING)
        self._file.file.write(chunk)
        self._digest.update(chunk)
        self.size_bytes += len(chunk)

    def kept(self, name: str | None) -> Saved:
        """Give it its name, or that of its hash."""
        assert self._file is not None
        saved = Saved(self._digest.hexdigest(), self.size_bytes)
        self._file.file.close()
        self._file.path.replace(self._folder / (name or saved.sha256))
        return saved

    def discard(self) -> None:
        if self._file is not None:
            self._file.discard()


async def _gathered(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytearray]:
    """The same bytes in larger pieces: every one is written by a thread."""
    piece = bytearray()
    async for chunk in chunks:
        piece += chunk
        if len(piece) >= _PIECE_BYTES:
            yield piece
            piece = bytearray()
    yield piece


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _ages(folder: Path) -> Iterable[tuple[Path, float]]:
    """What lies in a folder, and when it was last changed."""
    for path in folder.iterdir():
        with suppress(OSError):
            yield path, path.lstat().st_mtime


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _hashed(path: Path) -> Saved:
    return Saved(sha256_of(path), path.stat().st_size)


def _sizes(folder: Path) -> Iterable[tuple[Path, int]]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            with suppress(OSError):
                yield path, path.stat().st_size
