"""Writes what the starter voices' targets sound like: `menura evaluate --voice` compares with it.

    python references.py --parts PARTS --voices src/menura/assets/starter/voices [--out DIR]

Each target speaks twelve sentences by its own timing and intonation; none is in `sentences.txt` or made by its
templates, so training never met them. `speaker.json` beside a voice gets their mean by Resemblyzer's encoder and how
alike they are to each other; no sound is kept, unless DIR is to have it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import soundfile as sf
from cast import NAMES, PAIRS
from kokoro import SAMPLE_RATE_HZ, Kokoro, phonemes

from menura.audio.processor import resample
from menura.evaluate import SpeakerEncoder, Target
from menura.train.experiment.settings import write_atomically
from menura.units import ANALYSIS_RATE_HZ

SENTENCES = (
    "The bus to the old lighthouse leaves at nine and comes back before supper.",
    "I left my reading glasses on the table next to the radio.",
    "Could you show me how this ticket machine works, please?",
    "Most of the apples were eaten by the goats that broke the fence.",
    "She played the second movement faster than anyone expected.",
    "We ought to paint the shed before the autumn rains begin.",
    "Nothing in the report explains why the pump stopped on Friday night.",
    "My grandfather taught me how to tie a fishing knot when I was six.",
    "Turn left after the pharmacy, then go straight on for half a mile.",
    "It was so foggy that the pilots waited three hours for a clear sky.",
    "Every shelf in that shop smells of cinnamon, soap and coffee.",
    "If the museum is closed on Monday, we will visit the market instead.",
)


def main() -> None:
    """Speaks, listens, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, required=True, help="folder with kokoro.onnx, vocab.json and voices/")
    parser.add_argument("--voices", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="keep the recordings here")
    options = parser.parse_args()
    parts: Path = options.parts
    kokoro = Kokoro(parts / "kokoro.onnx", parts / "vocab.json", parts / "voices", parts, compiles=False)
    encoder = SpeakerEncoder.load(None)
    for voice in PAIRS["shipped"]:
        recordings = []
        for number, text in enumerate(SENTENCES):
            symbols = phonemes(text)
            samples = kokoro.speak(symbols, voice, kokoro.plan(symbols, voice, 1.0))
            if options.out:
                options.out.mkdir(parents=True, exist_ok=True)
                sf.write(options.out / f"{number:02d}.{voice}.flac", samples, SAMPLE_RATE_HZ)
            recordings.append(resample(samples, SAMPLE_RATE_HZ, ANALYSIS_RATE_HZ))
        target = Target.of_recordings(encoder.embed, recordings)
        document = {
            "encoder": "Resemblyzer 0.1.4 (GE2E)",
            "of": f"{len(SENTENCES)} sentences spoken by Kokoro-82M (Apache-2.0), voice {voice}, that trained nothing",
            "command": "recipes/starter/references.py",
            "self_similarity": round(target.self_similarity or 0.0, 4),
            "embedding": [round(float(value), 4) for value in target.embedding],
        }
        path = options.voices / NAMES[voice] / "speaker.json"
        write_atomically(path, (json.dumps(document) + "\n").encode())
        print(f"{path}: alike by {target.self_similarity:.3f}")


if __name__ == "__main__":
    main()
