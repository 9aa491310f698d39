"""From the features of a timeline to sound: segments, cut at quiet places and joined by crossfades.

Both sides of a seam see the same content, F0, phase and noise, so the signals that are joined agree already.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from menura.kernels.voice import Voice
from menura.options import ConversionOptions
from menura.pipeline.analysis import Analysis, Steps
from menura.pipeline.execute import Noise, SynthesisRequest
from menura.pipeline.windows import Span
from menura.types import FloatArray
from menura.units import FRAME_RATE_HZ, FRAME_SAMPLES

_QUIET_WINDOW_FRAMES = 5
_STEP_REACH_SAMPLES, _AROUND_SAMPLES = 32, 240
_BURST_WEIGHT_A_DB, _UNEVEN_WEIGHT_A_DB, _LEVEL_WEIGHT_A_DB = 0.02, 0.2, 0.03
"""Tried on five minutes of real speech with a seam every second: a detector's five measures then told these places
from others by chances of .27 to .52 (.50 is none). A heavier weight on bursts finds onsets instead."""
_TINY = 1e-9
_TINY_POWER, _TINY_HIGH = 1e-10, 1e-14
_HIGH_ORDER = 4
"""Of the differences that leave the highest frequencies: at 1 kHz a thousandth of what is at 7 kHz (24 kHz rate)."""


def seam_frame(samples: FloatArray, start_frames: int) -> int:
    """Absolute frame at whose beginning a seam is heard and measured least.

    Of the quieter half of all places in (frames * 160,) samples at 16 kHz, at least 5 frames, it is the steadiest:
    where no sample jumps, where the level hardly changes from frame to frame, and the quieter the better. The quietest
    place alone is often the closure before a plosive, or the end of a word.
    """
    frames = samples.astype(np.float64).reshape(-1, FRAME_SAMPLES)
    level = np.convolve(np.abs(frames).sum(axis=1), np.ones(_QUIET_WINDOW_FRAMES), mode="valid")
    places = np.arange(len(level)) + _QUIET_WINDOW_FRAMES // 2
    power = 10 * np.log10(np.square(frames).mean(axis=1) + _TINY)
    uneven = np.abs(np.diff(power, prepend=power[0]))  # [i]: from frame i - 1 to i
    around = uneven[places] + 0.5 * (uneven[places - 1] + uneven[places + 1])
    step, burst_db = _jumps(samples, places * FRAME_SAMPLES)
    cost = step + _BURST_WEIGHT_A_DB * burst_db + _UNEVEN_WEIGHT_A_DB * around
    cost = cost + _LEVEL_WEIGHT_A_DB * 20 * np.log10(level + 1e-4)
    cost[level > np.median(level)] = np.inf
    best = np.flatnonzero(cost <= cost.min() + _TINY)
    middle = (len(level) - 1) / 2
    return int(start_frames + places[best[np.argmin(np.abs(best - middle))]])


def seam_after(cell: Span, reach_frames: int, read: Callable[[int, int], FloatArray]) -> int:
    """The seam near a cell's end, from what `read` gives of the 16 kHz samples of frames [start, end)."""
    start, end = cell[1] - reach_frames, cell[1] + reach_frames
    return seam_frame(read(start, end), start)


def _jumps(samples: FloatArray, places: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How samples jump within 2 ms: the largest, over the level within 15 ms; all, against all within 15 ms, in dB."""
    wide = np.pad(samples.astype(np.float64), _AROUND_SAMPLES)
    jumps = np.abs(np.diff(wide))
    all_near = places[:, None] + np.arange(2 * _AROUND_SAMPLES)
    near = slice(_AROUND_SAMPLES - _STEP_REACH_SAMPLES, _AROUND_SAMPLES + _STEP_REACH_SAMPLES)
    level = np.sqrt(np.square(wide[all_near]).mean(axis=1) + _TINY)
    jumped = jumps[all_near]
    here, around = np.square(jumped[:, near]).mean(axis=1), np.square(jumped).mean(axis=1)
    return jumped[:, near].max(axis=1) / level, 10 * np.log10((here + _TINY) / (around + _TINY))


class Assembler:
    """Joins segments that overlap into one gapless signal, by crossfades.

    Neighbours overlap by more than a crossfade, and both are right all over the overlap: it goes where `_calmest` says.
    """

    def __init__(self, crossfade_samples: int, sample_rate: int) -> None:
        self._fade, self._rate = crossfade_samples, sample_rate
        self._tail: FloatArray = np.zeros(0, dtype=np.float32)
        self.shift_samples: int | None = None
        """By how much the last push's crossfade has its middle after the overlap's; None if it had none."""

    def push(self, samples: FloatArray, overlap_samples: int) -> FloatArray:
        """Take the next segment and give what is final; at its end `overlap_samples` overlap the one after (or 0)."""
        overlap, self.shift_samples = len(self._tail), None
        if overlap:
            mean = np.float32(0.5) * (self._tail + samples[:overlap])
            middle = _calmest(mean, self._fade, self._rate)
            self.shift_samples = middle - overlap // 2
            ramp = np.arange(overlap, dtype=np.float32) + 0.5 - (middle - self._fade / 2)
            ramp = np.clip(ramp / self._fade, 0, 1)
            samples = samples.copy()
            samples[:overlap] = self._tail * (1 - ramp) + samples[:overlap] * ramp
        keep = len(samples) - overlap_samples
        self._tail = samples[keep:].copy()
        return samples[:keep]


def _calmest(samples: FloatArray, fade_samples: int, sample_rate: int) -> int:
    """Where in an overlap, of at least 34 ms, a crossfade's middle is heard and measured least.

    The sum of two decibels: of the highest frequencies within 2 ms against 15 ms on either side, and of the level of
    the 10 ms after against that of the 10 ms before.
    """
    near, around, half = (round(seconds * sample_rate) for seconds in (0.002, 0.015, 0.01))
    middle, reach = len(samples) // 2, (len(samples) - fade_samples) // 2
    step = max(1, round(0.0025 * sample_rate))
    farthest = reach // step * step
    wide = samples.astype(np.float64)
    power = np.square(wide)
    high = np.square(np.diff(wide, n=_HIGH_ORDER, prepend=np.zeros(_HIGH_ORDER)))
    best, least = middle, np.inf
    for place in sorted(range(middle - farthest, middle + farthest + 1, step), key=lambda place: abs(place - middle)):
        here = high[place - near : place + near].mean()
        both = high[place - around - near : place + around + near].sum()
        beside = (both - 2 * near * here) / (2 * around)
        before, after = power[place - half : place].mean(), power[place : place + half].mean()
        burst_db = 10 * np.log10((here + _TINY_HIGH) / (beside + _TINY_HIGH))
        cost = burst_db + abs(10 * np.log10((after + _TINY_POWER) / (before + _TINY_POWER)))
        if cost < least:
            best, least = place, cost
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class _Segment:
    """A stretch between two seams, in frames."""

    context: Span
    """That the text encoder sees."""
    window_frames: int
    """So many it is given."""
    made: Span
    """That is decoded."""
    core: Span
    """That is wanted of it: with the overlaps on both sides."""
    seam_frames: int
    """Where it begins."""
    last: bool
    """It ends the recording or a part: nothing of it waits for the next."""


class Synthesis:
    """A recording's segments, one after another; the analysis gives the features, as far as a segment needs them."""

    def __init__(
        self, synthesizer: Voice, analysis: Analysis, options: ConversionOptions, *, start_frames: int = 0
    ) -> None:
        """It begins at a seam, or at the recording's start."""
        self._synthesizer, self._analysis, self._options = synthesizer, analysis, options
        self._windowing, self._clock = analysis.windowing, analysis.clock
        self._rate, self._hop = synthesizer.config.sample_rate, synthesizer.config.frame_samples
        self._assembler = Assembler(self._windowing.crossfade_frames * self._hop, self._rate)
        self._hears_end = synthesizer.decode_context_frames > analysis.extent.left_frames  # what is after the timeline
        self._seam_frames = start_frames  # where the segment to come begins
        self.seams_s: list[float] = []

    def segments(
        self, cells: Iterable[Span], output_frames: int, border: Span | None = None
    ) -> Generator[Steps[list[FloatArray]], None, None]:
        """For each of the next segments, or each few, the steps that return the sounds it makes final.

        A part ends at a `border` (its last cell's end, and the seam): the overlap there is given as well, to be joined.
        """
        cells, together = iter(cells), max(1, self._analysis.ahead_frames // self._windowing.segment_frames)
        thread = ThreadPoolExecutor(1, thread_name_prefix="menura-noise") if self._analysis.ahead_frames else None
        try:
            while group := list(islice(cells, together)):
                yield self._group(group, output_frames, border, thread)
        finally:
            if thread is not None:
                thread.shutdown(cancel_futures=True)

    def _group(
        self, cells: list[Span], output_frames: int, border: Span | None, thread: ThreadPoolExecutor | None
    ) -> Steps[list[FloatArray]]:
        noises = [self._noise(cell, output_frames, thread) for cell in cells]
        yield from self._analysis.until(self._windowing.context(cells[-1], self._analysis.extent)[1])
        with self._clock.measure("assemble"):
            segments = [self._cut(cell, output_frames, border) for cell in cells]
        sounds = yield from self._sounds(segments, noises)
        with self._clock.measure("assemble"):
            joined = [self._joined(*pair) for pair in zip(segments, sounds, strict=True)]
        if cells[-1][1] < output_frames:
            self._analysis.forget(cells[-1][1] - self._windowing.margin_frames)
        return joined

    def _noise(self, cell: Span, output_frames: int, thread: ThreadPoolExecutor | None) -> Noise:
        """Of a cell's segment, wherever it's cut; in a thread it's drawn while the cell is analysed."""
        made, _ = self._windowing.uniform(cell, self._analysis.extent, last=cell[1] >= output_frames)
        return Noise(self._synthesizer, self._options, made, thread)

    def _cut(self, cell: Span, output_frames: int, border: Span | None) -> _Segment:
        """The segment from the last seam to the next, of a cell that was analysed."""
        windowing, seam, stop = self._windowing, self._seam_frames, cell[1]
        overlap, reach, last = windowing.overlap_frames, windowing.seam_search_frames, cell[1] >= output_frames
        ends_part = border is not None and cell[1] == border[0]
        if border is not None and ends_part:
            stop = border[1]
        elif not last:
            stop = seam_after(cell, reach, self._analysis.samples)
        self._seam_frames = stop
        core = (seam - overlap if seam else 0, stop if last else stop + overlap)
        context, made = windowing.context(cell, self._analysis.extent), core
        window_frames = context[1] - context[0]
        if self._analysis.ahead_frames and not (last and self._hears_end):
            made, window_frames = windowing.uniform(cell, self._analysis.extent, last=last)
        return _Segment(
            context=context,
            window_frames=window_frames,
            made=made,
            core=core,
            seam_frames=seam,
            last=last or ends_part,
        )

    def _sounds(self, segments: list[_Segment], noises: list[Noise]) -> Steps[list[FloatArray]]:
        """Sound of the segments' cores; silences are left out, if that was asked for."""
        silences = self._analysis.silences
        requests = [
            SynthesisRequest(
                synthesizer=self._synthesizer,
                features=self._analysis.timeline.read(*segment.context),
                core=segment.made,
                options=self._options,
                sounding=sounding,
                reach_frames=self._windowing.attention_frames,
                window_frames=segment.window_frames,
                noise=noise,
                clock=self._clock,
            )
            for segment, noise in zip(segments, noises, strict=True)
            if (sounding := silences.sounding(*segment.made))
        ]
        answers = iter(((yield tuple(requests)) if requests else None) or ())
        return [
            self._core(segment, next(answers) if silences.sounding(*segment.made) else None) for segment in segments
        ]

    def _core(self, segment: _Segment, made: FloatArray | None) -> FloatArray:
        (start, end), hop = segment.core, self._hop
        if made is None:
            return np.zeros((end - start) * hop, dtype=np.float32)
        first = start - segment.made[0]
        samples = made[first * hop : (first + end - start) * hop]
        gate = self._analysis.silences.gate(start, end, hop)
        return samples if gate is None else samples * gate

    def _joined(self, segment: _Segment, samples: FloatArray) -> FloatArray:
        overlap_samples = 2 * self._windowing.overlap_frames * self._hop
        joined = self._assembler.push(samples, 0 if segment.last else overlap_samples)
        if (shift := self._assembler.shift_samples) is not None:
            self.seams_s.append(segment.seam_frames / FRAME_RATE_HZ + shift / self._rate)
        return joined
