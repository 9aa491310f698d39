"""Where converted sound goes: into a file, once its peak is known, or into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from menura.audio.encode import DEFAULT_BIT_DEPTH, MOST_CHANNELS, AudioWriter, Encoding, SampleSpool, format_of
from menura.audio.tags import read_tags
from menura.effects.loudness import FULL_SCALE, Match, towards
from menura.errors import EncodeError
from menura.options import FORMATS, ConversionOptions
from menura.system.files import check_writable, parts_folder, remove_abandoned, writing
from menura.types import AudioBlock, FloatArray

if TYPE_CHECKING:
    from menura.pipeline.parts import PartFiles


class Sink:
    """Takes one conversion's sound: `check`, `open`, `write` ..., `finish`; or `discard` at any time."""

    path: Path | None = None
    format: str | None = None
    """One of FORMATS; None for samples in memory."""
    parts: Path | PartFiles | None = None
    """Where a long recording's finished parts may wait for the others; None where it isn't to be divided."""
    match: Match | None = None
    """What gives the sound the source's loudness, if that is still to be done; set before it is finished."""
    notes: tuple[str, ...] = ()
    """What there is to say of the output; complete when it is finished."""

    def check(self) -> None:
        """Raise MenuraError if nothing can be written there: before any work."""

    def open(self, sample_rate: int, channels: int = 1) -> None:
        """Begin. May raise MenuraError or OSError, as the others."""

    def spool(self) -> SampleSpool:
        """For sound that waits until all of it is known."""
        return SampleSpool()

    def write(self, samples: FloatArray) -> None:
        """Take (samples,), or with several channels (samples, channels), that are final."""

    def finish(self, check: Callable[[], None]) -> None:
        """Complete, in a background thread; `check` is called from time to time, and what it raises leaves nothing."""

    def discard(self) -> None: ...


class FileSink(Sink):
    """An audio file, with its peak limited; it appears when it is complete, in folders made for it.

    It gets the tags and the cover of `source`. `keep` are files (device, inode) that must not be replaced. Parts
    lie in a folder beside it until it is complete, if the recording may be `divided`.
    """

    def __init__(
        self,
        path: Path,
        options: ConversionOptions | None = None,
        *,
        source: Path | None = None,
        keep: frozenset[tuple[int, int]] = frozenset(),
        divided: bool = True,
    ) -> None:
        self._options = options or ConversionOptions()
        self.path: Path = path
        self.format = self._options.format or format_of(path)
        self._source, self._keep, self._rate, self._channels = source, keep, 0, 1
        self._spool: SampleSpool | None = None
        self.parts: Path | PartFiles | None = parts_folder(path) if divided else None

    def check(self) -> None:
        check_writable(self.path, EncodeError)
        if self.format is None:
            problem = f"unknown format '{self.path.suffix}'" if self.path.suffix else "the name has no ending"
            raise EncodeError(self.path, problem, f"End it in .{', .'.join(FORMATS)}, or give {{format}}")
        self._options.check_format(self.format)
        with suppress(OSError):
            status = self.path.stat()
            if (status.st_dev, status.st_ino) in self._keep:
                problem = "would overwrite a recording that is to be converted"
                raise EncodeError(self.path, problem, "Choose another output")

    def open(self, sample_rate: int, channels: int = 1) -> None:
        most = MOST_CHANNELS.get(self.format or "wav", channels)
        if channels > most:
            raise EncodeError(
                self.path, f"{self.format} takes up to {most} channels, not {channels}", "Use {format=wav}"
            )
        with writing(self.path, EncodeError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._rate, self._channels, self._spool = sample_rate, channels, self.spool()

    def spool(self) -> SampleSpool:
        return SampleSpool(self.path.parent)

    def write(self, samples: FloatArray) -> None:
        assert self._spool is not None
        self._spool.append(samples.reshape(-1))

    def finish(self, check: Callable[[], None]) -> None:
        assert self._spool is not None
        count, options, channels = self._spool.length_samples, self._options, self._channels
        with closing(self._spool) as spool:
            check()
            gain, self.notes = final_gain(options, spool.peak, self._blocks(check), self._rate, self.match)
            encoding = Encoding(options.bitrate, options.quality, options.bit_depth or DEFAULT_BIT_DEPTH)
            tags = None if self._source is None else read_tags(self._source)
            with AudioWriter(self.path, self._rate, self.format, encoding, tags, count, channels) as writer:
                for samples in self._blocks(check, gain):
                    writer.write(samples)
        if self.parts is not None:
            remove_abandoned([parts_folder(self.path)])

    def discard(self) -> None:
        if self._spool is not None:
            self._spool.close()

    def _blocks(self, check: Callable[[], None], gain: float = 1.0) -> Iterator[FloatArray]:
        assert self._spool is not None
        for samples in self._spool.blocks(self._rate * self._channels, gain):
            check()
            yield samples if self._channels == 1 else samples.reshape(-1, self._channels)


class MemorySink(Sink):
    """Keeps blocks until they are taken; their peak isn't limited, as it is known only at the end."""

    def __init__(self) -> None:
        self.sample_rate = 0
        self._blocks: list[AudioBlock] = []
        self._none: FloatArray = np.zeros(0, dtype=np.float32)
        self._length_samples = 0

    def open(self, sample_rate: int, channels: int = 1) -> None:
        self.sample_rate = sample_rate
        self._none = np.zeros(0 if channels == 1 else (0, channels), dtype=np.float32)

    def write(self, samples: FloatArray) -> None:
        start = self._length_samples
        self._blocks.append(AudioBlock(start_samples=start, samples=samples, sample_rate=self.sample_rate))
        self._length_samples += len(samples)

    def discard(self) -> None:
        self._blocks.clear()

    def take(self) -> list[AudioBlock]:
        """The blocks since the last call."""
        blocks, self._blocks = self._blocks, []
        return blocks

    def joined(self) -> FloatArray:
        """All samples that weren't taken yet, (samples,) or (samples, channels)."""
        return np.concatenate([self._none, *(block.samples for block in self.take())])


def final_gain(
    options: ConversionOptions, peak: float, blocks: Iterable[FloatArray], rate_hz: int, match: Match | None
) -> tuple[float, tuple[str, ...]]:
    """What all of a sound in blocks is multiplied by: for the loudness asked for, or for full scale; and notes."""
    if match is not None:
        return match.limited(peak)
    if not isinstance(options.loudness, float):
        return FULL_SCALE / peak if peak > FULL_SCALE else 1.0, ()
    return towards(options.loudness, blocks, rate_hz)
