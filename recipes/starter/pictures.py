"""Draws what the starter voices make of the demonstration: the recording above, the voice below.

    python pictures.py --out docs/pictures

Lines that stand still across the picture would be hum, lines at equal distances in noise a buzz, bright columns clicks.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import soundfile as sf

from menura import ConversionOptions, Converter
from menura.audio.processor import resample
from menura.plots import Sound, draw_sounds
from menura.train.experiment.settings import write_atomically

VOICES = ("wren", "heron")
SECONDS = 6
RATE = 24_000
DEMO = Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"


def main() -> None:
    """Writes a picture for every starter voice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    recording, rate = sf.read(DEMO, dtype="float32")
    converter = Converter()
    for name in VOICES:
        made, made_rate = converter.convert((recording, rate), options=ConversionOptions(voice=name))
        sounds = [
            Sound(title=title, samples=resample(sound, at, RATE)[: SECONDS * RATE], rate=RATE)
            for title, sound, at in (("the recording", recording, rate), (name, made, made_rate))
        ]
        write_atomically(options.out / f"{name}.png", draw_sounds(sounds))
        print(options.out / f"{name}.png")


if __name__ == "__main__":
    main()
