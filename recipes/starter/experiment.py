"""Writes the starter pack's experiment: four targets, trained jointly. Then: `menura train run EXPERIMENT`.

python experiment.py --out EXPERIMENT
"""

from __future__ import annotations

import argparse
from pathlib import Path

from menura.train.spec import FILTER_WEIGHTS, ContentMix, Experiment, Schedule, save_experiment, starter_config


def main() -> None:
    """Writes `experiment.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    experiment = Experiment(
        synthesizer=starter_config(4),
        speakers=("wren", "heron", "heart", "michael"),
        mix=ContentMix(own=0.2, aligned=0.4, perturbed=0.4),
        weights=FILTER_WEIGHTS,
        schedule=Schedule(
            steps=5_000,
            batch_size=8,
            row_frames=160,
            learning_rate=5e-4,
            final_learning_rate=2e-5,
            warmup_steps=300,
            keep_average=0.998,
        ),
    )
    save_experiment(options.out, experiment)


if __name__ == "__main__":
    main()
