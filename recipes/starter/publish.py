"""Exports the experiment's speakers as the starter voices, each with its card.

    python publish.py --experiment DIR --clips CLIPS --voices src/menura/assets/starter/voices --quality quality.json

`quality.json`, which `measure.py` writes, holds by voice what was measured; it is copied into the card.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from cast import NAMES, PAIRS

from menura.checkpoints.voice import VoiceMetadata, load_voice
from menura.train.data.features import SUFFIX, ClipFeatures, load_features
from menura.train.voice import export_voice

NATURAL_SEMITONES = 0.7
COMMANDS = (
    "python generate.py --parts PARTS --out CLIPS --count 420",
    "python experiment.py --out EXPERIMENT --begin wren.safetensors heron.safetensors --steps {steps}",
    "python prepare.py --clips CLIPS --out EXPERIMENT/features",
    "menura train run EXPERIMENT --precision fp32",
    "python publish.py --experiment EXPERIMENT --clips CLIPS --voices VOICES",
)
"""In recipes/starter."""
COURSE = (
    "of the 420 sentences those that were there when training began: even numbers to 224, odd ones to 275; planned as "
    "3,000 steps until step 750, then as 2,400, so the commands give a like voice, not the same bits"
)
BEGUN_WITH = "voices bf_emma, bm_daniel, af_heart and am_michael, trained jointly for 4,900 steps by the same recipe"
QUALITY_NOTE = (
    "on real recordings of two women and two men that training never saw; with text: the English ones, for the words; "
    "default settings; predicted by networks, nobody listened"
)


def natural_pitch_hz(clips: dict[str, ClipFeatures], plans: Path, kokoro_voice: str) -> float:
    """The voice's median where it speaks by its own intonation, hardly shifted; that of all clips if there are none."""
    natural = []
    for index in clips:
        plan = json.loads((plans / f"{index}.json").read_text())
        for rendition in plan["renditions"]:
            own = rendition["voice"] == rendition["intonation"] == kokoro_voice
            if own and abs(rendition["shift_semitones"]) < NATURAL_SEMITONES:
                natural.append(clips[index])
    voiced = [clip.f0_hz[clip.f0_hz > 0] for clip in natural or clips.values()]
    return float(torch.cat(voiced).log().median().exp())


def card(
    name: str, kokoro_voice: str, *, clips: dict[str, ClipFeatures], pitch_hz: float, step: int, quality: dict[str, Any]
) -> dict[str, Any]:
    """What `menura voices info` tells of a voice."""
    minutes = sum(clip.frames for clip in clips.values()) / 6000
    return {
        "name": name,
        "source": f"kokoro:{kokoro_voice}",
        "licence": "Apache-2.0",
        "data": f"{minutes:.1f} minutes of synthetic English speech by Kokoro-82M (Apache-2.0), voice {kokoro_voice}, "
        f"{len(clips)} sentences, trained beside another voice of Kokoro's; texts written for Menura or in the public "
        "domain",
        "begun_with": BEGUN_WITH,
        "consent": "a synthetic voice: no person's recordings were used to make it from Kokoro",
        "f0_median_hz": round(pitch_hz, 1),
        "content_encoder": "menura-starter (Whisper tiny.en, MIT)",
        "recipe": "recipes/starter",
        "commands": [line.format(steps=step) for line in COMMANDS],
        "course": COURSE,
        "steps": step,
        "quality": {"note": QUALITY_NOTE, **quality} if quality else {},
    }


def main() -> None:
    """Writes `voice.safetensors` and `card.json` for every speaker."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", type=Path, required=True)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--voices", type=Path, required=True)
    parser.add_argument("--quality", type=Path)
    options = parser.parse_args()
    measured = json.loads(options.quality.read_text()) if options.quality else {}
    kokoro_voices = {name: voice for voice, name in NAMES.items()}
    for name in (NAMES[voice] for voice in PAIRS["shipped"]):
        paths = sorted((options.experiment / "features").glob(f"*.{name}{SUFFIX}"))
        clips = {path.name.partition(".")[0]: load_features(path) for path in paths}
        source = f"kokoro:{kokoro_voices[name]}"
        target = options.voices / name / "voice.safetensors"
        metadata = VoiceMetadata(name=name, author="Menura", licence="Apache-2.0", source=source)
        export_voice(options.experiment, target, metadata=metadata, speaker=name)
        step = load_voice(target).metadata.step or 0
        written = card(
            name,
            kokoro_voices[name],
            clips=clips,
            pitch_hz=natural_pitch_hz(clips, options.clips, kokoro_voices[name]),
            step=step,
            quality=measured.get(name, {}),
        )
        (target.parent / "card.json").write_text(json.dumps(written, indent=1) + "\n")
        print(f"{name}: {step} steps, {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
