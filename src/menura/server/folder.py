"""The service's data folder: recordings, results and half-sent uploads, under names that the service makes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anyio import to_thread

from menura.errors import MenuraError, ResourceError
from menura.system.files import NewFile, remove_unfinished, writing

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COPY_BYTES = 1 << 20
_RECEIVING = "receiving"
_LEAST_FREE_BYTES = 256 * 2**20


class TooLargeError(MenuraError):
    """More bytes than the service takes."""


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
        for folder in (self._audio, self._results, self._uploads, self.incoming, self.trainings):
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                remove_unfinished([folder / _RECEIVING])

    @property
    def incoming(self) -> Path:
        """Where uploaded voices lie until they are installed."""
        return self.path / "incoming"

    def sample(self, identity: str) -> Path:
        """A voice's sample, made once for what decides its sound."""
        return self.path / "samples" / f"{identity}.wav"

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

    def remove_results(self, job_id: str) -> None:
        shutil.rmtree(self._job(job_id), ignore_errors=True)

    def remove_audio(self, ids: Iterable[str]) -> None:
        for id in ids:
            with suppress(OSError):
                self.audio(id).unlink(missing_ok=True)

    def _job(self, id: str) -> Path:
        if not id.isalnum():
            raise ValueError(id)
        return self._results / id

    async def receive(self, chunks: AsyncIterator[bytes], folder: Path | None = None) -> Saved:
        """Keep a file under its SHA-256, written as it comes. Raises TooLargeError, ResourceError."""
        folder = folder or self._audio
        self.check_room()
        with writing(folder):
            file = await to_thread.run_sync(NewFile, folder / _RECEIVING)
            try:
                digest, size = hashlib.sha256(), 0
                async for chunk in chunks:
                    size += len(chunk)
                    self._check_size(size)
                    await to_thread.run_sync(_feed, file, digest, chunk)
                saved = Saved(digest.hexdigest(), size)
                file.file.close()
                file.path.replace(folder / saved.sha256)
            finally:
                file.discard()
        return saved

    async def receive_part(self, key: str, start: int, total: int, chunks: AsyncIterator[bytes]) -> Partial:
        """Append to an upload; `start` must be where it ended. Complete, it becomes a recording."""
        self._check_size(total)
        self.check_room()
        path = self._uploads / hashlib.sha256(key.encode()).hexdigest()
        received = self.received(key)
        if start != received:
            return Partial(received)
        with writing(path), path.open("ab") as file:
            async for chunk in chunks:
                room = total - received
                await to_thread.run_sync(file.write, chunk[:room])
                received += min(len(chunk), room)
        if received < total:
            return Partial(received)
        saved = await to_thread.run_sync(_hashed, path)
        with writing(path):
            path.replace(self.audio(saved.sha256))
        return Partial(received, saved)

    def received(self, key: str) -> int:
        """Bytes of an upload so far."""
        with suppress(OSError):
            return (self._uploads / hashlib.sha256(key.encode()).hexdigest()).stat().st_size
        return 0

    def used_bytes(self) -> dict[str, int]:
        """Bytes by kind."""
        folders = (self._audio, self._results, self._uploads, self.trainings)
        return {f.name: sum(size for _, size in _sizes(f)) for f in folders}

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.path).free

    def check_room(self) -> None:
        if self.free_bytes() < _LEAST_FREE_BYTES:
            raise ResourceError("disk", "is nearly full", "Delete jobs that are no longer needed")

    def remove_old_uploads(self, before: float) -> None:
        """Delete uploads that stopped before a moment."""
        for folder in (self._uploads, self.incoming):
            for path in folder.iterdir():
                with suppress(OSError):
                    if path.stat().st_mtime < before:
                        path.unlink()

    def _check_size(self, size: int) -> None:
        if size > self.most_upload_bytes:
            limit = self.most_upload_bytes // 2**20
            raise TooLargeError(None, f"larger than {limit} MiB", "Send a compressed file, such as flac")


def _feed(file: NewFile, digest: hashlib._Hash, chunk: bytes) -> None:
    file.file.write(chunk)
    digest.update(chunk)


def _hashed(path: Path) -> Saved:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_COPY_BYTES):
            digest.update(block)
    return Saved(digest.hexdigest(), path.stat().st_size)


def _sizes(folder: Path) -> Iterable[tuple[Path, int]]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            with suppress(OSError):
                yield path, path.stat().st_size
