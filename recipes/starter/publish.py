"""Exports the experiment's speakers as the starter voices, each with its card.

    python publish.py --experiment DIR --clips CLIPS --voices src/menura/assets/starter/voices
    python publish.py --voices src/menura/assets/starter/voices --quality MEASURED

The second writes into the cards what `menura evaluate --report MEASURED/wren.html` (and so on) measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from cast import NAMES, PAIRS
from safetensors import safe_open
from safetensors.torch import save

from menura.checkpoints.voice import SHARED_WEIGHTS, VoiceMetadata, load_voice, save_voice
from menura.train.data.features import SUFFIX, ClipFeatures, load_features
from menura.train.sharpness import sharpened
from menura.train.voice import export_voice

NATURAL_SEMITONES = 0.7
SHARPNESS = 0.3
"""Spectral losses leave formants blurred. With 0.4 naturalness gains a little more, and likeness falls."""
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
    "on real recordings of two women and two men that training never saw (LibriVox by Debian's pocketsphinx-testdata, "
    "Debian's asterisk-core-sounds in English, Italian and Russian); words and phones of the English ones; whisper and "
    "moonshine are character error rates over all their letters; default settings but --transpose auto; by Whisper "
    "tiny.en, Moonshine tiny-en, hama, Resemblyzer, SwiftF0, DNSMOS and Distill-MOS; nobody listened"
)
QUALITY_COMMANDS = (
    "menura convert RECORDINGS -o MEASURED/{name} --voice {name} --transpose auto",
    "menura evaluate RECORDINGS MEASURED/{name} --voice {name} --text RECORDINGS/manifest.json "
    "--report MEASURED/{name}.html",
)


def natural_pitch_hz(
    clips: dict[str, ClipFeatures], plans: Path, kokoro_voice: str
) -> tuple[float, tuple[float, float]]:
    """The voice's median, and its 5th and 95th percentile, where it speaks by its own intonation, hardly shifted.

    Those of all clips if there are none.
    """
    natural = []
    for index in clips:
        plan = json.loads((plans / f"{index}.json").read_text())
        for rendition in plan["renditions"]:
            own = rendition["voice"] == rendition["intonation"] == kokoro_voice
            if own and abs(rendition["shift_semitones"]) < NATURAL_SEMITONES:
                natural.append(clips[index])
    voiced = torch.cat([clip.f0_hz[clip.f0_hz > 0] for clip in natural or clips.values()])
    low, high = torch.quantile(voiced, torch.tensor([0.05, 0.95])).tolist()
    return float(voiced.log().median().exp()), (round(low, 1), round(high, 1))


def card(
    name: str,
    kokoro_voice: str,
    *,
    clips: dict[str, ClipFeatures],
    pitch_hz: tuple[float, tuple[float, float]],
    step: int,
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
        "f0_median_hz": round(pitch_hz[0], 1),
        "f0_range_hz": list(pitch_hz[1]),
        "content_encoder": "menura-starter (Whisper tiny.en, MIT)",
        "recipe": "recipes/starter",
        "commands": [line.format(steps=step) for line in COMMANDS],
        "course": COURSE,
        "steps": step,
    }


def add_quality(card_path: Path, report: Path) -> None:
    """Writes a report's means into a card, to three decimals, and prints a row for the tables of the documentation."""
    written = json.loads(card_path.read_text())
    summary = json.loads(report.read_text())["summary"]
    means = {key: round(value, 3) for key, value in summary.items() if value is not None}
    commands = [line.format(name=written["name"]) for line in QUALITY_COMMANDS]
    written["quality"] = {"note": QUALITY_NOTE, "commands": commands, **means}
    card_path.write_text(json.dumps(written, indent=1) + "\n")
    errors = [f"{summary[f'source_{judge}']:.1%} → {summary[judge]:.1%}" for judge in ("whisper", "moonshine")]
    natural = [f"{summary[f'source_{judge}']:.2f} → {summary[judge]:.2f}" for judge in ("dnsmos", "distill_mos")]
    moved = f"{summary['moved']:.2f} ({summary['worst_moved']:.2f})"
    likeness = (f"{summary['phones_changed']:.1%}", moved, f"{summary['f0_correlation']:.3f}")
    print("|", " | ".join((written["name"], *errors, *likeness, *natural)).replace("%", " %"), "|")


def main() -> None:
    """Writes `voice.safetensors` and `card.json` for every speaker, or measures into the cards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", type=Path)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--voices", type=Path, required=True)
    parser.add_argument("--quality", type=Path, help="folder with a report of every voice")
    options = parser.parse_args()
    kokoro_voices = {name: voice for voice, name in NAMES.items()}
    targets = {NAMES[voice]: options.voices / NAMES[voice] / "voice.safetensors" for voice in PAIRS["shipped"]}
    for name, target in targets.items():
        if options.experiment:
            publish(options.experiment, options.clips, target, name, kokoro_voices[name])
        if options.quality:
            add_quality(target.with_name("card.json"), options.quality / f"{name}.json")
    if options.experiment:
        share(list(targets.values()))


def sharpen(target: Path, slices: list[Path]) -> None:
    """Makes a voice's formants stand out, its mean over clips of its own staying as it is."""
    voice = load_voice(target)
    save_voice(target, dataclasses.replace(voice, state=sharpened(voice, slices, SHARPNESS)))


def share(voices: list[Path]) -> None:
    """Leaves in each voice's file only what differs from another's, and writes the rest once."""
    states, headers = [], []
    for path in voices:
        with safe_open(path, framework="pt") as file:
            states.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - it's no dict
            headers.append(json.loads(file.metadata()["rvc"]))
    same = {name for name, value in states[0].items() if all(torch.equal(state[name], value) for state in states)}
    (voices[0].parents[2] / SHARED_WEIGHTS).write_bytes(save({name: states[0][name] for name in same}))
    for path, state, header in zip(voices, states, headers, strict=True):
        own = {name: value for name, value in state.items() if name not in same}
        path.write_bytes(save(own, {"rvc": json.dumps({**header, "shared": True}, ensure_ascii=False)}))


def publish(experiment: Path, plans: Path, target: Path, name: str, kokoro_voice: str) -> None:
    """Exports a speaker as a voice with its card."""
    paths = sorted((experiment / "features").glob(f"*.{name}{SUFFIX}"))
    clips = {path.name.partition(".")[0]: load_features(path) for path in paths}
    source = f"kokoro:{kokoro_voice}"
    metadata = VoiceMetadata(name=name, author="Menura", licence="Apache-2.0", source=source)
    export_voice(experiment, target, metadata=metadata, speaker=name)
    sharpen(target, paths)
    step = load_voice(target).metadata.step or 0
    pitch_hz = natural_pitch_hz(clips, plans, kokoro_voice)
    written = card(name, kokoro_voice, clips=clips, pitch_hz=pitch_hz, step=step)
    target.with_name("card.json").write_text(json.dumps(written, indent=1) + "\n")
    print(f"{name}: {step} steps, {target.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
