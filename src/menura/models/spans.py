"""Stretches of signals at different rates, and how far around them a network looks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """Steps [start, stop) of some signal."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def widened(self, steps: int, length: int) -> Span:
        """With that many more on each side, as far as a signal of that length goes."""
        return Span(max(0, self.start - steps), min(length, self.stop + steps))

    def shifted(self, steps: int) -> Span:
        return Span(self.start + steps, self.stop + steps)

    @property
    def slice(self) -> slice:
        """To index with."""
        return slice(self.start, self.stop)

    def tiles(self, steps: int) -> Iterator[Span]:
        """Its parts, of at most so many steps each."""
        for start in range(self.start, self.stop, steps):
            yield Span(start, min(start + steps, self.stop))

    def scaled(self, factor: int) -> Span:
        """The same time at a rate that is higher by a factor."""
        return Span(self.start * factor, self.stop * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """Samples needed before and after a stretch, at some stage's rate."""

    left: int
    right: int

    def widened(self, samples: int) -> Margins:
        return Margins(left=self.left + samples, right=self.right + samples)


def samples_of(source: Tensor | None, steps: Span, step_samples: int) -> Tensor | None:
    """The part of a (..., samples) signal that belongs to some steps; None stays None."""
    return None if source is None else source[..., steps.scaled(step_samples).slice]
