"""From the features of a timeline to sound: segments, cut at quiet places and joined by crossfades.

Both sides of a seam see the same content, F0, phase and noise, so the signals that are joined agree already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from menura.kernels.voice import Voice
from menura.options import ConversionOptions
from menura.pipeline.analysis import Analysis, Steps
from menura.pipeline.execute import SynthesisRequest
from menura.pipeline.seams import Assembler, seam_frame
from menura.pipeline.windows import Span
from menura.types import FloatArray
from menura.units import FRAME_RATE_HZ


@dataclass(kw_only=True, eq=False)
class Synthesis:
    """A recording's segments, one after another."""

    synthesizer: Voice
    analysis: Analysis
    """Gives the features, as far as a segment needs them."""
    options: ConversionOptions
    seams_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._windowing, self._silences, self._clock = (
            self.analysis.windowing,
            self.analysis.silences,
            self.analysis.clock,
        )
        self._rate, self._hop = self.synthesizer.config.sample_rate, self.synthesizer.config.frame_samples
        self._assembler = Assembler(self._windowing.crossfade_frames * self._hop, self._rate)
        self._seam_frames = 0
        """Where the segment to come begins."""

    def segments(self, output_frames: int) -> Iterator[Steps[FloatArray]]:
        """For each segment its steps, which return the sound that it makes final; together all frames."""
        for cell in self._windowing.segments(output_frames):
            yield self._segment(cell, last=cell[1] >= output_frames)

    def _segment(self, cell: Span, *, last: bool) -> Steps[FloatArray]:
        seam, overlap = self._seam_frames, self._windowing.overlap_frames
        context = self._windowing.context(cell, self.analysis.extent)
        yield from self.analysis.until(context[1])
        stop = cell[1] if last else self._cut(cell[1])
        core = (seam - overlap if seam else 0, stop if last else stop + overlap)
        samples = yield from self._sound(context, core)
        with self._clock.measure("assemble"):
            joined = self._assembler.push(samples, 0 if last else 2 * overlap * self._hop)
        if seam:
            self.seams_s.append(seam / FRAME_RATE_HZ + self._assembler.shift_samples / self._rate)
        if not last:
            self.analysis.forget(cell[1] - self._windowing.margin_frames)
        self._seam_frames = stop
        return joined

    def _cut(self, border: int) -> int:
        reach = self._windowing.seam_search_frames
        with self._clock.measure("assemble"):
            return seam_frame(self.analysis.samples(border - reach, border + reach), border - reach)

    def _sound(self, context: Span, core: Span) -> Steps[FloatArray]:
        """Sound of a segment's core; its silences are left out, if that was asked for."""
        sounding = self._silences.sounding(*core)
        if not sounding:
            return np.zeros((core[1] - core[0]) * self._hop, dtype=np.float32)
        samples = yield SynthesisRequest(
            synthesizer=self.synthesizer,
            features=self.analysis.timeline.read(*context),
            core=core,
            speaker_id=self.options.speaker_id,
            seed=self.options.seed,
            noise_scale=self.options.noise_scale,
            sounding=sounding,
            reach_frames=self._windowing.attention_frames,
            clock=self._clock,
        )
        assert samples is not None
        gate = self._silences.gate(*core, self._hop)
        return samples if gate is None else samples * gate
