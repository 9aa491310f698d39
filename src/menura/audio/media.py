"""Decoding by PyAV (FFmpeg's libraries): m4a aac webm mp4 mkv mov wma ac3 and the rest. Optional: extra `media`."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from menura.audio.containers.structure import PieceFile, Structure
from menura.audio.sndfile import ANOTHER_RATE, NO_SAMPLES, UNSUPPORTED, Findings, silence
from menura.errors import DecodeError
from menura.system.interrupts import deferred_interrupts
from menura.types import AudioInfo, FloatArray

MEDIA_ADVICE = "PyAV reads more formats: pip install 'menura[media]' (its wheels bundle GPL codecs)"
_MOST_DAMAGES = 1000
"""Damaged packets after which the rest is given up."""
_TIMED = ("matroska", "mp4", "flv", "asf")
"""Containers in which a hole between two timestamps is silence; transport streams' clocks jump."""
_HOLE_S, _BACK_S, _MOST_SILENCE_S = 0.05, 1.0, 6 * 3600.0
_DAMAGED = "damaged; what could be decoded was used"


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

    slack_s = 0.25
    """A container's duration may be this much longer than its sound without anything being missing."""

    def __init__(self, path: Path, structure: Structure) -> None:
        """Open `path`, of which `structure` was made, and decode its first samples.

        Raises:
            DecodeError: FFmpeg doesn't know the format, there is no audio track, or it has no samples.
        """
        self._path, self._cut_off = path, structure.cut_off
        with self._opened() as container:
            # What the decoder gives counts, not the header: HE-AAC declares half the rate that comes out.
            first = next(_frames(container, lambda _: None), None)
            if first is None:
                raise DecodeError(path, NO_SAMPLES)
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
            tracks = container.streams.audio
            if len(tracks) > 1:
                chosen = tracks.index(_track(container)) + 1
                findings.note(f"The file has {len(tracks)} audio tracks; track {chosen} was used.")
            frames = _trimmed(_packed(container, self.info.sample_rate, findings))
            if any(name in container.format.name for name in _TIMED):
                yield from _without_holes(frames, self.info.sample_rate, findings)
            else:
                yield from (samples for _, samples in frames)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Any]:
        import av

        with self._path.open("rb") as file, PieceFile(file, (range(file.seek(0, 2)),)) as pieces:
            try:
                with deferred_interrupts():
                    container = open_container(pieces)
            except (av.error.FFmpegError, ValueError) as error:
                raise DecodeError(
                    self._path, "cut off, and what is left can't be decoded" if self._cut_off else UNSUPPORTED
                ) from error
            with container:
                if not container.streams.audio:
                    raise DecodeError(self._path, "has no audio track")
                yield container


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
            while True:
                with deferred_interrupts():
                    packet = next(packets, None)
                    if packet is None:
                        return
                    if packet.is_corrupt:
                        warn(_DAMAGED)
                    frames = list(packet.decode())
                yield from frames
        warn(_DAMAGED)


def _packed(container: Any, rate_hz: int, findings: Findings) -> Iterator[tuple[Any, FloatArray]]:
    """Frames of any sample format, each as (samples, channels) float32 too, full scale 1.

    PyAV misreads planar frames of eight and more channels (it looks for planes beyond the list's end), so FFmpeg packs
    them; what its converter refuses, as damage makes it, is left out.
    """
    import av

    frames = _frames(container, findings.damaged)
    for kind, run in groupby(frames, lambda frame: (frame.sample_rate, frame.format.name, frame.layout.name)):
        if kind[0] != rate_hz:
            findings.damaged(ANOTHER_RATE)
            continue
        resampler: Any = av.AudioResampler(format="flt")
        for frame in run:
            channels = len(frame.layout.channels)
            packed = [np.zeros((0, channels), np.float32)]
            try:
                packed += [piece.to_ndarray().reshape(-1, channels) for piece in resampler.resample(frame)]
            except (av.error.FFmpegError, ValueError):
                findings.damaged(_DAMAGED)
                resampler = av.AudioResampler(format="flt")
            yield frame, np.concatenate(packed)


def _trimmed(frames: Iterator[tuple[Any, FloatArray]]) -> Iterator[tuple[Any, FloatArray]]:
    """Without the padding that a container states for the last frame."""
    held: tuple[Any, FloatArray] | None = None
    for following in frames:
        if held is not None:
            yield held
        held = following
    if held is not None:
        frame, samples = held
        step = frame.time_base * frame.sample_rate if frame.time_base else 0  # coarser ones say nothing exact
        yield frame, samples[: round(frame.duration * step) if frame.duration and 0 < step <= 2 else None]


def _without_holes(frames: Iterator[tuple[Any, FloatArray]], rate_hz: int, findings: Findings) -> Iterator[FloatArray]:
    """Silence where timestamps leave a hole."""
    expected_s: float | None = None
    left_s = _MOST_SILENCE_S
    for frame, samples in frames:
        gap_s = 0.0
        if frame.pts is not None and frame.time_base:
            at_s = float(frame.pts * frame.time_base)
            gap_s = 0.0 if expected_s is None else at_s - expected_s
            # A little back is rounding, or a clock that differs from the sound's; much back is a new one.
            if expected_s is None or not -_BACK_S <= gap_s <= 0:
                expected_s = at_s
        if expected_s is not None:
            expected_s += len(samples) / rate_hz
        if _HOLE_S < gap_s <= left_s:
            left_s -= gap_s
            yield from silence(round(gap_s * rate_hz), samples.shape[1])
        elif gap_s > _HOLE_S:
            findings.damaged(f"a gap of {gap_s:.0f} s in the timestamps was ignored")
        yield samples
