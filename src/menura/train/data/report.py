"""What preparation found out about the data: kept as JSON, and written for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from menura.errors import AssetMissingError, TrainingError
from menura.plots import SpeakerData, draw_data
from menura.train.experiment.settings import read_dataclass, write_atomically, write_dataclass

REPORT_FILE = "report.txt"
_PREPARED_FILE = "prepared.json"
_BAR_WIDTH = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    start_s: float
    end_s: float
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicedRecording:
    source: str
    """Below the data set's folder."""
    speaker: str
    seconds: float = 0.0
    rate: int = 0
    loudness_db: float = 0.0
    files: tuple[str, ...] = ()
    """Slices, below the experiment's folder."""
    dropped: tuple[Dropped, ...] = ()
    fault: str | None = None
    """Why it could not be read at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSlice:
    file: str
    features: str
    speaker: str
    seconds: float
    loudness_db: float
    f0_hz: tuple[float, float, float]
    """5th, 50th and 95th percentile."""
    voiced: float
    held_out: bool = False
    """Kept for validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preparation:
    settings_key: str
    recordings: tuple[SlicedRecording, ...]
    slices: tuple[PreparedSlice, ...]

    def seconds(self, speaker: str | None = None) -> float:
        """Sound in slices, of one speaker or all."""
        return sum(item.seconds for item in self.slices if speaker in (None, item.speaker))

    def f0_median_hz(self, speaker: str | None = None) -> float | None:
        """Median pitch of the median slice; None where nothing is voiced."""
        medians = sorted(i.f0_hz[1] for i in self.slices if speaker in (None, i.speaker) and i.f0_hz[1] > 0)
        return medians[len(medians) // 2] if medians else None

    def f0_range_hz(self, speaker: str | None = None) -> tuple[float, float] | None:
        """About the 5th and 95th percentile of pitch: the lower quartile of slices' 5th, the upper of their 95th."""
        voiced = [i.f0_hz for i in self.slices if speaker in (None, i.speaker) and i.f0_hz[1] > 0]
        lows, highs = sorted(low for low, _, _ in voiced), sorted(-high for _, _, high in voiced)
        return (lows[len(lows) // 4], -highs[len(highs) // 4]) if voiced else None


def by_speaker(slices: Sequence[PreparedSlice]) -> dict[str, list[PreparedSlice]]:
    speakers = sorted({item.speaker for item in slices})
    return {speaker: [item for item in slices if item.speaker == speaker] for speaker in speakers}


def save_report(folder: Path, made: Preparation) -> Path:
    path = folder / REPORT_FILE
    write_atomically(path, report_text(made, name=folder.resolve().name).encode("utf-8", "backslashreplace"))
    return path


def save_preparation(folder: Path, made: Preparation) -> None:
    """Write `prepared.json`, and for people `report.txt` and, where matplotlib is installed, `report.png`."""
    save_report(folder, made)
    with suppress(AssetMissingError):  # the text says it all; the picture is for those who have matplotlib
        drawn = [
            SpeakerData(
                name=name,
                seconds=[item.seconds for item in slices],
                f0_hz=[item.f0_hz[1] for item in slices],
                loudness_db=[item.loudness_db for item in slices],
            )
            for name, slices in by_speaker(made.slices).items()
        ]
        write_atomically(folder / "report.png", draw_data(drawn))
    write_dataclass(folder / _PREPARED_FILE, made)


def load_preparation(folder: Path) -> Preparation | None:
    path = folder / _PREPARED_FILE
    try:
        return read_dataclass(Preparation, path, most_bytes=1 << 30) if path.is_file() else None
    except (OSError, ValueError) as error:
        raise TrainingError(path, f"can't be read ({error})", "Delete it and prepare again") from error


def report_text(made: Preparation, *, name: str) -> str:
    lines = [f"{name}: {made.seconds() / 60:.1f} minutes in {len(made.slices)} slices", ""]
    for speaker, own in by_speaker(made.slices).items():
        held, seconds = sum(item.held_out for item in own), made.seconds(speaker)
        lines.append(f"{speaker}: {seconds / 60:.1f} minutes, {len(own)} slices ({held} for validation)")
        lines.append(f"  voiced {100 * sum(i.voiced * i.seconds for i in own) / seconds:.0f} % of the time")
        if pitched := [item.f0_hz for item in own if item.f0_hz[1] > 0]:
            low, middle, high = min(p[0] for p in pitched), made.f0_median_hz(speaker), max(p[2] for p in pitched)
            lines.append(f"  F0 {low:.0f} to {high:.0f} Hz, median {middle:.0f} Hz; slices by their median:")
            notes = [12 * math.log2(p[1] / 440) + 69 for p in pitched]
            lines += _histogram(notes, 2, lambda note: f"{440 * 2 ** ((note - 69) / 12):.0f} Hz")
        lines.append("  loudness of slices:")
        lines += _histogram([item.loudness_db for item in own], 3, "{} dB".format)
    lines.append("")
    dropped = [(item, recording.source) for recording in made.recordings for item in recording.dropped]
    for fault, count in sorted(Counter(item.fault for item, _ in dropped).items()):
        lines.append(f"left out, {fault}: {count}")
        if fault != "too short":
            places = [(source, item.start_s, item.end_s) for item, source in dropped if item.fault == fault]
            lines += [f"  {source} {start_s:.1f} to {end_s:.1f} s" for source, start_s, end_s in places]
    if unread := [f"  {recording.fault}" for recording in made.recordings if recording.fault]:
        lines += [f"unreadable: {len(unread)}", *unread]
    return "\n".join(lines) + "\n"


def _histogram(values: Sequence[float], step: int, label: Callable[[int], str]) -> list[str]:
    counts = Counter(step * math.floor(value / step) for value in values)
    most = max(counts.values())
    lows = range(min(counts), max(counts) + step, step)
    return [f"    {label(low):>8} {'#' * round(_BAR_WIDTH * counts[low] / most)} {counts[low]}" for low in lows]
