"""How loud a recording is, and RVC's loudness envelope mix as a stream.

RVC measures both signals' RMS over windows of one second every half second, stretches both curves linearly over the
output, and multiplies the output by rms_source^(1 - rate) * rms_target^(rate - 1): 1 keeps the output's own loudness, 0
gives it the source's.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from menura.audio.processor import Processor
from menura.types import Float64Array, FloatArray

_RMS_FLOOR = 1e-6  # least RMS of the output that is divided by (RVC's)
_GIVEN_SAMPLES = 1 << 16  # at once: their gains take some 200 bytes a sample
_FEWEST_SAMPLES = 64  # so many samples near the peak are sound
_CLICK_RATIO = 2.0


class PeakMeter:
    """Takes (samples,) in any blocks."""

    def __init__(self) -> None:
        self.peak = 0.0
        """Largest |sample| so far."""
        self._largest: FloatArray = np.zeros(0, dtype=np.float32)

    def push(self, samples: FloatArray) -> None:
        magnitudes = np.abs(samples)
        peak = float(magnitudes.max(initial=0.0))
        self.peak = max(self.peak, peak)
        if peak > 1.0:
            joined = np.concatenate([self._largest, magnitudes[magnitudes > 1.0]])
            kept = min(_FEWEST_SAMPLES, len(joined))
            self._largest = np.partition(joined, -kept)[-kept:]

    @property
    def limit(self) -> float:
        """Largest |sample| but for clicks: under 64, over full scale and 6 dB above all else; infinite without."""
        rest = float(self._largest.min()) if len(self._largest) == _FEWEST_SAMPLES else 1.0
        return rest if self.peak > _CLICK_RATIO * rest else math.inf


def within_full_scale(samples: FloatArray) -> FloatArray:
    """(samples,) without clicks, and scaled down where they still exceed full scale: float files aren't clipped."""
    meter = PeakMeter()
    meter.push(samples)
    if meter.peak <= 1.0:
        return samples
    peak = min(meter.peak, meter.limit)
    return np.asarray(np.clip(samples, -peak, peak) / np.float32(max(peak, 1.0)), dtype=np.float32)


class RmsMeter:
    """RMS over windows of one second centred on every half second, of one mono stream.

    The frames are those of librosa's `rms` with a window of 2 * (rate // 2) samples, half of it as the hop, and zeros
    beyond both ends: frame k covers samples [(k - 1) * hop, (k + 1) * hop), and n samples have 1 + n // hop frames.
    """

    def __init__(self, rate_hz: int) -> None:
        self.hop_samples = rate_hz // 2
        self._pending = np.zeros(0, dtype=np.float32)
        self._last_energy = 0.0

    def push(self, samples: FloatArray) -> Float64Array:
        """Take (samples,) float32; return the RMS of the frames that are now complete."""
        joined = np.concatenate([self._pending, samples])
        whole = joined.size - joined.size % self.hop_samples
        self._pending = joined[whole:]
        return self._frames(joined[:whole].reshape(-1, self.hop_samples))

    def flush(self) -> Float64Array:
        return self._frames(self._pending[None, :])

    def _frames(self, hops: FloatArray) -> Float64Array:
        energies = np.array([self._last_energy, *(float(np.sum(np.square(hop, dtype=np.float64))) for hop in hops)])
        self._last_energy = float(energies[-1])
        rms: Float64Array = np.sqrt((energies[:-1] + energies[1:]) / (2 * self.hop_samples))
        return rms


class EnvelopeMatcher(Processor):
    """Mixes the source's loudness envelope into one output stream, about 1.25 s behind it.

    `source_rms` is (frames,) of the source's RmsMeter, at whatever rate it was measured; exactly `output_length`
    samples must be pushed in all; a `mix_rate` of 1 keeps the output's envelope, 0 follows the source's. Several
    channels, (frames, channels), always have the source's relative levels; what is negative is inverted.
    """

    def __init__(self, source_rms: npt.NDArray[np.floating], output_length: int, rate_hz: int, mix_rate: float) -> None:
        self._source_rms = np.asarray(source_rms, dtype=np.float64).reshape(len(source_rms), -1)
        self._length, self._mix_rate = output_length, mix_rate
        self._meters = [RmsMeter(rate_hz) for _ in self._source_rms.T]
        self._frame_count = 1 + output_length // self._meters[0].hop_samples
        self._target_rms = self._source_rms[:0]  # RMS of the output's frames from `_first_frame` on, as far as known
        self._first_frame = 0
        self._pending: list[FloatArray] = []
        self._given_samples = 0

    def _push(self, samples: FloatArray) -> FloatArray:
        columns = np.ascontiguousarray(samples.T).reshape(len(self._meters), -1)
        frames = [meter.push(column) for meter, column in zip(self._meters, columns, strict=True)]
        self._pending = [np.concatenate([*self._pending, samples])]
        self._target_rms = np.concatenate([self._target_rms, np.stack(frames, axis=1)])
        known = self._first_frame + len(self._target_rms)
        if known >= self._frame_count:
            return self._give(len(self._pending[0]))
        # Sample i lies at frame (i + 0.5) * frames / length - 0.5 and needs the next frame too; one sample less, for
        # rounding.
        reach = int((known - 0.5) * self._length / self._frame_count - 0.5) - 1 if known > 1 else 0
        return self._give(min(max(reach - self._given_samples, 0), len(self._pending[0])))

    def _flush(self) -> FloatArray:
        self._target_rms = np.concatenate([self._target_rms, np.stack([m.flush() for m in self._meters], axis=1)])
        return self._give(len(self._pending[0]) if self._pending else 0)

    def _give(self, count: int) -> FloatArray:
        starts = range(0, count, _GIVEN_SAMPLES)
        return np.concatenate([self._nothing, *(self._mixed(min(_GIVEN_SAMPLES, count - at)) for at in starts)])

    def _mixed(self, count: int) -> FloatArray:
        samples, self._pending = self._pending[0][:count], [self._pending[0][count:]]
        index = np.arange(self._given_samples, self._given_samples + count)
        source = _stretched(self._source_rms, 0, len(self._source_rms), index, self._length)
        target = _stretched(self._target_rms, self._first_frame, self._frame_count, index, self._length)
        gain = source / np.maximum(target, _RMS_FLOOR)
        if len(self._meters) == 1:
            gain **= 1 - self._mix_rate
        else:
            gain *= (_overall(target, source) / np.maximum(_overall(source, source), _RMS_FLOOR)) ** self._mix_rate
        self._given_samples += count
        needed = int((self._given_samples + 0.5) * self._frame_count / self._length - 0.5) - 1
        forgotten = min(max(needed - self._first_frame, 0), len(self._target_rms))
        self._target_rms = self._target_rms[forgotten:]
        self._first_frame += forgotten
        mixed: FloatArray = (samples * gain.reshape(samples.shape)).astype(np.float32)
        return mixed


def _overall(levels: Float64Array, source: Float64Array) -> Float64Array:
    """(samples, 1): the level of (samples, channels) together, where each counts by its power in the source."""
    powers = np.square(source)
    weights = powers / np.maximum(powers.sum(axis=1, keepdims=True), _RMS_FLOOR**2)
    return np.asarray(np.sqrt((weights * np.square(levels)).sum(axis=1, keepdims=True)), dtype=np.float64)


def _stretched(values: Float64Array, first: int, count: int, index: npt.NDArray[np.int64], length: int) -> Float64Array:
    """(frames, channels) of `count` frames (held from frame `first` on) at output samples `index` of `length`.

    Linear, as torch's `interpolate(mode="linear", align_corners=False)`.
    """
    position = np.maximum((index + 0.5) * (count / length) - 0.5, 0.0)
    lower = np.minimum(position.astype(np.int64), count - 1)
    upper = np.minimum(lower + 1, count - 1)
    weight = position - lower
    columns = [column[lower - first] * (1 - weight) + column[upper - first] * weight for column in values.T]
    return np.stack(columns, axis=1)
