"""Decoding by libsndfile, or by PyAV (FFmpeg's libraries, the extra `media`) what that doesn't know."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator
from itertools import chain, groupby, pairwise
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import soundfile

from menura.audio.containers.structure import Piece, PieceFile, Structure
from menura.audio.containers.xiph import rest_of_flac
from menura.errors import DecodeError
from menura.system.interrupts import deferred_interrupts
from menura.types import AudioInfo, FloatArray

NO_SAMPLES = "contains no audio"
UNSUPPORTED = "unsupported or damaged audio file"
ANOTHER_RATE = "the sample rate changes within the file; parts at another rate were left out"
_READ_SAMPLES = 1 << 15  # samples of all channels together that are asked of libsndfile at once
_ENDLESS_SAMPLES = 2**62  # libsndfile's length of a file that doesn't give one is beyond this
_MOST_DAMAGES = 1000  # damaged places or packets in one file after which the rest is given up
MEDIA_ADVICE = "PyAV reads more formats: pip install 'menura[media]' (its wheels bundle GPL codecs)"
_TIMED = ("matroska", "mp4", "flv", "asf")
"""Containers in which a hole between two timestamps is silence; transport streams' clocks jump."""
_HOLE_S, _BACK_S, _MOST_SILENCE_S = 0.05, 1.0, 6 * 3600.0
_DAMAGED = "damaged; what could be decoded was used"


Report: TypeAlias = Callable[[str], None]
"""Takes what can't be read; begins in lower case, without a full stop."""


class _Sound(soundfile.SoundFile):  # type: ignore[misc]
    """Only moves forward: soundfile seeks after every read, which a FLAC that is cut off refuses and MP3 pays for."""

    def seekable(self) -> bool:
        return False


class SndfileSource:
    """wav rf64 w64 flac ogg opus mp3 aiff au caf and libsndfile's other formats; DecodeError for all else."""

    notes: tuple[str, ...] = ()
    slack_s = 0.01
    """A length stated may be this much longer than the sound without anything being missing."""

    def __init__(self, path: Path, structure: Structure) -> None:
        self._path, self._parts = path, structure.parts
        lengths: list[int] = []
        with path.open("rb") as file:
            for part in self._parts:
                with self._opened(file, part) as sound:
                    if not lengths:
                        rate_hz, channels = sound.samplerate, sound.channels
                        silent = not len(_read(sound)[0])
                    lengths.append(sound.frames)
        if silent and len(lengths) == 1:
            raise DecodeError(path, NO_SAMPLES)
        length = structure.length_samples
        if length is None and max(lengths) < _ENDLESS_SAMPLES:
            length = sum(lengths)
        self.info = AudioInfo(sample_rate=rate_hz, channels=channels, length_samples=length)

    def chunks(self, damaged: Report) -> Iterator[FloatArray]:
        """Yield (samples, channels) float32."""
        with self._path.open("rb") as file:
            for part in self._parts:
                yield from self._part_chunks(file, part, damaged)

    def _part_chunks(self, file: BinaryIO, part: tuple[Piece, ...], damaged: Report) -> Iterator[FloatArray]:
        count, position, stream, rate_hz = 0, 0, part[0], self.info.sample_rate
        for _ in range(_MOST_DAMAGES):
            broken = False
            with self._opened(file, part) as sound:
                if sound.samplerate != rate_hz:
                    damaged(ANOTHER_RATE)
                    return
                while not broken:
                    chunk, broken = _read(sound)
                    if not len(chunk):
                        break
                    count += len(chunk)
                    yield chunk
            if not broken:
                return
            rest = rest_of_flac(file, stream, count, position) if isinstance(stream, range) else None
            if rest is None:
                if self.info.length_samples is None:  # else the total tells
                    damaged(f"damaged or cut off at {count / rate_hz:.2f} s")
                return
            start, position, part = rest
            gap_s = (start - count) / rate_hz
            damaged(f"damaged at {count / rate_hz:.2f} s: {gap_s:.2f} s were replaced by silence")
            yield from silence(start - count, self.info.channels)
            count = start

    @contextlib.contextmanager
    def _opened(self, file: BinaryIO, part: tuple[Piece, ...]) -> Iterator[_Sound]:
        with PieceFile(file, part) as pieces:
            try:
                with deferred_interrupts():
                    sound = _Sound(pieces)
            except soundfile.LibsndfileError as error:
                raise DecodeError(self._path, UNSUPPORTED) from error
            with sound:
                yield sound


def _read(sound: _Sound) -> tuple[FloatArray, bool]:
    """Read on; where that fails, True and the samples that were decoded before."""
    out = np.full((max(_READ_SAMPLES // sound.channels, 1), sound.channels), np.nan, dtype=np.float32)
    try:
        with deferred_interrupts():
            return sound.read(len(out), out=out), False
    except soundfile.LibsndfileError:
        # soundfile doesn't say how much it got; untouched places still hold NaN.
        untouched = np.isnan(out).all(axis=1)
        return out[: int(np.argmax(untouched))] if untouched.any() else out, True


def silence(samples: int, channels: int) -> Iterator[FloatArray]:
    """(samples, channels) zeros in chunks."""
    step = max(_READ_SAMPLES // channels, 1)
    for start in range(0, samples, step):
        yield np.zeros((min(step, samples - start), channels), dtype=np.float32)


def open_container(file: Any) -> Any:
    """PyAV's container of an open binary file, without a name that it would take as a hint."""
    import av

    # Before 19, tags that aren't UTF-8 are errors unless said otherwise; from then on there is nothing to say.
    tolerant: dict[str, Any] = {} if int(av.__version__.partition(".")[0]) >= 19 else {"metadata_errors": "replace"}
    # Inline data as the only protocol: a playlist must fetch nothing.
    return av.open(file, options={"protocol_whitelist": "data"}, **tolerant)


class MediaSource:
    """m4a aac webm mp4 mkv mov wma ac3 and FFmpeg's other formats.

    What FFmpeg knows of priming samples (MP4 edit lists, Opus and Matroska delays) is left out of the sound; in MP4 the
    padding at the end too. Raw AAC, MPEG-TS, FLV and AVI don't say, and begin with their codec's delay.
    """

    notes: tuple[str, ...] = ()
    slack_s = 0.25

    def __init__(self, path: Path, structure: Structure) -> None:
        self._path, self._cut_off = path, structure.cut_off
        with self._opened() as container:
            # What the decoder gives counts, not the header: HE-AAC declares half the rate that comes out.
            first = next(_frames(container, lambda _: None), None)
            if first is None:
                raise DecodeError(path, NO_SAMPLES)
            announced_s = _stated_s(container)
            tracks = container.streams.audio
            if len(tracks) > 1:
                chosen = tracks.index(_track(container)) + 1
                self.notes = (f"The file has {len(tracks)} audio tracks; track {chosen} was used.",)
        self.info = AudioInfo(
            sample_rate=int(first.sample_rate),
            channels=len(first.layout.channels),
            length_samples=None if announced_s is None else round(announced_s * first.sample_rate),
        )

    @staticmethod
    def available() -> bool:
        """Whether PyAV is installed."""
        return importlib.util.find_spec("av") is not None

    def chunks(self, damaged: Report) -> Iterator[FloatArray]:
        """Yield (samples, channels) float32; the number of channels may change on the way, as it does in broadcasts."""
        with self._opened() as container:
            frames = _trimmed(_packed(container, self.info.sample_rate, damaged))
            if any(name in container.format.name for name in _TIMED):
                yield from _without_holes(frames, self.info.sample_rate, damaged)
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
                problem = "cut off, and what is left can't be decoded" if self._cut_off else UNSUPPORTED
                raise DecodeError(self._path, problem) from error
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


def _frames(container: Any, damaged: Report) -> Iterator[Any]:
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
                        damaged(_DAMAGED)
                    frames = list(packet.decode())
                yield from frames
        damaged(_DAMAGED)


def _packed(container: Any, rate_hz: int, damaged: Report) -> Iterator[tuple[Any, FloatArray]]:
    """Frames of any sample format, each as (samples, channels) float32 too, full scale 1.

    PyAV misreads planar frames of eight and more channels (it looks for planes beyond the list's end), so FFmpeg packs
    them; what its converter refuses, as damage makes it, is left out.
    """
    import av

    frames = _frames(container, damaged)
    for kind, run in groupby(frames, lambda frame: (frame.sample_rate, frame.format.name, frame.layout.name)):
        if kind[0] != rate_hz:
            damaged(ANOTHER_RATE)
            continue
        resampler: Any = av.AudioResampler(format="flt")
        for frame in run:
            channels = len(frame.layout.channels)
            packed = [np.zeros((0, channels), np.float32)]
            try:
                packed += [piece.to_ndarray().reshape(-1, channels) for piece in resampler.resample(frame)]
            except (av.error.FFmpegError, ValueError):
                damaged(_DAMAGED)
                resampler = av.AudioResampler(format="flt")
            yield frame, np.concatenate(packed)


def _trimmed(frames: Iterator[tuple[Any, FloatArray]]) -> Iterator[tuple[Any, FloatArray]]:
    """Without the padding that a container states for the last frame."""
    for (frame, samples), (following, _) in pairwise(chain(frames, [(None, np.zeros(0, np.float32))])):
        step = frame.time_base * frame.sample_rate if frame.time_base else 0
        stated = frame.duration and 0 < step <= 2  # coarser ones aren't exact
        yield frame, samples[: round(frame.duration * step)] if stated and following is None else samples


def _without_holes(frames: Iterator[tuple[Any, FloatArray]], rate_hz: int, damaged: Report) -> Iterator[FloatArray]:
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
            damaged(f"a gap of {gap_s:.0f} s in the timestamps was ignored")
        yield samples
