"""Writes the starter pack's experiment: its targets, trained jointly. Then: `menura train run EXPERIMENT`.

python experiment.py --out EXPERIMENT --begin wren.safetensors heron.safetensors

With `--begin` the weights are those of voices that were trained jointly before, one file a speaker.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from cast import NAMES, PAIRS

from menura.checkpoints.voice import load_voice
from menura.models.config import small_config
from menura.train.experiment.settings import (
    FILTER_WEIGHTS,
    ContentMix,
    Experiment,
    Schedule,
    WarmStart,
    save_experiment,
)
from menura.train.learning.checkpoint import write_state


def join(voices: list[Path], target: Path) -> None:
    """Writes voices that differ in their speaker's vector alone as one training state."""
    states = [load_voice(path).state for path in voices]
    shared = {name: value for name, value in states[0].items() if name != "emb_g.weight"}
    for path, state in zip(voices, states, strict=True):
        if not all(torch.equal(state[name], value) for name, value in shared.items()):
            raise SystemExit(f"{path} was not trained together with {voices[0]}")
    table = torch.cat([state["emb_g.weight"] for state in states])
    write_state(target, {"model": {**shared, "emb_g.weight": table}})


def main() -> None:
    """Writes `experiment.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", nargs="+", choices=tuple(PAIRS), default=["shipped"])
    parser.add_argument("--begin", nargs="+", type=Path, default=[], help="a voice for each speaker")
    parser.add_argument("--steps", type=int, default=5_000)
    options = parser.parse_args()
    speakers = tuple(NAMES[voice] for pair in options.pairs for voice in PAIRS[pair])
    base: Path = options.out / "begin.pt"
    if options.begin:
        options.out.mkdir(parents=True, exist_ok=True)
        join(options.begin, base)
    experiment = Experiment(
        synthesizer=small_config(24_000, len(speakers)),
        speakers=speakers,
        mix=ContentMix(own=0.2, aligned=0.4, perturbed=0.4),
        weights=FILTER_WEIGHTS,
        schedule=Schedule(
            steps=options.steps,
            batch_size=8,
            row_frames=160,
            learning_rate=5e-4,
            final_learning_rate=2e-5,
            warmup_steps=300,
            keep_average=0.998,
        ),
        warm_start=WarmStart(generator=base.name if options.begin else ""),
    )
    save_experiment(options.out, experiment)


if __name__ == "__main__":
    main()
