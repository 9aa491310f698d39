"""Renders the starter pack's training speech: aligned parallel sentences of the targets and of guide voices.

Every sentence takes its timing from a randomly drawn guide voice; each target then speaks it with exactly that timing,
with its own or the guide's intonation, its range stretched and shifted at random. Sentence i depends on (seed, i) only,
and its JSON file is written last, so the command can be stopped and started again at any time, in several processes:

    python generate.py --parts DIR --out DIR --count 900 --workers 2 --worker 0
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import random
import time
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from cast import GUIDES, PAIRS
from kokoro import SAMPLE_RATE_HZ, Array, Kokoro, Prosody, phonemes
from sentences import sentences

_VOICED_ABOVE_HZ = 40.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Rendition:
    """How one voice speaks one sentence."""

    voice: str
    """Kokoro's name of the voice."""
    intonation: str
    """The voice whose predicted pitch contour is followed."""
    shift_semitones: float
    stretch: float
    """Factor on the contour's distance from its median, in log frequency."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """One sentence: its text, its timing and who renders it."""

    index: int
    text: str
    guide: str
    speed: float
    renditions: tuple[Rendition, ...]


def plan(index: int, text: str, seed: int, pair: str) -> Plan:
    """Draws the guide, the speed and every rendition's intonation."""
    rng = random.Random(f"{seed}/{index}")
    guide = rng.choice(GUIDES[pair])
    renditions = [
        Rendition(
            voice=voice,
            intonation=rng.choice((voice, guide)),
            shift_semitones=rng.triangular(-5.0, 6.0, 0.0),
            stretch=rng.uniform(0.7, 1.8),
        )
        for voice in PAIRS[pair]
    ]
    if rng.random() < (0.6 if index < 60 else 0.25):
        renditions.append(Rendition(voice=guide, intonation=guide, shift_semitones=0.0, stretch=1.0))
    return Plan(index=index, text=text, guide=guide, speed=rng.uniform(0.85, 1.25), renditions=tuple(renditions))


def follow(own: Prosody, contour: Array, rendition: Rendition) -> Prosody:
    """`own` prosody with its pitch replaced by `contour`, moved to its own median and then shifted and stretched."""
    median = _median_log_hz(own.f0_hz)
    contour_median = _median_log_hz(contour)
    if median is None or contour_median is None:
        return own
    voiced = contour > _VOICED_ABOVE_HZ
    log_hz = np.log(np.where(voiced, contour, 100.0))
    moved = median + rendition.shift_semitones * np.log(2) / 12 + rendition.stretch * (log_hz - contour_median)
    f0_hz = np.where(voiced, np.clip(np.exp(moved), 60.0, 480.0), contour)
    return dataclasses.replace(own, f0_hz=f0_hz.astype(np.float32))


def _median_log_hz(f0_hz: Array) -> float | None:
    voiced = f0_hz[f0_hz > _VOICED_ABOVE_HZ]
    return float(np.median(np.log(voiced))) if voiced.size else None


def render(kokoro: Kokoro, item: Plan) -> dict[str, Array]:
    """Audio of every rendition, all of the same length, by voice."""
    symbols = phonemes(item.text)
    timing = kokoro.plan(symbols, item.guide, item.speed)
    out = {}
    for rendition in item.renditions:
        own = kokoro.retime(symbols, rendition.voice, timing.durations)
        contour = own.f0_hz if rendition.intonation == rendition.voice else timing.f0_hz
        out[rendition.voice] = kokoro.speak(symbols, rendition.voice, follow(own, contour, rendition))
    return out


def save(folder: Path, item: Plan, audio: dict[str, Array]) -> None:
    """Writes FLAC files, then the JSON that marks the sentence as done, each atomically."""
    stem = f"{item.index:05d}"
    for voice, samples in audio.items():
        peak = max(1.0, float(np.abs(samples).max()) / 0.99)
        buffer = io.BytesIO()
        sf.write(buffer, samples / peak, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16")
        _write(folder / f"{stem}.{voice}.flac", buffer.getvalue())
    seconds = max(map(len, audio.values())) / SAMPLE_RATE_HZ
    record = {**dataclasses.asdict(item), "seconds": seconds}
    _write(folder / f"{stem}.json", json.dumps(record, indent=1).encode())


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(data)
    partial.replace(path)


def main() -> None:
    """Renders this worker's share of the sentences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, required=True, help="folder with kokoro.onnx, vocab.json and voices/")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pair", choices=tuple(PAIRS), default="shipped")
    parser.add_argument("--count", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--uncompiled", action="store_true", help="begin at once; slower with many sentences")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--worker", type=int, default=0)
    options = parser.parse_args()
    parts: Path = options.parts
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    compiles = not options.uncompiled
    kokoro = Kokoro(parts / "kokoro.onnx", parts / "vocab.json", parts / "voices", parts, compiles=compiles)
    started, done = time.monotonic(), 0.0
    for index, text in enumerate(sentences(options.count, options.seed)):
        if index % options.workers != options.worker or (options.out / f"{index:05d}.json").exists():
            continue
        item = plan(index, text, options.seed, options.pair)
        audio = render(kokoro, item)
        save(options.out, item, audio)
        done += sum(map(len, audio.values())) / SAMPLE_RATE_HZ
        print(f"{index} {len(audio)} renditions, {done:.0f} s in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
