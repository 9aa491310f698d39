"""Channels that stay: which signals are converted, side by side, and how; docs/architecture.md says why."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from typing import Any, TypeAlias, Union

import numpy as np

from menura.audio.processor import Processor, StreamResampler
from menura.errors import OptionError
from menura.pipeline.execute import NetworkRequest
from menura.pipeline.progress import Worked
from menura.pipeline.recording import BLOCK_S, FADE_FRAMES, MOST_CHANNELS, Recording, RecordingFacts, Signal
from menura.types import FloatArray

Step: TypeAlias = Union[tuple[NetworkRequest, ...], Worked, "FloatArray"]
"""What a conversion needs of the networks before it goes on, what it has done, or samples that are final."""
Steps: TypeAlias = Generator[Step, "list[FloatArray] | None", Any]

_DECISIVE = ("stage", "samples", "statistics", "features", "core", "sounding", "window_frames")  # for an answer
_AHEAD_SAMPLES = 1 << 17  # signals have their seams at different places, up to a second apart
_REACH_S, _ONE_VOICE = 0.0015, 0.5  # between microphones half a metre apart; the least correlation


def signals_of(recording: Recording, channels: str, clean: float, check: Callable[[], None]) -> list[Signal]:
    """What is to be converted of a recording, by the option `channels`. Raises DecodeError, OptionError."""
    count = 1 if channels == "mono" else recording.open().info.channels
    if count == 1:
        return [Signal(clean=clean)]
    if channels == "mid" and count != 2:
        raise OptionError(recording.name, f"{count} channels have no middle", "Use {channels=stereo}", "channels")
    if count > MOST_CHANNELS:
        raise OptionError(recording.name, f"{count} channels are too many", "Use {channels=mono}", "channels")
    signs, leads = _related(recording, count, check)
    if channels == "mid":
        return [Signal(weights=[0.5 * signs[0], 0.5 * signs[1]], clean=clean)]
    return [Signal(weights=row, clean=clean, lead=leads[n]) for n, row in enumerate(np.diag(signs).tolist())]


def _related(recording: Recording, count: int, check: Callable[[], None]) -> tuple[list[float], list[int]]:
    """Which channels are inverted (-1, else 1), and whose F0 each has: of those that hold one voice the loudest's."""
    reader = recording.open()
    reach = round(_REACH_S * reader.info.sample_rate)
    products = np.zeros((count, count, 2 * reach + 1))
    for block in reader.blocks(BLOCK_S * reader.info.sample_rate, apart=True):
        check()
        length = max(len(block), reach + 1) + reach
        spectra = np.fft.rfft((block - block.mean(axis=0)).T.astype(np.float64), length)
        for one in range(count):
            crossed = np.fft.irfft(spectra * spectra[one].conj(), length)
            products[one] += np.roll(crossed, reach, axis=1)[:, : 2 * reach + 1]
    powers = np.diagonal(products[:, :, reach])
    order = np.argsort(-powers, kind="stable").tolist()
    signs, leads = [1.0] * count, list(range(count))
    for place, one in enumerate(order):
        for lead in (each for each in order[:place] if leads[each] == each):
            most = float(max(products[one, lead], key=abs))
            if abs(most) > _ONE_VOICE * np.sqrt(powers[one] * powers[lead]):
                leads[one], signs[one] = lead, float(np.sign(most))
                break
    return signs, leads


def as_one(found: Sequence[RecordingFacts]) -> tuple[RecordingFacts, ...]:
    """The facts of a recording's signals with one gain, and silent where all of them are."""
    gain, silences = min((each.gain for each in found if not each.silent), default=1.0), found[0].silences
    for each in found[1:]:
        pairs = [(max(a, c), min(b, d)) for c, d in each.silences.spans for a, b in silences.near(c, d)]
        silences = replace(silences, spans=tuple(pair for pair in pairs if pair[1] - pair[0] > 2 * FADE_FRAMES))
    known = [each.statistics and each.statistics.scaled(gain / each.gain) for each in found]
    levels = [each.source_rms * np.float32(min(gain, 1.0) / min(each.gain, 1.0)) for each in found]
    alike = [replace(each, gain=gain, silences=silences) for each in found]
    return tuple(replace(a, statistics=s, source_rms=r) for a, s, r in zip(alike, known, levels, strict=True))


class Widened(Processor):
    """Makes two channels of the sound of their middle, which has these weights, and of the recording's side."""

    def __init__(self, recording: Recording, middle: Sequence[float], rate_hz: int) -> None:
        self._signs, self._side = np.sign(middle), _resampled(recording, [middle[0], -middle[1]], rate_hz)
        self._held: FloatArray = np.zeros(0, dtype=np.float32)

    def _push(self, samples: FloatArray) -> FloatArray:
        while len(self._held) < len(samples):
            self._held = np.concatenate([self._held, next(self._side, np.zeros_like(samples))])
        side, self._held = self._held[: len(samples)], self._held[len(samples) :]
        return np.asarray(np.stack([samples + side, samples - side], axis=1) * self._signs, dtype=np.float32)

    def _flush(self) -> FloatArray:
        return np.zeros((0, 2), dtype=np.float32)


def _resampled(recording: Recording, weights: Sequence[float], rate_hz: int) -> Iterator[FloatArray]:
    reader = recording.open()
    resampler = StreamResampler(reader.info.sample_rate, rate_hz)
    yield from map(resampler.push, Signal(weights=weights).of(reader, BLOCK_S * reader.info.sample_rate))
    yield resampler.flush()


def in_step(conversions: Sequence[Steps], together: int = 0) -> Steps:
    """Several conversions as one, their sounds (samples, conversions); they share passes, of `together` requests."""
    if len(conversions) == 1:
        return (yield from conversions[0])
    count, ended = len(conversions), dict[int, bool]()
    sounds = [np.zeros(0, dtype=np.float32)] * count
    asked: list[tuple[NetworkRequest, ...]] = [()] * count
    answers: list[list[FloatArray] | None] = [None] * count
    with ExitStack() as stack:
        stack.callback(lambda: list(map(Generator.close, conversions)))
        while len(ended) < count:
            for n, steps in enumerate(conversions):
                while not (n in ended or asked[n] or len(sounds[n]) > _AHEAD_SAMPLES):
                    try:
                        step, answers[n] = steps.send(answers[n]), None
                    except StopIteration as end:
                        ended[n] = bool(end.value)
                        break
                    if isinstance(step, Worked):
                        yield replace(step, audio_s=step.audio_s / count)
                    elif isinstance(step, np.ndarray):
                        sounds[n] = np.concatenate([sounds[n], step])
                    else:
                        asked[n] = step
            if ready := min(map(len, sounds)):
                yield np.stack([sound[:ready] for sound in sounds], axis=1)
                sounds = [sound[ready:] for sound in sounds]
            else:
                found = iter((yield from _answered([request for each in asked for request in each], together)))
                answers = [list(islice(found, len(each))) or None for each in asked]
                asked = [()] * count
    return all(ended.values())


def _answered(requests: Sequence[NetworkRequest], together: int) -> Steps:
    """Answers to requests, of which equal ones are asked once: so equal channels stay equal."""
    keys = [pickle.dumps([getattr(request, name, None) for name in _DECISIVE]) for request in requests]
    unique = dict(zip(keys, requests, strict=True))
    asked, answers, step = list(unique.values()), list[FloatArray](), together or max(1, len(unique))
    for start in range(0, len(asked), step):
        answers += (yield tuple(asked[start : start + step])) or ()
    return list(map(dict(zip(unique, answers, strict=True)).get, keys))
