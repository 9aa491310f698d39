"""Every effect once: its parameters, their ranges and defaults, and what Applio calls them.

The text form, JSON, help, the API's schema and the table in docs/ derive from these. Loads no FFmpeg.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from menura.errors import OptionError
from menura.option_spec import check, option, schema

_parameter = partial(option, "sound")
_share = partial(_parameter, range=(0, 1))
_level = partial(_parameter, unit="dB", range=(-60, 0))
_band = partial(_parameter, 0.0, unit="dB", range=(-24, 24))


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One effect with its parameters. Raises OptionError for values out of their ranges."""

    name: ClassVar[str]
    """In texts."""
    help: ClassVar[str]
    applio: ClassVar[dict[str, str]] = {}
    """Applio's names for the parameters."""
    needs_ffmpeg: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class Reverb(Effect):
    name, help = "reverb", "A room: eight combs and four all-passes for each side (Freeverb)."
    applio: ClassVar = {
        "reverb_room_size": "room", "reverb_damping": "damping", "reverb_wet_gain": "wet", "reverb_dry_gain": "dry",
        "reverb_wet_level": "wet", "reverb_dry_level": "dry", "reverb_width": "width", "reverb_freeze_mode": "freeze",
    }  # fmt: skip
    room: float = _share(0.5, "Size of the room.")
    damping: float = _share(0.5, "Loss of high frequencies.")
    wet: float = _share(0.33, "Level of the room.")
    dry: float = _share(0.4, "Level of the sound itself; 0.5 leaves it as it is.")
    width: float = _share(1.0, "Stereo width.")
    freeze: float = _share(0.0, "From 0.5 on the room takes in nothing, so that the sound itself is left.")


@dataclass(frozen=True, kw_only=True)
class PitchShift(Effect):
    name, help, needs_ffmpeg = "pitch-shift", "Higher or lower at the same speed, formants and all.", True
    applio: ClassVar = {"pitch_shift_semitones": "semitones"}
    semitones: float = _parameter(0.0, "By how much.", label="Shift", unit="semitones", range=(-12, 12))


@dataclass(frozen=True, kw_only=True)
class Limiter(Effect):
    name, help, needs_ffmpeg = "limiter", "Keeps peaks below a level, without clipping them.", True
    applio: ClassVar = {"limiter_threshold": "threshold", "limiter_release_time": "release"}
    threshold: float = _level(-6.0, "The level.")
    release: float = _parameter(0.05, "Time to let go.", unit="seconds", range=(0.01, 1))


@dataclass(frozen=True, kw_only=True)
class Gain(Effect):
    name, help = "gain", "Louder or quieter."
    applio: ClassVar = {"gain_db": "db"}
    db: float = _parameter(0.0, "By how much.", label="Gain", unit="dB", range=(-60, 60))


@dataclass(frozen=True, kw_only=True)
class Distortion(Effect):
    name, help = "distortion", "An overdriven amplifier (hyperbolic tangent)."
    applio: ClassVar = {"distortion_gain": "drive"}
    drive: float = _parameter(25.0, "Gain before it.", unit="dB", range=(-60, 60))


@dataclass(frozen=True, kw_only=True)
class Chorus(Effect):
    name, help = "chorus", "A second voice whose delay swings."
    applio: ClassVar = {
        "chorus_rate": "rate", "chorus_depth": "depth", "chorus_center_delay": "delay", "chorus_feedback": "feedback",
        "chorus_mix": "mix",
    }  # fmt: skip
    rate: float = _parameter(1.0, "Swings a second.", unit="Hz", range=(0, 100))
    depth: float = _share(0.25, "How far it swings: 1 is 5 ms.")
    delay: float = _parameter(7.0, "Delay in the middle.", unit="ms", range=(1, 50))
    feedback: float = _parameter(0.0, "What is fed back.", range=(0, 0.99))
    mix: float = _share(0.5, "Share of the second voice.")


@dataclass(frozen=True, kw_only=True)
class Bitcrush(Effect):
    name, help = "bitcrush", "Coarse samples."
    applio: ClassVar = {"bitcrush_bit_depth": "bits"}
    bits: float = _parameter(8.0, "Bits of a sample, beside its sign.", range=(1, 32))


@dataclass(frozen=True, kw_only=True)
class Clipping(Effect):
    name, help = "clipping", "Cuts peaks off at a level."
    applio: ClassVar = {"clipping_threshold": "threshold"}
    threshold: float = _level(-6.0, "The level.")


@dataclass(frozen=True, kw_only=True)
class Compressor(Effect):
    name, help, needs_ffmpeg = "compressor", "Makes what is above a level less loud.", True
    applio: ClassVar = {
        "compressor_threshold": "threshold", "compressor_ratio": "ratio", "compressor_attack": "attack",
        "compressor_release": "release",
    }  # fmt: skip
    threshold: float = _level(0.0, "The level.")
    ratio: float = _parameter(1.0, "Decibels above it that become one.", range=(1, 20))
    attack: float = _parameter(1.0, "Time to act.", unit="ms", range=(0, 100))
    release: float = _parameter(100.0, "Time to let go.", unit="ms", range=(0.01, 1000))


@dataclass(frozen=True, kw_only=True)
class Delay(Effect):
    name, help = "delay", "Echoes."
    applio: ClassVar = {"delay_seconds": "seconds", "delay_feedback": "feedback", "delay_mix": "mix"}
    seconds: float = _parameter(0.5, "Between echoes; 0 is none.", label="Time", unit="seconds", range=(0, 5))
    feedback: float = _parameter(0.0, "What of an echo comes again.", range=(0, 1))
    mix: float = _share(0.5, "Share of the echoes.")


@dataclass(frozen=True, kw_only=True)
class DeEsser(Effect):
    name, help, needs_ffmpeg = "de-esser", "Softer hissing of s and sh.", True
    amount: float = _share(0.5, "How readily it acts.")


@dataclass(frozen=True, kw_only=True)
class HighPass(Effect):
    name, help, needs_ffmpeg = "high-pass", "Removes what is below a frequency, 12 dB an octave.", True
    frequency: float = _parameter(80.0, "The frequency.", unit="Hz", range=(10, 1900))


@dataclass(frozen=True, kw_only=True)
class Equalizer(Effect):
    name, help, needs_ffmpeg = "equalizer", "Three bands, louder or quieter.", True
    low: float = _band("Below about 200 Hz.")
    mid: float = _band("About 1 kHz.")
    high: float = _band("Above about 4 kHz.")


@dataclass(frozen=True, kw_only=True)
class Formant(Effect):
    name, help = "formant", "Another timbre at the same pitch: formants are moved."
    applio: ClassVar = {"formant_qfrency": "quefrency", "formant_timbre": "timbre"}
    quefrency: float = _parameter(1.0, "Fineness of the envelope that is moved.", unit="ms", range=(0, 32))
    timbre: float = _parameter(1.0, "Formants' frequencies: above 1 a smaller head, below a larger.", range=(0.1, 16))


@dataclass(frozen=True, kw_only=True)
class CleanUp(Effect):
    name, help = "clean-up", "Less of what is there all the time, such as hiss, hum and fans."
    strength: float = _share(0.5, "0 changes nothing, 1 takes out all of it.")


EFFECTS: dict[str, type[Effect]] = {
    kind.name: kind
    for kind in (
        Reverb, PitchShift, Limiter, Gain, Distortion, Chorus, Bitcrush, Clipping, Compressor, Delay,
        DeEsser, HighPass, Equalizer, Formant, CleanUp,
    )
}  # fmt: skip
"""By name: Applio's in the order in which Applio applies them, then the others."""

PRESETS = {
    "podcast": "high-pass, de-esser amount=0.3, compressor threshold=-24 ratio=3 attack=5 release=150, gain db=5, "
    "limiter threshold=-1",
    "radio": "high-pass frequency=300, equalizer low=-12 mid=4 high=-9, distortion drive=6, limiter threshold=-3",
    "room": "reverb room=0.3 damping=0.6 wet=0.15 dry=0.5",
    "hall": "high-pass, reverb room=0.85 damping=0.3 wet=0.3 dry=0.45, limiter threshold=-1",
    "male-to-female": "formant quefrency=1 timbre=1.2",
    "female-to-male": "formant quefrency=1 timbre=0.8",
    "robot": "chorus rate=0 delay=8 feedback=0.7 mix=0.6, bitcrush bits=7, limiter threshold=-3",
}
"""Texts that have names."""


def need_ffmpeg(what: str, option: str) -> None:
    """Raise OptionError where PyAV isn't installed."""
    if importlib.util.find_spec("av") is None:
        raise OptionError(None, f"{what} needs PyAV", "Install it with pip install 'menura[media]'", option)


def effects_schema() -> dict[str, Any]:
    """Every effect's JSON Schema, by name."""
    return {
        name: {"title": name.capitalize(), "description": kind.help, "applio": kind.applio, **schema(kind)}
        for name, kind in EFFECTS.items()
    }
