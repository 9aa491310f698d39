"""What a measurement consists of, and its JSON. Loads no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

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
    """CPU time by wall time: with less than the threads, the machine was shared or threads waited."""
    stages: StageTimes = field(default_factory=StageTimes)
    """Sums over the files; files overlap."""

    @property
    def cost(self) -> float:
        """GFLOP that could have been done for a second of audio: comparable between machines."""
        return self.wall_s * self.sgemm_gflops / self.audio_s

    @property
    def real_time_factor(self) -> float:
        return self.wall_s / self.audio_s

    def document(self) -> dict[str, Any]:
        stages = {name.removesuffix("_s"): round(value, 6) for name, value in dataclasses.asdict(self.stages).items()}
        return {
            "wall_s": round(self.wall_s, 6),
            "audio_s": round(self.audio_s, 6),
            "files": self.files,
            "sgemm_gflops": round(self.sgemm_gflops, 2),
            "cost": round(self.cost, 3),
            "real_time_factor": round(self.real_time_factor, 6),
            "peak_mb": round(self.peak_mb, 1),
            "busy_cores": round(self.busy_cores, 3),
            **({"stages": stages} if any(stages.values()) else {}),
        }
