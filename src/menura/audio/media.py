"""Decoding by PyAV (FFmpeg's libraries): m4a aac webm mp4 mkv mov wma ac3 and the rest. Optional: extra `media`."""

from __future__ import annotations

import contextlib
import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from menura.audio.containers.survey import PieceFile
from menura.errors import DecodeError
from menura.system.interrupts import deferred_interrupts
from menura.types import AudioInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from menura.audio.containers.survey import Survey
    from menura.types import FloatArray

_SIGNATURES = (
    (4, b"ftyp"),
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # ASF: wma, wmv
    (0, b"\xff\xf1"),  # AAC in ADTS
    (0, b"\xff\xf9"),
    (0, b"\x0b\x77"),  # AC-3
    (0, b"#!AMR"),
    (0, b"FLV"),
    (0, b"wvpk"),
    (0, b"MAC "),
    (8, b"AVI "),
)
_MOST_DAMAGES = 1000
"""Damaged packets after which the rest is given up."""
_SLACK_S = 0.25
"""A container's duration may be this much longer than its sound without anything being missing."""


def media_missing_message(path: Path) -> str:
    """What to do about a file that needs PyAV where it isn't installed."""
    return f"{path}: this format needs PyAV: pip install 'menura[media]' (its wheels bundle GPL codecs)."


class MediaSource:
    """A file that FFmpeg's libraries understand.

    What FFmpeg knows of priming samples (MP4 edit lists, Opus and Matroska delays) is left out of the sound; in MP4 the
    padding at the end too. Raw AAC, MPEG-TS, FLV and AVI don't say, and begin with their codec's delay.
    """

    def __init__(self, path: Path, survey: Survey) -> None:
        """Open `path`, of which `survey` was made, and decode its first samples.

        Raises:
            DecodeError: FFmpeg doesn't know the format, there is no audio track, or it has no samples.
        """
        self._path = path
        self._survey = survey
        self._duration_s: float | None = None
        # What the decoder gives counts, not the header: HE-AAC declares half the rate that comes out.
        first = next(self._decoded(lambda _: None), None)
        if first is None:
            raise DecodeError(f"{path}: the file holds no samples.")
        self._rate_hz = int(first.sample_rate)
        self._channels = len(first.layout.channels)
        self._announced = None if self._duration_s is None else round(self._duration_s * self._rate_hz)
        self.info = AudioInfo(
            sample_rate=self._rate_hz,
            channels=self._channels,
            length_samples=self._announced,
        )

    @staticmethod
    def available() -> bool:
        """Whether PyAV is installed."""
        return importlib.util.find_spec("av") is not None

    @staticmethod
    def recognises(path: Path) -> bool:
        """Whether the first bytes are those of a container that PyAV would be needed for."""
        with path.open("rb") as file:
            head = file.read(16)
        return any(head[at : at + len(magic)] == magic for at, magic in _SIGNATURES)

    def frames(self, warn: Callable[[str], None]) -> Iterator[FloatArray]:
        """Yield (samples, channels) float32 from the start; call `warn` where the file is damaged.

        The number of channels may change on the way, as it does in broadcasts.
        """
        packer = _Packer()
        count = 0
        held: FloatArray | None = None
        stated: int | None = None
        for frame in self._decoded(warn):
            if frame.sample_rate != self._rate_hz:
                warn("The rate changes within the file; parts at another rate were left out.")
                continue
            if held is not None:
                count += len(held)
                yield held
            held = packer.pack(frame, warn)
            stated = _stated_samples(frame)
        if held is not None:
            # Only of the last frame a part may be padding.
            held = held[:stated]
            count += len(held)
            yield held
        self._judge(count, warn)

    def _judge(self, count: int, warn: Callable[[str], None]) -> None:
        announced, rate_hz = self._announced, self._rate_hz
        if announced is not None and announced - count > _SLACK_S * rate_hz:
            warn(
                f"The file is damaged or cut off: {count / rate_hz:.2f} s of {announced / rate_hz:.2f} s could be read."
            )
        elif self._survey.cut_off:
            warn(f"The file is cut off: its end is missing; {count / rate_hz:.2f} s could be read.")

    def _decoded(self, warn: Callable[[str], None]) -> Iterator[Any]:
        import av

        with self._path.open("rb") as file:
            try:
                # Without a name, which would be taken as a hint; and with inline data as the only protocol: a playlist
                # must not fetch others.
                pieces = PieceFile(file, (range(file.seek(0, 2)),))
                with deferred_interrupts():
                    container = av.open(pieces, options={"protocol_whitelist": "data"}, metadata_errors="replace")
            except (av.error.FFmpegError, ValueError) as error:
                if pieces.error is not None:
                    raise pieces.error from error
                if self._survey.cut_off:
                    raise DecodeError(f"{self._path}: is cut off, and what is left can't be decoded.") from error
                raise DecodeError(f"{self._path}: is not audio that Menura can read.") from error
            with container:
                if not container.streams.audio:
                    raise DecodeError(f"{self._path}: has no audio track.")
                self._measure(container)
                yield from self._decode_stream(container, warn)
                if pieces.error is not None:
                    raise pieces.error

    def _measure(self, container: Any) -> None:
        """Take the duration of containers that state it; others only have FFmpeg's guess from the file's size."""
        stream = container.streams.audio[0]
        if "mp4" in container.format.name and stream.duration:
            self._duration_s = float(stream.duration * stream.time_base)
        elif "matroska" in container.format.name and container.duration and not container.streams.video:
            self._duration_s = container.duration / 1_000_000

    def _decode_stream(self, container: Any, warn: Callable[[str], None]) -> Iterator[Any]:
        import av

        packets = container.demux(container.streams.audio[0])
        for _ in range(_MOST_DAMAGES):
            with contextlib.suppress(av.error.FFmpegError):
                while (frames := self._next_frames(packets, warn)) is not None:
                    yield from frames
                return
            warn("The file is damaged; what could be decoded was used.")

    def _next_frames(self, packets: Iterator[Any], warn: Callable[[str], None]) -> list[Any] | None:
        with deferred_interrupts():
            packet = next(packets, None)
            if packet is None:
                return None
            if packet.is_corrupt:
                warn("The file is damaged; what could be decoded was used.")
            return list(packet.decode())


def _stated_samples(frame: Any) -> int | None:
    """Samples of a frame as its container has it, None where that counts in coarser steps."""
    step = frame.time_base * frame.sample_rate if frame.time_base else 0
    return round(frame.duration * step) if frame.duration and 0 < step <= 2 else None


class _Packer:
    """Turns frames of any sample format into (samples, channels) float32, full scale 1.

    PyAV misreads planar frames of eight and more channels (it looks for planes beyond the list's end), so FFmpeg packs
    them.
    """

    def __init__(self) -> None:
        self._kind: tuple[str, str] | None = None
        self._resampler: Any = None

    def pack(self, frame: Any, warn: Callable[[str], None]) -> FloatArray:
        """Pack one frame; one that FFmpeg's converter refuses, as damage makes them, is left out."""
        import av

        kind = (frame.format.name, frame.layout.name)
        if kind != self._kind:
            self._kind, self._resampler = kind, av.AudioResampler(format="flt")
        channels = len(frame.layout.channels)
        try:
            packed = [piece.to_ndarray().reshape(-1, channels) for piece in self._resampler.resample(frame)]
        except (av.error.FFmpegError, ValueError):
            warn("The file is damaged; what could be decoded was used.")
            self._kind, packed = None, []
        samples: FloatArray = np.concatenate(packed) if packed else np.zeros((0, channels), np.float32)
        return samples
