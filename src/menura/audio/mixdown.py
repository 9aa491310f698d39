"""Channels to mono: their average, or one of them where they cancel each other out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from menura.audio.processor import OneStream, mix_down

if TYPE_CHECKING:
    from menura.types import FloatArray

CANCELLED = "The channels cancel each other out in places; a single channel was used there."
_LEAST_SHARE = 0.02
"""Power of the average, by what uncorrelated channels would leave: 1 and more in ordinary recordings."""
_LOUDER = 4.0
"""Another channel is preferred to the one used before from 6 dB on."""
_FADES_A_WINDOW = 50


class MixDown(OneStream):
    """A Processor: (samples, channels) or (samples,) in, (samples,) out.

    Judged in windows on the stream's own grid, so that blocks make no difference; from one choice to another it fades
    over the first fiftieth of a window.

    Args:
        window_samples: of a window; a second is sensible.
    """

    def __init__(self, window_samples: int = 16_000) -> None:
        self.cancelled = False
        """Whether channels cancelled each other out somewhere."""
        self._window_samples = window_samples
        self._pending: list[FloatArray] = []
        self._held_samples = 0
        self._channel: int | None = None
        """Used in the window before; None for the average."""
        self._preferred = 0
        self._begun = False

    def push(self, samples: FloatArray) -> FloatArray:
        """See Processor."""
        self._check_open()
        if samples.ndim == 1 or samples.shape[1] == 1:
            return mix_down(samples)
        self._pending.append(samples)
        self._held_samples += len(samples)
        if self._held_samples < self._window_samples:
            return np.zeros(0, dtype=np.float32)
        joined = np.concatenate(self._pending)
        whole = len(joined) - len(joined) % self._window_samples
        self._pending, self._held_samples = [joined[whole:]], len(joined) - whole
        return np.concatenate([self._mixed(part) for part in np.split(joined[:whole], whole // self._window_samples)])

    def flush(self) -> FloatArray:
        """See Processor."""
        self._check_open(last=True)
        rest = np.concatenate(self._pending) if self._held_samples else np.zeros((0, 2), dtype=np.float32)
        return self._mixed(rest)

    def _mixed(self, window: FloatArray) -> FloatArray:
        average = mix_down(window)
        before, self._channel = self._channel, self._chosen(window, average)
        result = average if self._channel is None else np.ascontiguousarray(window[:, self._channel])
        if self._begun and self._channel != before:
            fade = self._window_samples // _FADES_A_WINDOW
            part = np.linspace(0, 1, fade, endpoint=False, dtype=np.float32)[: len(window)]
            old = average if before is None else window[:, before]
            result[: len(part)] = (1 - part) * old[: len(part)] + part * result[: len(part)]
        self._begun = True
        return result

    def _chosen(self, window: FloatArray, average: FloatArray) -> int | None:
        if self._begun and len(window) < self._window_samples // 2:
            return self._channel  # an end too short to judge by
        with np.errstate(over="ignore"):
            powers = np.array([np.dot(channel, channel) for channel in window.T], dtype=np.float64)
            share = float(np.dot(average, average)) * len(powers) ** 2
            if not share < _LEAST_SHARE * powers.sum():
                return None
        self.cancelled = True
        loudest = int(powers.argmax())
        if powers[loudest] > _LOUDER * powers[self._preferred]:
            self._preferred = loudest
        return self._preferred
