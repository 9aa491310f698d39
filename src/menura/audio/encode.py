"""Writing recordings: wav flac ogg mp3 opus by libsndfile, m4a by PyAV (extra `media`).

A file appears under its name only when it is complete. Every format keeps the exact number of samples, none shifted;
in m4a the edit list and the duration of the last packet say where the sound ends, and players that heed only the first
give up to 1023 samples of padding more.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import soundfile

from menura.audio.tags import Tags, flac_picture, id3_tag
from menura.errors import EncodeError
from menura.options import FORMATS
from menura.system.files import NewFile, check_writable, writing
from menura.system.interrupts import deferred_interrupts
from menura.types import FloatArray

MOST_CHANNELS = {"mp3": 2, "m4a": 2, "ogg": 2, "opus": 2, "flac": 8}  # libsndfile doesn't put more in ogg's order
_CODEC_RATES_HZ: dict[str, Sequence[int]] = {
    "ogg": range(192_001),  # libvorbis has no setup beyond 200 kHz, and libsndfile crashes when it asks for one
    "opus": (8_000, 12_000, 16_000, 24_000, 48_000),
    "mp3": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    "m4a": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000),
}
_SAMPLE_BYTES = 4
DEFAULT_BIT_DEPTH = 16
_SUBTYPES = {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}  # by bits of a sample
_MP3_KBPS = ((8, 160), (32, 320))  # least and largest bitrate of MPEG-2, which is for rates below 32 kHz, and of MPEG-1
_OPUS_KBPS = (6, 256)
_FLAC_HEADER_BYTES = 42  # the signature and the stream's description, after which other blocks may stand
_WAVE_BYTES = 2**32 - 2**16  # bytes of samples that surely fit a wav file, whose sizes have 32 bits
_SUFFIX_FORMATS = {".oga": "ogg", ".wave": "wav"} | {f".{format}": format for format in FORMATS}


def codec_rate(format: str, rate_hz: int) -> int:
    """Rate at which `format` can hold a signal of `rate_hz`: the same, or the next higher, or highest, of the codec."""
    rates = _CODEC_RATES_HZ.get(format)
    return rates[min(bisect_left(rates, rate_hz), len(rates) - 1)] if rates else rate_hz


def least_samples(format: str) -> int:
    """Samples that a file of `format` must have: most codecs write nothing at all, or what none reads, for none."""
    return 0 if format in ("wav", "ogg") else 1


def format_of(path: Path) -> str | None:
    return _SUFFIX_FORMATS.get(path.suffix.lower())


class SampleSpool:
    """Mono float32 samples between two passes: up to `memory_bytes` in memory, more in a nameless file.

    That is in `folder`, by default the system's for such files.
    """

    def __init__(self, folder: Path | None = None, memory_bytes: int = 8 * 2**20) -> None:
        self._folder = folder = folder or Path(tempfile.gettempdir())
        # Closed by close(): a context manager here would end with the constructor.
        self._file = tempfile.SpooledTemporaryFile(memory_bytes, dir=str(folder), prefix="menura-")  # noqa: SIM115
        self.length_samples = 0
        self.peak = 0.0
        """Largest |sample| so far."""

    def append(self, samples: FloatArray) -> None:
        """Add (samples,) at the end; ResourceError where the disk is full."""
        with writing(self._folder):
            self._file.seek(0, os.SEEK_END)
            self._file.write(np.ascontiguousarray(samples, dtype=np.float32).data)
        self.length_samples += len(samples)
        self.peak = max(self.peak, float(np.abs(samples).max(initial=0.0)))

    def blocks(self, block_samples: int, gain: float = 1.0) -> Iterator[FloatArray]:
        """All samples, (block_samples,) or fewer at a time; ResourceError where the disk is full."""
        for start in range(0, self.length_samples, block_samples):
            yield self.read(start, min(block_samples, self.length_samples - start)) * np.float32(gain)

    def read(self, start: int, count: int) -> FloatArray:
        """(count,) samples from a place on; ResourceError where the disk is full."""
        with writing(self._folder):
            self._file.flush()  # Python 3.14 keeps up to 128 KiB back
        self._file.seek(start * _SAMPLE_BYTES)
        return np.frombuffer(self._file.read(count * _SAMPLE_BYTES), dtype=np.float32)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what a full disk left in a buffer isn't wanted either
            self._file.close()


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a format stores sound; what a format doesn't have is ignored there."""

    bitrate_kbps: int | None = None
    """mp3, opus, m4a; None is variable in mp3, 181 kbps in opus, 160 in m4a."""
    quality: float | None = None
    """ogg, mp3: 0 to 10; None is 7 in ogg, 10 in mp3."""
    bit_depth: int = DEFAULT_BIT_DEPTH
    """wav, flac: 16, 24, or in wav 32: floating point, which isn't clipped."""


class AudioWriter:
    """Writes one recording; use it as a context manager. Each method may raise EncodeError.

    Folders above the file are made. The rate must be one that `codec_rate` gives; the format is by default the one of
    the name's ending, else wav, which is written as RF64 where `expected_samples` need that.
    """

    def __init__(
        self,
        path: Path | str,
        sample_rate: int,
        format: str | None = None,
        encoding: Encoding | None = None,
        tags: Tags | None = None,
        expected_samples: int = 0,
        channels: int = 1,
    ) -> None:
        self.path = Path(path)
        self.format = format or format_of(self.path) or "wav"
        self._finished = False
        encoding, tags = encoding or Encoding(), tags or Tags()
        self._clips = self.format != "wav" or encoding.bit_depth < 32
        if self.format not in FORMATS:
            raise EncodeError(self.path, f"'{self.format}' is not one of {', '.join(FORMATS)}")
        if codec_rate(self.format, sample_rate) != sample_rate:
            raise EncodeError(self.path, f"{self.format} doesn't support {sample_rate} Hz")
        long_wave = self.format == "wav" and expected_samples * (encoding.bit_depth // 8) > _WAVE_BYTES
        check_writable(self.path, EncodeError)
        with writing(self.path, EncodeError):
            self._file = NewFile(self.path)
            try:
                with deferred_interrupts():
                    self._output = _Output(self._file.file, *_inserted(self.format, tags))
                    container = "rf64" if long_wave else self.format
                    encoder = _AacEncoder if self.format == "m4a" else _SndfileEncoder
                    self._encoder = encoder(self._output, (sample_rate, channels), container, encoding, tags)
            except BaseException:
                self._file.discard()
                raise

    def write(self, samples: FloatArray) -> None:
        """Append (samples,) or (samples, channels) float32; clipped to full scale; what is no number becomes 0."""
        if self._finished:
            raise ValueError("The writer is closed.")
        with self._guard():
            # Codecs go by full scale, and libmp3lame ends the whole process when it meets a NaN.
            finite = np.nan_to_num(samples.astype(np.float32), posinf=1.0, neginf=-1.0)
            self._encoder.write(np.clip(finite, -1.0, 1.0) if self._clips else finite)
            self._output.check()

    def close(self) -> None:
        """Finish the file and give it its name. Closing twice does nothing."""
        if self._finished:
            return
        with self._guard():
            self._encoder.close()
            self._output.check()
            self._file.publish()
        self._finished = True

    def abort(self) -> None:
        if self._finished:
            return
        self._finished = True
        try:
            with contextlib.suppress(Exception), deferred_interrupts(cleaning_up=True):
                self._encoder.close()
        finally:  # a second Ctrl-C may have come meanwhile
            self._file.discard()

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close() if kind is None else self.abort()

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            with deferred_interrupts():
                yield
        except BaseException as error:
            failure = self._output.error
            self.abort()
            with writing(self.path, EncodeError):
                if failure is not None:
                    raise failure from error
                if isinstance(error, soundfile.LibsndfileError):
                    raise EncodeError(self.path, f"can't be encoded: {error.error_string.rstrip('.')}") from error
                raise


class _Output:
    """A file for libsndfile and FFmpeg, whose callbacks swallow errors of writing: it remembers the first.

    They don't see what is `inserted` at a byte.
    """

    def __init__(self, file: BinaryIO, inserted: bytes, at: int) -> None:
        self._file, self._at, self._hidden = file, at, len(inserted)
        self._position = 0
        self.error: OSError | None = None
        file.seek(at)
        file.write(inserted)
        self.seek(0)

    def write(self, data: bytes) -> int:
        before = max(0, self._at - self._position)
        for piece in (data[:before], data[before:]):
            if self._position == self._at:
                self.seek(self._at)
            self._position += len(piece)
            with self._remembering():
                self._file.write(piece)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with self._remembering():
            if whence == os.SEEK_CUR:
                offset += self._position
            elif whence == os.SEEK_END:
                offset += self._file.seek(0, os.SEEK_END) - self._hidden
            self._position = offset
            self._file.seek(offset + (self._hidden if offset >= self._at else 0))
        return offset

    def tell(self) -> int:
        return self._position

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    @contextlib.contextmanager
    def _remembering(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.error = self.error or error


def _inserted(format: str, tags: Tags) -> tuple[bytes, int]:
    """What libsndfile doesn't write itself, and where it stands."""
    if format == "mp3":
        return id3_tag(tags), 0
    if format == "flac" and tags.cover is not None:
        return flac_picture(tags.cover), _FLAC_HEADER_BYTES
    return b"", 0


class _SndfileEncoder:
    def __init__(self, file: _Output, shape: tuple[int, int], container: str, encoding: Encoding, tags: Tags) -> None:
        rate_hz, channels = shape
        pcm = _SUBTYPES[encoding.bit_depth]
        self._integer = container in ("wav", "rf64", "flac") and pcm == "PCM_16"
        major, coding, level = {
            "wav": ("WAV" if channels < 3 else "WAVEX", pcm, None),  # which says what 4, 6 or 8 channels are
            "rf64": ("RF64", pcm, None),
            "flac": ("FLAC", pcm, None),
            "ogg": ("OGG", "VORBIS", _level(encoding, 7, _OPUS_KBPS)),  # it has no bitrate to set
            "opus": ("OGG", "OPUS", _level(encoding, 7, _OPUS_KBPS)),
            "mp3": ("MP3", "MPEG_LAYER_III", _level(encoding, 10, _MP3_KBPS[rate_hz >= 32_000])),
        }[container]
        mode = "CONSTANT" if encoding.bitrate_kbps else "VARIABLE"
        self._sound = soundfile.SoundFile(
            file, "w", rate_hz, channels, coding, format=major, compression_level=level,
            bitrate_mode=mode if container == "mp3" else None,
        )  # fmt: skip
        if container != "mp3":
            for name, text in tags.texts.items():
                setattr(self._sound, "tracknumber" if name == "track" else name, text)

    def write(self, samples: FloatArray) -> None:
        if self._integer:  # libsndfile would truncate; rounding keeps the error within half a step
            self._sound.write(pcm16(samples))
        else:
            self._sound.write(samples)

    def close(self) -> None:
        self._sound.close()


class _AacEncoder:
    """AAC in MP4 by PyAV."""

    def __init__(self, file: _Output, shape: tuple[int, int], container: str, encoding: Encoding, tags: Tags) -> None:
        rate_hz, channels = shape
        try:
            import av
        except ImportError as error:
            advice = "Install it with pip install 'menura[media]' (its wheels bundle GPL codecs), or use another format"
            raise EncodeError(None, "m4a needs PyAV", advice) from error
        self._av, self._rate_hz, self._position_samples = av, rate_hz, 0
        self._layout = "mono" if channels == 1 else "stereo"
        # The edit list, which takes the priming and padding off, counts in this scale: milliseconds by default.
        self._container = av.open(file, "w", format="mp4", options={"movie_timescale": str(rate_hz)})
        bit_rate = 1000 * (encoding.bitrate_kbps or 160)
        self._stream: Any = self._container.add_stream("aac", rate=rate_hz, layout=self._layout, bit_rate=bit_rate)
        self._container.metadata.update(tags.texts)
        if tags.cover is not None and hasattr(self._container, "add_mux_stream"):  # not in the oldest PyAV
            codec = "png" if tags.cover.mime == "image/png" else "mjpeg"
            picture = self._container.add_mux_stream(codec, width=1, height=1)
            picture.disposition = av.stream.Disposition.attached_pic
            packet = av.Packet(tags.cover.data)
            packet.stream, packet.pts, packet.dts = picture, 0, 0
            self._container.start_encoding()
            self._container.mux(packet)

    def write(self, samples: FloatArray) -> None:
        if not len(samples):
            return
        planes = np.ascontiguousarray(np.atleast_2d(samples.T))
        frame = self._av.AudioFrame.from_ndarray(planes, format="fltp", layout=self._layout)
        frame.sample_rate, frame.time_base = self._rate_hz, Fraction(1, self._rate_hz)
        frame.pts = self._position_samples
        self._position_samples += len(samples)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()


def _level(encoding: Encoding, quality: float, range_kbps: tuple[int, int]) -> float:
    """Libsndfile's compression level: 0 is the codec's best quality or largest bitrate."""
    least, largest = range_kbps
    if encoding.bitrate_kbps is None:
        level = 1 - (quality if encoding.quality is None else encoding.quality) / 10
    else:
        level = (largest - encoding.bitrate_kbps) / (largest - least)
    return min(max(level, 0.0), 0.999)  # LAME knows no 1


def pcm16(samples: FloatArray) -> npt.NDArray[np.int16]:
    """Rounded to 16 bits and clipped: the error is within half a step."""
    rounded: npt.NDArray[np.int16] = np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(np.int16)
    return rounded
