"""How loud a whole recording is (BS.1770, EBU R128), by FFmpeg, and the one gain that brings it to a target."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from menura.effects.framed import Filtered
from menura.types import FloatArray

TRUE_PEAK_DB = -1.0
"""Of what comes out, at most (dBTP)."""
_SILENT_LUFS = -70.0


@dataclass(frozen=True, slots=True)
class Loudness:
    """Of a recording; `lufs` is None for one that is silent or shorter than 0.4 s, of which the norm says nothing."""

    lufs: float | None
    true_peak: float

    def gain(self, target_lufs: float) -> tuple[float, float | None]:
        """The factor that brings it there, or as near as its true peak allows; and in that case, where it then is."""
        most = 10 ** (TRUE_PEAK_DB / 20) / self.true_peak if self.true_peak else np.inf
        if self.lufs is None:
            return min(1.0, most), None
        wanted = 10 ** ((target_lufs - self.lufs) / 20)
        return (wanted, None) if wanted <= most else (most, float(self.lufs + 20 * np.log10(most)))


class _Meter(Filtered):
    """Gives nothing back."""

    def __init__(self, rate_hz: int) -> None:
        block_samples = rate_hz // 10
        super().__init__(rate_hz, (("ebur128", "metadata=1:peak=true"),), spare_samples=2 * block_samples)
        self._seen = 0
        self.lufs, self.true_peak = _SILENT_LUFS, 0.0

    def _pulled(self) -> FloatArray:
        for piece in self._pieces():
            self._seen += piece.samples
            self.true_peak = float(piece.metadata.get("lavfi.r128.true_peak", self.true_peak))
            if self._seen <= self._taken:  # not of what is silence after the end
                self.lufs = float(piece.metadata.get("lavfi.r128.I", self.lufs))
        return np.zeros((0, self._channels), dtype=np.float32)


def measured(blocks: Iterable[FloatArray], rate_hz: int) -> Loudness:
    """Of a recording in blocks of any length, (samples,) or (samples, channels)."""
    meter = _Meter(rate_hz)
    for block in blocks:
        meter.push(block)
    meter.flush()
    return Loudness(meter.lufs if meter.lufs > _SILENT_LUFS else None, meter.true_peak)
