"""From the features of a timeline to sound: segments, cut at quiet places and joined by crossfades.

Both sides of a seam see the same content, F0, phase and noise, so the signals that are joined agree already.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from menura.pipeline.requests import SynthesisRequest
from menura.pipeline.seams import Assembler, seam_frame
from menura.units import FRAME_RATE_HZ

if TYPE_CHECKING:
    from menura.models.voice import Voice
    from menura.options import ConversionOptions
    from menura.pipeline.analysis import Analysis, Steps
    from menura.pipeline.clock import StageClock
    from menura.pipeline.silence import Silences
    from menura.pipeline.windows import Span, Windowing
    from menura.types import FloatArray


class Synthesis:
    """A recording's segments, one after another.

    Args:
        synthesizer: the voice.
        analysis: gives the features, as far as a segment needs them.
        options: speaker, seed and scale of the noise.
        windowing: how segments are cut.
        silences: what is not computed.
        clock: counts the time.
    """

    def __init__(
        self,
        synthesizer: Voice,
        analysis: Analysis,
        options: ConversionOptions,
        *,
        windowing: Windowing,
        silences: Silences,
        clock: StageClock,
    ) -> None:
        self.seams_s: list[float] = []
        self._synthesizer, self._analysis, self._options = synthesizer, analysis, options
        self._windowing, self._silences, self._clock = windowing, silences, clock
        self._rate, self._hop = synthesizer.config.sample_rate, synthesizer.config.frame_samples
        self._assembler = Assembler(windowing.crossfade_frames * self._hop, self._rate)
        self._seam_frames = 0
        """Where the segment to come begins."""

    def segments(self, output_frames: int) -> Iterator[Steps[FloatArray]]:
        """For each segment its steps, which return the sound that it makes final; together all frames."""
        for cell in self._windowing.segments(output_frames):
            yield self._segment(cell, last=cell[1] >= output_frames)

    def _segment(self, cell: Span, *, last: bool) -> Steps[FloatArray]:
        seam, overlap = self._seam_frames, self._windowing.overlap_frames
        context = self._windowing.context(cell, self._analysis.extent)
        yield from self._analysis.until(context[1])
        stop = cell[1] if last else self._cut(cell[1])
        core = (seam - overlap if seam else 0, stop if last else stop + overlap)
        samples = yield from self._sound(context, core)
        with self._clock.measure("assemble"):
            joined = self._assembler.push(samples, 0 if last else 2 * overlap * self._hop)
        if seam:
            self.seams_s.append(seam / FRAME_RATE_HZ + self._assembler.shift_samples / self._rate)
        if not last:
            self._analysis.forget(cell[1] - self._windowing.margin_frames)
        self._seam_frames = stop
        return joined

    def _cut(self, border: int) -> int:
        reach = self._windowing.seam_search_frames
        with self._clock.measure("assemble"):
            return seam_frame(self._analysis.samples(border - reach, border + reach), border - reach)

    def _sound(self, context: Span, core: Span) -> Steps[FloatArray]:
        """Sound of a segment's core; its silences are left out, if that was asked for."""
        sounding = self._silences.sounding(*core)
        if not sounding:
            return np.zeros((core[1] - core[0]) * self._hop, dtype=np.float32)
        samples = yield SynthesisRequest(
            synthesizer=self._synthesizer,
            features=self._analysis.timeline.read(*context),
            core_start_frames=core[0],
            core_end_frames=core[1],
            speaker_id=self._options.speaker_id,
            seed=self._options.seed,
            noise_scale=self._options.noise_scale,
            sounding=sounding,
            reach_frames=self._windowing.attention_frames,
            clock=self._clock,
        )
        assert samples is not None
        gate = self._silences.gate(*core, self._hop)
        return samples if gate is None else samples * gate
