"""Writing recordings: wav flac ogg mp3 opus by libsndfile, m4a by PyAV (extra `media`).

A file appears under its name only when it is complete: it is written beside it under a temporary name, and moved there
when the writer is closed. After an error or an abort neither is there.

Every format keeps the exact number of samples, none shifted: Menura reads back what it wrote, and FFmpeg does too from
wav, flac, ogg, mp3 (LAME's gapless tag) and opus (pre-skip and last granule). In m4a the edit list and the duration of
the last packet say where the sound ends; players that heed only the first give up to 1023 samples of padding more.
"""

from __future__ import annotations

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np
import soundfile

from menura.errors import EncodeError
from menura.options import FORMATS
from menura.system.files import NewFile, check_writable, writing
from menura.system.interrupts import deferred_interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    import numpy.typing as npt

    from menura.types import FloatArray

_CODEC_RATES_HZ = {
    "opus": (8_000, 12_000, 16_000, 24_000, 48_000),
    "mp3": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    "m4a": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 64_000, 88_200, 96_000),
}
_EMPTY_FORMATS = ("wav", "ogg")
_SAMPLE_BYTES = {"PCM_16": 2, "PCM_24": 3, "FLOAT": 4}
_WAVE_BYTES = 2**32 - 2**16
"""Bytes of samples that surely fit a wav file, whose sizes have 32 bits."""
_VORBIS_HIGHEST_RATE_HZ = 192_000
"""libvorbis has no setup beyond 200 kHz, and libsndfile crashes when it asks for one."""
_SUFFIX_FORMATS = {".wav": "wav", ".flac": "flac", ".ogg": "ogg", ".oga": "ogg", ".mp3": "mp3", ".opus": "opus"}
_SUFFIX_FORMATS |= {".wave": "wav", ".m4a": "m4a"}


def codec_rate(format: str, rate_hz: int) -> int:
    """Rate at which `format` can hold a signal of `rate_hz`: the same, or the next higher that the codec has.

    A signal above the codec's highest rate gets that highest rate.
    """
    if format == "ogg":
        return min(rate_hz, _VORBIS_HIGHEST_RATE_HZ)
    rates = _CODEC_RATES_HZ.get(format)
    return rate_hz if rates is None else next((rate for rate in rates if rate >= rate_hz), rates[-1])


def least_samples(format: str) -> int:
    """Samples that a file of `format` must have: most codecs write nothing at all, or what none reads, for none."""
    return 0 if format in _EMPTY_FORMATS else 1


def format_of(path: Path) -> str | None:
    """Output format that a file name's ending asks for, or None."""
    return _SUFFIX_FORMATS.get(path.suffix.lower())


class _Encoder(Protocol):
    def write(self, samples: FloatArray) -> None: ...

    def close(self) -> None: ...


class AudioWriter:
    """Writes one mono recording; use it as a context manager.

    Args:
        path: the file; folders above it are made, an older file of the name is replaced when the new one is complete.
        sample_rate: in Hz, one that `codec_rate` gives for the format.
        format: one of `menura.options.FORMATS`; by default the name's ending, else wav.
        subtype: how wav and flac store samples: PCM_16, PCM_24, or (wav only) FLOAT, which isn't clipped.
        expected_samples: about how many will come: a wav beyond 4 GiB is then written as RF64, which players of long
            files know.

    Raises:
        EncodeError: on opening, `write` or `close`, where the folder can't be written, the disk is full, the format
            lacks the rate, or PyAV is needed and not installed.
    """

    def __init__(
        self,
        path: Path | str,
        sample_rate: int,
        format: str | None = None,
        subtype: str = "PCM_16",
        expected_samples: int = 0,
    ) -> None:
        self.path = Path(path)
        self.format = format or format_of(self.path) or "wav"
        self.samples_written = 0
        self._finished = False
        self._subtype = subtype
        if self.format not in FORMATS:
            raise EncodeError(self.path, f"'{self.format}' is not one of {', '.join(FORMATS)}")
        if codec_rate(self.format, sample_rate) != sample_rate:
            raise EncodeError(self.path, f"{self.format} doesn't support {sample_rate} Hz")
        long_wave = self.format == "wav" and expected_samples * _SAMPLE_BYTES[subtype] > _WAVE_BYTES
        self._wave_samples = _WAVE_BYTES // _SAMPLE_BYTES[subtype] if self.format == "wav" and not long_wave else None
        check_writable(self.path, EncodeError)
        with writing(self.path, EncodeError):
            self._file = NewFile(self.path)
        self._output = _Output(self._file.file)
        try:
            with deferred_interrupts():
                self._encoder = _encoder(self._output, sample_rate, "rf64" if long_wave else self.format, subtype)
        except BaseException:
            self._file.discard()
            raise

    def write(self, samples: FloatArray) -> None:
        """Append (samples,) float32; values beyond full scale are clipped, what is no number becomes 0."""
        if self._finished:
            raise ValueError("The writer is closed.")
        with self._guard():
            if self._wave_samples is not None and self.samples_written + len(samples) > self._wave_samples:
                raise EncodeError(self.path, "a wav file can't be longer than 4 GiB", "Use {format=flac}")
            # Codecs go by full scale, and libmp3lame ends the whole process when it meets a NaN.
            self._encoder.write(_sane(samples, clip=self._subtype != "FLOAT"))
            self._output.check()
        self.samples_written += len(samples)

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
        """Leave nothing behind."""
        if self._finished:
            return
        self._finished = True
        try:
            with contextlib.suppress(Exception), deferred_interrupts(cleaning_up=True):
                self._encoder.close()
        finally:  # a second Ctrl-C may have come meanwhile
            self._file.discard()

    def __enter__(self) -> AudioWriter:
        """Return the writer."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the file, or leave nothing if the block raised."""
        if kind is None:
            self.close()
        else:
            self.abort()

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
    """A file for libsndfile and FFmpeg, whose callbacks swallow errors of writing: it remembers the first."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        return self._attempt(lambda: self._file.write(data))

    def read(self, count: int = -1) -> bytes:
        return self._file.read(count)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._attempt(lambda: self._file.seek(offset, whence))

    def tell(self) -> int:
        return self._file.tell()

    def flush(self) -> None:
        self._attempt(lambda: self._file.flush() or 0)

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def _attempt(self, action: Callable[[], int]) -> int:
        try:
            return action()
        except OSError as error:
            self.error = self.error or error
            return 0


def _encoder(file: _Output, rate_hz: int, format: str, subtype: str) -> _Encoder:
    if format == "m4a":
        return _AacEncoder(file, rate_hz)
    return _SndfileEncoder(file, rate_hz, format, subtype)


class _SndfileEncoder:
    def __init__(self, file: _Output, rate_hz: int, format: str, subtype: str) -> None:
        self._integer = format in ("wav", "rf64", "flac") and subtype == "PCM_16"
        container, coding, level = {
            "wav": ("WAV", subtype, None),
            "rf64": ("RF64", subtype, None),
            "flac": ("FLAC", subtype, None),
            "ogg": ("OGG", "VORBIS", 0.3),
            "opus": ("OGG", "OPUS", 0.3),
            "mp3": ("MP3", "MPEG_LAYER_III", 0.0),
        }[format]
        self._sound = soundfile.SoundFile(
            file,
            "w",
            samplerate=rate_hz,
            channels=1,
            format=container,
            subtype=coding,
            compression_level=level,
            bitrate_mode="VARIABLE" if format == "mp3" else None,
        )

    def write(self, samples: FloatArray) -> None:
        # libsndfile would truncate; rounding keeps the error within half a step.
        self._sound.write(_to_int16(samples) if self._integer else samples)

    def close(self) -> None:
        self._sound.close()


class _AacEncoder:
    """AAC in MP4 by PyAV."""

    def __init__(self, file: _Output, rate_hz: int) -> None:
        try:
            import av
        except ImportError as error:
            advice = "Install it with pip install 'menura[media]' (its wheels bundle GPL codecs), or use another format"
            raise EncodeError(None, "m4a needs PyAV", advice) from error
        self._av = av
        self._rate_hz = rate_hz
        self._position_samples = 0
        # The edit list, which takes the priming and padding off, counts in this scale: milliseconds by default.
        self._container = av.open(file, "w", format="mp4", options={"movie_timescale": str(rate_hz)})
        self._stream: Any = self._container.add_stream("aac", rate=rate_hz, layout="mono", bit_rate=160_000)

    def write(self, samples: FloatArray) -> None:
        if not len(samples):
            return
        frame = self._av.AudioFrame.from_ndarray(samples[None, :], format="fltp", layout="mono")
        frame.sample_rate = self._rate_hz
        frame.pts = self._position_samples
        frame.time_base = Fraction(1, self._rate_hz)
        self._position_samples += len(samples)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()


def _sane(samples: FloatArray, clip: bool) -> FloatArray:
    finite: FloatArray = np.nan_to_num(samples.astype(np.float32), posinf=1.0, neginf=-1.0)
    return np.clip(finite, -1.0, 1.0) if clip else finite


def _to_int16(samples: FloatArray) -> npt.NDArray[np.int16]:
    scaled = np.rint(samples * np.float32(32768))
    result: npt.NDArray[np.int16] = np.clip(scaled, -32768, 32767).astype(np.int16)
    return result
