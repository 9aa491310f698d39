"""What preparation found out about the data: kept as JSON, and written for people."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from menura.errors import AssetMissingError, TrainingError
from menura.plots import SpeakerData, draw_data
from menura.system.files import read_small
from menura.train.experiment.settings import built, write_atomically

PREPARED_FILE = "prepared.json"
REPORT_FILE = "report.txt"
PICTURE_FILE = "report.png"
_BAR_WIDTH = 40
_LONGEST_FILE_BYTES = 1 << 30


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


def by_speaker(slices: Sequence[PreparedSlice]) -> dict[str, list[PreparedSlice]]:
    speakers = sorted({item.speaker for item in slices})
    return {speaker: [item for item in slices if item.speaker == speaker] for speaker in speakers}


def reasons_against(recording: SlicedRecording) -> list[str]:
    """Why nothing of a recording is learnt from, each reason once."""
    if recording.fault is not None:
        return ["unreadable"]
    return sorted({item.fault for item in recording.dropped}) or ["too short"]


def save_report(folder: Path, made: Preparation) -> Path:
    path = folder / REPORT_FILE
    write_atomically(path, report_text(made, name=folder.resolve().name).encode("utf-8", "backslashreplace"))
    return path


def save_preparation(folder: Path, made: Preparation) -> None:
    """Write `prepared.json`, and for people `report.txt` and, where matplotlib is installed, `report.png`."""
    save_report(folder, made)
    with contextlib.suppress(AssetMissingError):  # the text says it all; the picture is for those who have matplotlib
        drawn = [_drawn(name, slices) for name, slices in by_speaker(made.slices).items()]
        write_atomically(folder / PICTURE_FILE, draw_data(drawn))
    write_atomically(folder / PREPARED_FILE, json.dumps(dataclasses.asdict(made), indent=1).encode())


def _drawn(name: str, slices: Sequence[PreparedSlice]) -> SpeakerData:
    return SpeakerData(
        name=name,
        seconds=[item.seconds for item in slices],
        f0_hz=[item.f0_hz[1] for item in slices],
        loudness_db=[item.loudness_db for item in slices],
    )


def load_preparation(folder: Path) -> Preparation | None:
    path = folder / PREPARED_FILE
    if not path.is_file():
        return None
    try:
        made: Preparation = built(Preparation, json.loads(read_small(path, _LONGEST_FILE_BYTES)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TrainingError(path, f"can't be read ({error})", "Delete it and prepare again") from error
    return made


def report_text(made: Preparation, *, name: str) -> str:
    lines = [f"{name}: {made.seconds() / 60:.1f} minutes in {len(made.slices)} slices", ""]
    for speaker, own in by_speaker(made.slices).items():
        held = sum(item.held_out for item in own)
        lines.append(f"{speaker}: {made.seconds(speaker) / 60:.1f} minutes, {len(own)} slices ({held} for validation)")
        lines.append(
            f"  voiced {100 * sum(i.voiced * i.seconds for i in own) / made.seconds(speaker):.0f} % of the time"
        )
        pitched = [item.f0_hz for item in own if item.f0_hz[1] > 0]
        if pitched:
            low, middle, high = min(p[0] for p in pitched), made.f0_median_hz(speaker), max(p[2] for p in pitched)
            lines.append(f"  F0 {low:.0f} to {high:.0f} Hz, median {middle:.0f} Hz; slices by their median:")
            lines.extend(
                _histogram([12 * math.log2(p[1] / 440) + 69 for p in pitched], step=2, unit="Hz by 2 semitones")
            )
        lines.append("  loudness of slices:")
        lines.extend(_histogram([item.loudness_db for item in own], step=3, unit="dB"))
    lines.extend(_left_out(made.recordings))
    return "\n".join(lines) + "\n"


def _histogram(values: Sequence[float], *, step: int, unit: str) -> list[str]:
    counts = Counter(step * math.floor(value / step) for value in values)
    most = max(counts.values())
    lines = []
    for low in range(min(counts), max(counts) + step, step):
        label = f"{440 * 2 ** ((low - 69) / 12):.0f} Hz" if unit.startswith("Hz") else f"{low} {unit}"
        lines.append(f"    {label:>8} {'#' * round(_BAR_WIDTH * counts[low] / most)} {counts[low]}")
    return lines


def _left_out(recordings: Sequence[SlicedRecording]) -> list[str]:
    lines = [""]
    by_fault = Counter(item.fault for recording in recordings for item in recording.dropped)
    for fault, count in sorted(by_fault.items()):
        lines.append(f"left out, {fault}: {count}")
        lines.extend(
            f"  {recording.source} {item.start_s:.1f} to {item.end_s:.1f} s"
            for recording in recordings
            for item in recording.dropped
            if item.fault == fault and fault != "too short"
        )
    unread = [recording.fault for recording in recordings if recording.fault]
    if unread:
        lines.append(f"unreadable: {len(unread)}")
        lines.extend(f"  {fault}" for fault in unread)
    return lines
