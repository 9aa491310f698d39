"""Who speaks when: spans of a recording, each with a voice and options of its own, as CSV, JSON and RTTM."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from menura.errors import OptionError
from menura.option_spec import spec_of
from menura.options import ConversionOptions
from menura.system.files import read_small
from menura.system.text import printable

SPAN_OPTIONS = (
    *("index_rate", "speaker_id", "content", "transpose", "proposed_pitch", "f0", "f0_repair", "f0_ceiling"),
    *("f0_smoothing", "autotune", "autotune_key", "autotune_scale", "protect", "seed", "noise_scale"),
)
"""What may differ within a recording, beside the voice; all else belongs to the whole output."""
_SPECS = {name: spec_of(ConversionOptions, name) for name in SPAN_OPTIONS}
MOST_BYTES, MOST_SPANS = 16 * 2**20, 100_000
LONGEST_S = 1000 * 3600.0
_NAMES = {"begin": "start", "from": "start", "onset": "start", "stop": "end", "to": "end", "until": "end"}
_NAMES |= {"label": "speaker", "who": "speaker"}
_IGNORED = (
    *("", "text", "words", "chars", "note", "comment", "id", "score", "confidence", "language"),
    *("seek", "tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob"),  # Whisper's
)
_TIME = re.compile(r"(?:(?:(\d{1,4}):)?(\d{1,5}):)?(\d{1,9}(?:\.\d*)?|\.\d+)")
_TOUCHING_S = 0.005
_LONGEST_NAME = 200
_FORM = "Give lines of 'start,end,voice', such as 0:04.2,0:09,wren"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A span of a recording, and whose it is."""

    start_s: float
    end_s: float
    voice: str | None = None
    speaker: str | None = None
    """By whom a voice may be found."""
    options: tuple[tuple[str, str | float], ...] = ()
    """Names and values of SPAN_OPTIONS."""
    place: str = ""
    """Where it stands, for messages."""


def read_spans(source: str | PathLike[str] | Sequence[Mapping[str, Any]]) -> str:
    """The text for the option `spans`: of a CSV, JSON or RTTM file, or of dicts with start, end, voice and options.

    Raises OptionError, which names the file, the line and the field.
    """
    if not isinstance(source, (str, PathLike)):
        text, name = json.dumps(list(source), default=dict), None
    else:
        path = Path(source)
        name = str(path)
        try:
            text = read_small(path, MOST_BYTES).decode("utf-8-sig")
        except OSError as error:
            raise OptionError(name, error.strerror or "can't be read", option="spans") from error
        except UnicodeDecodeError:
            raise OptionError(name, "is not text in UTF-8", "Save it as UTF-8", "spans") from None
    turns_of(text, name)
    return text


def turns_of(text: str, name: str | None = None) -> tuple[tuple[Turn, ...], float]:
    """The turns of a text, in order and apart from each other, and how many seconds of an RTTM's overlapped.

    There the turn that began last has the time while it lasts. `name` is the file's, for errors. Raises OptionError.
    """
    try:
        return _turns_of(text)
    except OptionError as error:
        raise OptionError(name, error.problem, error.advice, "spans") from None


def speakers_of(text: str | None) -> dict[str, str]:
    """Voices by speaker, of 'SPEAKER_00=wren,SPEAKER_01=heron'. Raises OptionError."""
    pairs = [item.partition("=") for item in (text or "").split(",") if item.strip()]
    for speaker, _, voice in pairs:
        if not (speaker.strip() and voice.strip()):
            problem = f"'{printable(speaker, 40)}' has no voice"
            raise OptionError(None, problem, "Use {speakers=SPEAKER=VOICE,SPEAKER=VOICE}", "speakers")
    voices = {speaker.strip(): voice.strip() for speaker, _, voice in pairs}
    if len(voices) < len(pairs):
        raise OptionError(None, "a speaker is given two voices", "Give each speaker one", "speakers")
    return voices


def voices_of(text: str, speakers: str | None) -> frozenset[str]:
    """All that spans and speakers name as voices. Raises OptionError."""
    voices = speakers_of(speakers)
    own = {whose(turn, voices)[1] for turn in turns_of(text)[0]}
    return frozenset(voice for voice in (*own, *voices.values()) if voice)


def whose(turn: Turn, voices: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The speaker and the voice of a turn, where some speakers have been given voices."""
    speaker = turn.speaker or (turn.voice if turn.voice in voices else None)
    return speaker, voices.get(speaker or "") or turn.voice


def _turns_of(text: str) -> tuple[tuple[Turn, ...], float]:
    if len(text) > MOST_BYTES:
        raise _refused(f"more than {MOST_BYTES >> 20} MB of spans", "Divide the recording")
    lines = text.lstrip("\ufeff").splitlines()
    first = next((line for line in map(str.strip, lines) if line and not line.startswith(("#", ";;"))), "")
    rttm = re.match(r"(?:SPEAKER|SPKR-INFO)\s+\S+\s+\S+\s", first) is not None
    read = _rttm(lines) if rttm else _json(text) if first[:1] in ("[", "{") else _csv(lines)
    turns: list[Turn] = []
    for turn in read:
        turns.append(turn)
        if len(turns) > MOST_SPANS:
            raise _refused(f"more than {MOST_SPANS} spans", "Divide the recording")
    if not turns:
        raise _refused("there are no spans", _FORM)
    turns.sort(key=lambda turn: turn.start_s)
    if not rttm:
        _check_apart(turns)
    apart = tuple(_apart(turns))
    return apart, sum(t.end_s - t.start_s for t in turns) - sum(t.end_s - t.start_s for t in apart) if rttm else 0.0


def _check_apart(turns: Sequence[Turn]) -> None:
    latest = turns[0]
    for turn in turns[1:]:
        if turn.start_s < latest.end_s - _TOUCHING_S:
            problem = f"overlaps {latest.place}, which lasts until {latest.end_s:g} s"
            raise _refused(f"{turn.place}, start: {problem}", "Give each moment to one span")
        latest = max(latest, turn, key=lambda each: each.end_s)


def _apart(turns: Iterable[Turn]) -> Iterator[Turn]:
    """Turns, in order of their starts, so that each moment belongs to the one that began last of those under way."""
    under_way: list[Turn] = []
    at_s = 0.0
    for turn in [*turns, Turn(start_s=math.inf, end_s=math.inf)]:
        while under_way and at_s < turn.start_s:
            latest = under_way[-1]
            stop_s = min(latest.end_s, turn.start_s)
            if stop_s > at_s:
                yield replace(latest, start_s=at_s, end_s=stop_s)
                at_s = stop_s
            if latest.end_s <= at_s:
                under_way.pop()
        at_s = turn.start_s
        under_way.append(turn)


def _rttm(lines: Sequence[str]) -> Iterator[Turn]:
    """NIST's rich transcription: SPEAKER file channel start duration orthography subtype name confidence lookahead."""
    recordings: set[str] = set()
    for number, line in enumerate(lines, 1):
        fields, place = line.split(), f"line {number}"
        if not fields or fields[0] != "SPEAKER":
            continue
        if len(fields) < 8:
            raise _refused(f"{place}: {len(fields)} fields, where RTTM has 9 or 10")
        recordings.add(fields[1])
        if len(recordings) > 1:
            problem = f"{place}: turns of several recordings ({printable(', '.join(sorted(recordings)), 80)})"
            raise _refused(problem, "Keep the lines of one")
        start_s, length_s = (_seconds(fields[at], f"{place}, {what}") for at, what in ((3, "start"), (4, "duration")))
        if length_s > 0:
            speaker = _name(fields[7], f"{place}, speaker")
            yield Turn(start_s=start_s, end_s=start_s + length_s, speaker=speaker, place=place)


def _json(text: str) -> Iterator[Turn]:
    try:
        document = json.loads(text.lstrip("\ufeff"))
    except (ValueError, RecursionError) as error:
        where = f"line {error.lineno}: " if isinstance(error, json.JSONDecodeError) else ""
        raise _refused(f"{where}not JSON") from None
    if isinstance(document, dict):
        document = document.get("spans", document.get("segments"))
    if not isinstance(document, list):
        raise _refused("the JSON is not a list of spans", 'Give [{"start": 0, "end": 4.2, "voice": "wren"}]')
    for number, entry in enumerate(document, 1):
        place = f"entry {number}"
        if not isinstance(entry, dict):
            raise _refused(f"{place} is not an object")
        options = entry.get("options") or {}
        if not isinstance(options, dict):
            raise _refused(f"{place}, options: not an object")
        yield _turn({**{k: v for k, v in entry.items() if k != "options"}, **options}, place)


def _csv(lines: Sequence[str]) -> Iterator[Turn]:
    """With a header or without (start, end, voice), divided by commas, semicolons or tabs."""
    rows = [
        (number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")
    ]
    delimiter = max("\t;,", key=(rows[0][1] if rows else "").count)
    columns: list[str] | None = None
    for number, line in rows:
        place = f"line {number}"
        try:
            (cells,) = csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True)
        except (csv.Error, ValueError) as error:
            raise _refused(f"{place}: {error}", "Close quotation marks on the line where they begin") from None
        cells = [cell.strip() for cell in cells]
        if columns is None:
            header = [_known(cell) for cell in cells]
            columns = header if {"start", "end"} <= set(header) else ["start", "end", "voice", "options"]
            if columns is header:
                continue
        if len(cells) > len(columns) and any(cells[len(columns) :]):
            raise _refused(f"{place}: {len(cells)} fields, and {len(columns)} are expected", _FORM)
        fields: dict[str, Any] = {key: value for key, value in zip(columns, cells, strict=False) if value}
        if delimiter != ",":
            fields |= {key: fields[key].replace(",", ".") for key in fields.keys() & {"start", "end", *SPAN_OPTIONS}}
        fields |= dict(_pair(item, place) for item in re.split(r"[\s,;]+", fields.pop("options", "")) if item)
        yield _turn(fields, place)


def _pair(text: str, place: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise _refused(f"{place}, options: '{printable(text, 40)}' has no value", "Write NAME=VALUE")
    return name, value


def _known(name: str) -> str:
    name = name.strip().lower().replace("-", "_").replace(" ", "_")
    name = name.removesuffix("_s") if name in ("start_s", "end_s") else name
    return _NAMES.get(name, name)


def _turn(fields: Mapping[str, Any], place: str) -> Turn:
    found = {_known(str(name)): value for name, value in fields.items() if value is not None}
    start_s, end_s = (_seconds(found.pop(name, None), f"{place}, {name}") for name in ("start", "end"))
    if end_s <= start_s:
        raise _refused(f"{place}, end: {end_s:g} s is not after the start, {start_s:g} s")
    voice, speaker = (_name(found.pop(name, None), f"{place}, {name}") for name in ("voice", "speaker"))
    options = tuple((name, _value(name, found[name], place)) for name in sorted(found) if name not in _IGNORED)
    return Turn(start_s=start_s, end_s=end_s, voice=voice, speaker=speaker, options=options, place=place)


def _seconds(given: Any, place: str) -> float:
    """Seconds, or [h:]mm:ss, each with decimals."""
    text = f"{given:f}" if isinstance(given, float) else "" if given is None else str(given).strip()
    if match := _TIME.fullmatch(text):
        hours, minutes, seconds = (float(group or 0) for group in match.groups())
        if (found := 3600 * hours + 60 * minutes + seconds) <= LONGEST_S:
            return found
    problem = f"'{printable(text, 40)}' is not a time" if text else "there is no time"
    raise _refused(f"{place}: {problem}", "Give seconds, or h:mm:ss.fff")


def _name(given: Any, place: str) -> str | None:
    if given is None or given == "":
        return None
    if not isinstance(given, (str, int)) or not str(given).isprintable() or len(str(given)) > _LONGEST_NAME:
        raise _refused(f"{place}: not a name")
    return str(given)


def _value(name: str, given: Any, place: str) -> str | float:
    if name not in SPAN_OPTIONS:
        advice = f"Beside start, end, voice and speaker a span may have {', '.join(SPAN_OPTIONS)}"
        if any(name == field for field in ConversionOptions.__dataclass_fields__):
            advice = f"It belongs to the whole output: give {{{name}}}"
        raise _refused(f"{place}: a span has no '{printable(name, 40)}'", advice)
    try:
        value = _SPECS[name].checked(given)
    except OptionError as error:
        raise _refused(f"{place}, {name}: {error.problem}") from None
    assert isinstance(value, (str, int, float))
    return value


def _refused(problem: str, advice: str | None = None) -> OptionError:
    return OptionError(None, problem, advice, "spans")
