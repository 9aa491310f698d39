"""Decoding by PyAV (FFmpeg's libraries): m4a aac webm mp4 mkv mov wma ac3 and the rest. Optional: extra `media`."""

from __future__ import annotations

import contextlib
import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np

from menura.audio.containers.structure import PieceFile
from menura.audio.sndfile import judge, silence
from menura.errors import DecodeError
from menura.system.interrupts import deferred_interrupts
from menura.types import AudioInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from menura.audio.containers.structure import Structure
    from menura.audio.decode import Findings
    from menura.types import FloatArray

_MOST_DAMAGES = 1000
"""Damaged packets after which the rest is given up."""
_SLACK_S = 0.25
"""A container's duration may be this much longer than its sound without anything being missing."""
_TIMED = ("matroska", "mp4", "flv", "asf")
"""Containers in which a hole between two timestamps is silence; transport streams' clocks jump."""
_HOLE_S, _BACK_S, _MOST_SILENCE_S = 0.05, 1.0, 6 * 3600.0
_DAMAGED = "damaged; what could be decoded was used"


MEDIA_ADVICE = "PyAV reads more formats: pip install 'menura[media]' (its wheels bundle GPL codecs)"


def open_container(file: Any) -> Any:
    """PyAV's container of an open binary file.

    Without a name, which would be taken as a hint; and with inline data as the only protocol: a playlist must not fetch
    others.
    """
    import av

    # Before 19, tags that aren't UTF-8 are errors unless said otherwise; from then on there is nothing to say.
    tolerant: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}
    return av.open(file, options={"protocol_whitelist": "data"}, **tolerant)


class MediaSource:
    """A file that FFmpeg's libraries understand.

    What FFmpeg knows of priming samples (MP4 edit lists, Opus and Matroska delays) is left out of the sound; in MP4 the
    padding at the end too. Raw AAC, MPEG-TS, FLV and AVI don't say, and begin with their codec's delay.
    """

    def __init__(self, path: Path, structure: Structure) -> None:
        """Open `path`, of which `structure` was made, and decode its first samples.

        Raises:
            DecodeError: FFmpeg doesn't know the format, there is no audio track, or it has no samples.
        """
        self._path = path
        self._structure = structure
        with self._opened() as container:
            # What the decoder gives counts, not the header: HE-AAC declares half the rate that comes out.
            first = next(_frames(container, lambda _: None), None)
            if first is None:
                raise DecodeError(path, "contains no audio")
            announced_s = _stated_s(container)
        self.info = AudioInfo(
            sample_rate=int(first.sample_rate),
            channels=len(first.layout.channels),
            length_samples=None if announced_s is None else round(announced_s * first.sample_rate),
        )

    @staticmethod
    def available() -> bool:
        """Whether PyAV is installed."""
        return importlib.util.find_spec("av") is not None

    def chunks(self, findings: Findings) -> Iterator[FloatArray]:
        """Yield (samples, channels) float32 from the start, silence where the timestamps leave a hole.

        The number of channels may change on the way, as it does in broadcasts.
        """
        with self._opened() as container:
            count = 0
            for chunk in self._timed(container, findings):
                count += len(chunk)
                yield chunk
        announced, rate_hz = self.info.length_samples, self.info.sample_rate
        slack_samples = round(_SLACK_S * rate_hz)
        judge(self._structure, findings, count, announced or count, rate_hz, slack_samples=slack_samples)

    def _timed(self, container: Any, findings: Findings) -> Iterator[FloatArray]:
        tracks = len(container.streams.audio)
        if tracks > 1:
            chosen = container.streams.audio.index(_track(container)) + 1
            findings.note(f"The file has {tracks} audio tracks; track {chosen} was used.")
        packer, holes = _Packer(), _Holes(self.info.sample_rate, container.format.name)
        held: FloatArray | None = None
        stated: int | None = None
        for frame in _frames(container, findings.damaged):
            if frame.sample_rate != self.info.sample_rate:
                findings.damaged("the sample rate changes within the file; parts at another rate were left out")
                continue
            if held is not None:
                yield held
            held = packer.pack(frame, findings)
            yield from silence(holes.before(frame, len(held), findings), held.shape[1])
            stated = _stated_samples(frame)
        if held is not None:
            yield held[:stated]  # only of the last frame a part may be padding

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        import av

        with self._path.open("rb") as file:
            try:
                pieces = PieceFile(file, (range(file.seek(0, 2)),))
                with deferred_interrupts():
                    container = open_container(pieces)
            except (av.error.FFmpegError, ValueError) as error:
                if pieces.error is not None:
                    raise pieces.error from error
                if self._structure.cut_off:
                    raise DecodeError(self._path, "cut off, and what is left can't be decoded") from error
                raise DecodeError(self._path, "unsupported or damaged audio file") from error
            with container:
                if not container.streams.audio:
                    raise DecodeError(self._path, "has no audio track")
                yield container
                if pieces.error is not None:
                    raise pieces.error


def _track(container: Any) -> Any:
    """The audio track that is flagged as the default, else the first."""
    from av.stream import Disposition

    tracks = container.streams.audio
    return next((track for track in tracks if track.disposition & Disposition.default), tracks[0])


def _stated_s(container: Any) -> float | None:
    """The duration where the container states it; of others FFmpeg only has a guess from the file's size."""
    stream = _track(container)
    if "mp4" in container.format.name and stream.duration:
        return float(stream.duration * stream.time_base)
    if "matroska" in container.format.name and container.duration and not container.streams.video:
        return float(container.duration / 1_000_000)
    return None


def _frames(container: Any, warn: Callable[[str], None]) -> Iterator[Any]:
    import av

    packets = container.demux(_track(container))
    for _ in range(_MOST_DAMAGES):
        with contextlib.suppress(av.error.FFmpegError):
            while (frames := _next_frames(packets, warn)) is not None:
                yield from frames
            return
        warn(_DAMAGED)


def _next_frames(packets: Iterator[Any], warn: Callable[[str], None]) -> list[Any] | None:
    with deferred_interrupts():
        packet = next(packets, None)
        if packet is None:
            return None
        if packet.is_corrupt:
            warn(_DAMAGED)
        return list(packet.decode())


def _stated_samples(frame: Any) -> int | None:
    """Samples of a frame as its container has it, None where that counts in coarser steps."""
    step = frame.time_base * frame.sample_rate if frame.time_base else 0
    return round(frame.duration * step) if frame.duration and 0 < step <= 2 else None


class _Holes:
    """Silence between frames whose timestamps leave a hole."""

    def __init__(self, rate_hz: int, container: str) -> None:
        self._rate_hz = rate_hz
        self._timed = any(name in container for name in _TIMED)
        self._left_s = _MOST_SILENCE_S
        self._expected_s: float | None = None

    def before(self, frame: Any, samples: int, findings: Findings) -> int:
        """Samples of silence before a frame that has so many samples."""
        if not self._timed:
            return 0
        gap_s = 0.0
        if frame.pts is not None and frame.time_base:
            at_s = float(frame.pts * frame.time_base)
            gap_s = at_s - self._expected_s if self._expected_s is not None else 0.0
            # A little back is rounding, or a clock that differs from the sound's; much back is a new one.
            if self._expected_s is None or gap_s > 0 or gap_s < -_BACK_S:
                self._expected_s = at_s
        if self._expected_s is not None:
            self._expected_s += samples / self._rate_hz
        if gap_s <= _HOLE_S:
            return 0
        if gap_s > self._left_s:
            findings.damaged(f"a gap of {gap_s:.0f} s in the timestamps was ignored")
            return 0
        self._left_s -= gap_s
        return round(gap_s * self._rate_hz)


class _Packer:
    """Turns frames of any sample format into (samples, channels) float32, full scale 1.

    PyAV misreads planar frames of eight and more channels (it looks for planes beyond the list's end), so FFmpeg packs
    them.
    """

    def __init__(self) -> None:
        self._kind: tuple[str, str] | None = None
        self._resampler: Any = None

    def pack(self, frame: Any, findings: Findings) -> FloatArray:
        """Pack one frame; one that FFmpeg's converter refuses, as damage makes them, is left out."""
        import av

        kind = (frame.format.name, frame.layout.name)
        if kind != self._kind:
            self._kind, self._resampler = kind, av.AudioResampler(format="flt")
        channels = len(frame.layout.channels)
        try:
            packed = [piece.to_ndarray().reshape(-1, channels) for piece in self._resampler.resample(frame)]
        except (av.error.FFmpegError, ValueError):
            findings.damaged(_DAMAGED)
            self._kind, packed = None, []
        samples: FloatArray = np.concatenate(packed) if packed else np.zeros((0, channels), np.float32)
        return samples
