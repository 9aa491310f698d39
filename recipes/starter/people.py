"""Gathers recordings of people whose licences let weights be redistributed: human input for the starter voices.

    apt-get download festvox-ru gcin-voice asterisk-prompt-fr-armelle asterisk-core-sounds-ru-g722
    for each of them: dpkg -x PACKAGE.deb DEBIAN
    python people.py --debian DEBIAN --out PEOPLE

PEOPLE gets SPEAKER.NUMBER.flac (16 kHz, silence at the ends cut, short ones joined) and `people.json`: what they are,
their licences, and how many minutes. SOURCES.md beside this file says why these and no others. Needs ffmpeg.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf

from menura.audio.processor import resample
from menura.units import ANALYSIS_RATE_HZ

Samples = npt.NDArray[np.float32]
_FRAME = ANALYSIS_RATE_HZ // 100
_PAUSE = np.zeros(ANALYSIS_RATE_HZ // 8, np.float32)
_LEAST_S, _JOINED_S, _MOST_S = 0.25, 4.0, 16.0
_BELOW_PEAK_DB = 40.0
"""Frames that much below a recording's loudest count as silence."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One speaker's recordings in an unpacked Debian package."""

    speaker: str
    language: str
    sex: str
    package: str
    pattern: str
    licence: str
    credit: str
    most: int = 10_000
    """Recordings at most, drawn at random: nobody shall outweigh all others."""


SOURCES = (
    Source(
        speaker="nsh", language="ru", sex="m", package="festvox-ru", pattern="**/msu_ru_nsh_clunits/wav/*.wav",
        licence="BSD-like (Festival's)", credit="2005 Nickolay V. Shmyrev", most=150,
    ),
    Source(
        speaker="ivrvoice", language="ru", sex="f", package="asterisk-core-sounds-ru-g722",
        pattern="**/ru_RU_f_IvrvoiceRU/**/*.g722",
        licence="CC-BY-3.0", credit="2010 Maxim Topal (ivrvoice.ru)",
    ),
    Source(
        speaker="chulo", language="zh", sex="f", package="gcin-voice", pattern="**/ogg/*/5.ogg",
        licence="CC-BY-3.0", credit="ChionMeilin with the vocal source from Chu Lo",
    ),
    Source(
        speaker="armelle", language="fr", sex="f", package="asterisk-prompt-fr-armelle", pattern="**/*.gsm",
        licence="BSD-like", credit="2006 Michel Gutierrez; voice: Armelle Desjardins",
    ),
)  # fmt: skip


def decoded(path: Path) -> Samples:
    """(samples,) at 16 kHz, mono."""
    if path.suffix == ".g722":
        command = ["ffmpeg", "-v", "error", "-f", "g722", "-i", str(path), "-f", "f32le", "-"]
        return np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.float32)
    raw = {"format": "RAW", "subtype": "GSM610", "samplerate": 8_000, "channels": 1} if path.suffix == ".gsm" else {}
    samples, rate = sf.read(path, dtype="float32", always_2d=True, **raw)
    return resample(samples.mean(axis=1), rate, ANALYSIS_RATE_HZ)


def trimmed(samples: Samples) -> Samples:
    """Without the silence at both ends, but for 50 ms; empty where nothing is loud."""
    frames = samples[: len(samples) // _FRAME * _FRAME].reshape(-1, _FRAME)
    if not len(frames):
        return samples[:0]
    level_db = 10 * np.log10(np.mean(np.square(frames), axis=1) + 1e-12)
    loud = np.flatnonzero(level_db > max(level_db.max() - _BELOW_PEAK_DB, -60))
    if not len(loud):
        return samples[:0]
    return samples[max(0, loud[0] - 5) * _FRAME : (loud[-1] + 6) * _FRAME]


def joined(recordings: Iterator[Samples]) -> Iterator[Samples]:
    """Clips of some seconds: short recordings follow each other after a pause, long ones are cut."""
    gathered: list[Samples] = []
    for samples in recordings:
        for start in range(0, len(samples), int(_MOST_S * ANALYSIS_RATE_HZ)):
            gathered += [samples[start : start + int(_MOST_S * ANALYSIS_RATE_HZ)], _PAUSE]
            if sum(map(len, gathered)) >= _JOINED_S * ANALYSIS_RATE_HZ:
                yield np.concatenate(gathered)
                gathered = []
    if gathered:
        yield np.concatenate(gathered)


def gather(source: Source, debian: Path, out: Path) -> dict[str, object]:
    """Writes one speaker's clips; returns what is known of them."""
    paths = sorted(debian.glob(source.pattern))
    paths = sorted(random.Random(0).sample(paths, min(source.most, len(paths))))
    spoken = (trimmed(decoded(path)) for path in paths if "silence" not in path.parts)
    usable = (samples for samples in spoken if len(samples) >= _LEAST_S * ANALYSIS_RATE_HZ)
    seconds, clips = 0.0, 0
    for clips, samples in enumerate(joined(usable), start=1):
        sf.write(out / f"{source.speaker}.{clips:04d}.flac", samples, ANALYSIS_RATE_HZ, subtype="PCM_16")
        seconds += len(samples) / ANALYSIS_RATE_HZ
    facts = {name: getattr(source, name) for name in ("language", "sex", "package", "licence", "credit")}
    return {"speaker": source.speaker, **facts, "recordings": len(paths), "clips": clips, "minutes": seconds / 60}


def main() -> None:
    """Gathers all speakers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debian", type=Path, required=True, help="where the packages were unpacked")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    people = [gather(source, options.debian, options.out) for source in SOURCES]
    (options.out / "people.json").write_text(json.dumps(people, indent=1, ensure_ascii=False) + "\n")
    for person in people:
        print(f"{person['speaker']}: {person['minutes']:.1f} min in {person['clips']} clips, {person['licence']}")


if __name__ == "__main__":
    main()
