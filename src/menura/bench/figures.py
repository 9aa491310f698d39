"""What a measurement consists of. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from menura.types import StageTimes


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Figures of one run."""

    wall_s: float
    audio_s: float
    files: int
    sgemm_gflops: float
    """What matrix products reached with the same threads at the same time: the machine's speed."""
    peak_mb: float
    """Largest resident memory of the process, MiB."""
    busy_cores: float
    """Processor time by wall time: with less than the threads, the machine was shared or threads waited."""
    stages: StageTimes = field(default_factory=StageTimes)
    """Sums over the files; files overlap."""

    @property
    def cost(self) -> float:
        """Work-normalised cost: comparable between machines, and between hours of a shared one."""
        return work_cost(self.wall_s, self.sgemm_gflops, self.audio_s)

    @property
    def real_time_factor(self) -> float:
        """Wall seconds for a second of audio."""
        return self.wall_s / self.audio_s


def work_cost(wall_s: float, sgemm_gflops: float, audio_s: float) -> float:
    """Wall seconds x measured sgemm GFLOP/s / audio seconds: GFLOP that could have been done for a second of audio."""
    return wall_s * sgemm_gflops / audio_s
