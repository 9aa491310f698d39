"""Features of the rendered sentences, for `menura train run`. Resumable: finished files are skipped.

python prepare.py --clips DIR --out EXPERIMENT/features
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from cast import NAMES, PAIRS
from rooms import Samples, worsened

from menura.audio.processor import resample
from menura.content.starter import StarterEncoder
from menura.f0.swift import SwiftEstimator
from menura.pipeline.analysis import analyse_clips
from menura.train.data.features import SUFFIX, ClipFeatures, ClipSource, Extractor, save_features
from menura.units import ANALYSIS_RATE_HZ


def with_worsened(features: ClipFeatures, clip: ClipSource, extractor: Extractor, company: Samples) -> ClipFeatures:
    """With content of all renditions in noise, rooms and telephones among the perturbed."""
    rng = np.random.default_rng(clip.seed)
    narrow = [resample(samples, clip.rate, ANALYSIS_RATE_HZ) for samples in (clip.samples, *clip.aligned)]
    worse = analyse_clips([worsened(x, rng, company) for x in narrow], extractor.encoder, None, extractor.device)
    rows = torch.from_numpy(np.stack([made.content[: features.frames // 2] for made in worse])).to(torch.float16)
    content = {**features.content, "perturbed": torch.cat([features.content["perturbed"], rows])}
    return dataclasses.replace(features, content=content)


def main() -> None:
    """Prepares every sentence that is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--pair", choices=tuple(PAIRS), default="shipped")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--worker", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    extractor = Extractor(
        encoder=StarterEncoder.load(torch.device("cpu")),
        estimator=SwiftEstimator.load(torch.device("cpu")),
        sample_rate=24_000,
    )
    targets = PAIRS[options.pair]
    company: Samples = np.zeros(ANALYSIS_RATE_HZ, np.float32)
    for path in sorted(options.clips.glob("*.json")):
        record = json.loads(path.read_text())
        done = all((options.out / f"{path.stem}.{NAMES[voice]}{SUFFIX}").exists() for voice in targets)
        if done or record["index"] % options.workers != options.worker:
            continue
        voices = [rendition["voice"] for rendition in record["renditions"]]
        audio = {voice: sf.read(path.with_name(f"{path.stem}.{voice}.flac"), dtype="float32")[0] for voice in voices}
        for number, voice in enumerate(targets):
            clip = ClipSource(
                speaker=NAMES[voice],
                samples=audio[voice],
                rate=24_000,
                aligned=[other for name, other in audio.items() if name != voice],
                seed=2 * record["index"] + number,
            )
            (features,) = extractor.extract_all([clip])
            features = with_worsened(features, clip, extractor, company)
            save_features(options.out / f"{path.stem}.{NAMES[voice]}{SUFFIX}", features)
        company = resample(audio[voices[0]], 24_000, ANALYSIS_RATE_HZ)
        print(path.stem, round(record["seconds"], 1), flush=True)


if __name__ == "__main__":
    main()
