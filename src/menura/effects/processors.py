"""From an effect to the Processor that does it: FFmpeg's filters where they have all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from menura.audio.processor import Chain, Processor
from menura.effects import definitions
from menura.effects.definitions import Effect
from menura.effects.delays import Echoes, Room, SecondVoice
from menura.effects.framed import Filtered, Filters, Mapped
from menura.effects.spectra import FormantShift, NoiseReduction
from menura.types import FloatArray
from menura.units import ANALYSIS_RATE_HZ

_ATTACK_MS = 5
_HIGHEST_SHARE = 0.45
"""Of the rate: bands of the equalizer lie no higher."""


def chain_of(effects: Iterable[Effect], rate_hz: int) -> Chain:
    """The effects at a rate, one after another; as many samples come out as go in, none shifted."""
    return Chain(*(processor_of(effect, rate_hz) for effect in effects))


def clean_up(strength: float, rate_hz: int = ANALYSIS_RATE_HZ) -> list[Processor]:
    """A noise reduction, or none for a strength of 0."""
    return [NoiseReduction(definitions.CleanUp(strength=strength), rate_hz)] if strength else []


def processor_of(effect: Effect, rate_hz: int) -> Processor:
    """A new Processor for one stream of any channels, up to eight where FFmpeg does it."""
    return _MAKERS[type(effect)](effect, rate_hz)


def amplitude(db: float) -> float:
    return float(10 ** (db / 20))


def _gain(effect: definitions.Gain, rate_hz: int) -> Processor:
    factor = np.float32(amplitude(effect.db))
    return Mapped(lambda samples: samples * factor)


def _distortion(effect: definitions.Distortion, rate_hz: int) -> Processor:
    factor = np.float32(amplitude(effect.drive))
    return Mapped(lambda samples: np.tanh(samples * factor))


def _bitcrush(effect: definitions.Bitcrush, rate_hz: int) -> Processor:
    steps = 2.0**effect.bits
    return Mapped(lambda samples: np.rint(samples.astype(np.float64) * steps) / steps)


def _clipping(effect: definitions.Clipping, rate_hz: int) -> Processor:
    level = np.float32(amplitude(effect.threshold))

    def clipped(samples: FloatArray) -> FloatArray:
        return np.clip(samples, -level, level)

    return Mapped(clipped)


def _limiter(effect: definitions.Limiter, rate_hz: int) -> Processor:
    # alimiter knows no limit below -24 dB; scaled to full scale and back, every one can be had.
    level, release_ms = amplitude(effect.threshold), effect.release * 1000
    limit = f"limit=1:level=0:latency=1:attack={_ATTACK_MS}:release={release_ms}"
    return Filtered(rate_hz, (_volume(1 / level), ("alimiter", limit), _volume(level)))


def _volume(factor: float) -> tuple[str, str]:
    return "volume", f"volume={factor:.9g}:precision=float"


def _compressor(effect: definitions.Compressor, rate_hz: int) -> Processor:
    times = f"attack={max(effect.attack, 0.01)}:release={effect.release}"
    level = f"threshold={amplitude(effect.threshold):.9g}:ratio={effect.ratio}"
    return Filtered(rate_hz, (("acompressor", f"{level}:{times}:knee=1:makeup=1:link=maximum:detection=peak"),))


def _pitch_shift(effect: definitions.PitchShift, rate_hz: int) -> Processor:
    played_hz = round(rate_hz * 2 ** (effect.semitones / 12))
    if played_hz == rate_hz:
        return Filtered(rate_hz, ())
    tempo = min(max(rate_hz / played_hz, 0.5), 2.0)
    window = 1 << (rate_hz // 24 - 1).bit_length()  # atempo's
    filters: Filters = (
        ("asetrate", f"{played_hz}"),
        ("aresample", f"{rate_hz}"),
        ("atempo", f"{tempo:.12g}"),
    )
    # Slowing down, atempo puts the middle of its first window too early.
    return Filtered(rate_hz, filters, early_samples=round(max(0.0, 1 - tempo) * window), spare_samples=4 * window)


def _de_esser(effect: definitions.DeEsser, rate_hz: int) -> Processor:
    return Filtered(rate_hz, (("deesser", f"i={effect.amount}"),))


def _high_pass(effect: definitions.HighPass, rate_hz: int) -> Processor:
    return Filtered(rate_hz, (("highpass", f"f={min(effect.frequency, rate_hz * _HIGHEST_SHARE)}:r=f64"),))


def _equalizer(effect: definitions.Equalizer, rate_hz: int) -> Processor:
    high_hz = min(4000.0, rate_hz * _HIGHEST_SHARE)
    bands: Filters = (
        ("bass", f"f=200:g={effect.low}:r=f64"),
        ("equalizer", f"f=1000:t=q:w=0.7:g={effect.mid}:r=f64"),
        ("treble", f"f={high_hz}:g={effect.high}:r=f64"),
    )
    return Filtered(rate_hz, bands)


_MAKERS: dict[type[Effect], Callable[[Any, int], Processor]] = {
    definitions.Reverb: Room,
    definitions.PitchShift: _pitch_shift,
    definitions.Limiter: _limiter,
    definitions.Gain: _gain,
    definitions.Distortion: _distortion,
    definitions.Chorus: SecondVoice,
    definitions.Bitcrush: _bitcrush,
    definitions.Clipping: _clipping,
    definitions.Compressor: _compressor,
    definitions.Delay: Echoes,
    definitions.DeEsser: _de_esser,
    definitions.HighPass: _high_pass,
    definitions.Equalizer: _equalizer,
    definitions.Formant: FormantShift,
    definitions.CleanUp: NoiseReduction,
}
