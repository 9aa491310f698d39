"""Spans as CSV, JSON and RTTM: what is read, what is refused, and with which words."""

from __future__ import annotations

import itertools
import json
import math
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from menura import ConversionOptions, OptionError, read_spans
from menura.errors import VoiceNotFoundError
from menura.loading import resolve
from menura.spans import MOST_BYTES, SPAN_OPTIONS, Turn, speakers_of, turns_of

TWO = [(0.0, 4.2, "wren"), (64.5, 3723.25, "heron")]


def said(text: str) -> list[tuple[float, float, str | None]]:
    return [(turn.start_s, turn.end_s, turn.voice) for turn in turns_of(text)[0]]


WHISPERS: dict[str, object] = {"id": 0, "seek": 0, "text": "…", "tokens": [1], "words": [], "temperature": 0.0}
WHISPERS |= {"avg_logprob": -0.2, "compression_ratio": 1.1, "no_speech_prob": 0.0}


@pytest.mark.parametrize(
    "text",
    [
        "start,end,voice\n0,4.2,wren\n1:04.5,1:02:03.25,heron\n",
        "0,4.2,wren\n64.5,3723.25,heron",
        "\ufeffSTART;End;Voice\r\n0;4,2;wren\r\n1:04,5;1:02:03,25;heron\r\n",
        "# spoken by two\n\n0\t4.2\twren\n\n64.5\t3723.250\theron\n",
        'voice, begin, stop, text\nheron,64.5,3723.25,"yes, it is"\nwren,0,4.2,\n',
        'label,from,to\n"wren",0,4.2\n"heron",64.5,3723.25\n'.replace("label", "voice"),
        "\ufeff"
        + json.dumps(
            [{"start": 0, "end": 4.2, "voice": "wren"}, {"start": "1:04.5", "end": 3723.25, "voice": "heron"}]
        ),
        json.dumps({"segments": [WHISPERS | {"start": a, "end": b, "voice": v} for a, b, v in TWO]}),
    ],
)
def test_forms(text: str) -> None:
    assert said(text) == TWO


def test_options_of_a_span() -> None:
    text = "start,end,voice,transpose,options\n0,1,wren,auto,protect=0.5 speaker_id=0\n1,2,wren,,index_rate=.5\n"
    first, second = turns_of(text)[0]
    assert first.options == (("protect", 0.5), ("speaker_id", 0), ("transpose", "auto"))
    assert second.options == (("index_rate", 0.5),)
    assert turns_of("start;end;voice;transpose\n0;1,5;wren;-2,5")[0][0].options == (("transpose", -2.5),)
    nested = [{"start": 0, "end": 1, "options": {"transpose": 2}, "seed": 4, "protect": None}]
    assert turns_of(read_spans(nested))[0][0].options == (("seed", 4), ("transpose", 2.0))


RTTM = """SPKR-INFO talk 1 <NA> <NA> <NA> unknown SPEAKER_00 <NA> <NA>
SPEAKER talk 1 0.50 10.00 <NA> <NA> SPEAKER_00 <NA> <NA>
SPEAKER talk 1 4.00 1.50 <NA> <NA> SPEAKER_01 <NA> <NA>
SPEAKER talk 1 7.00 0.00 <NA> <NA> SPEAKER_01 <NA> <NA>
SPEAKER talk 1 9.00 6.00 <NA> <NA> SPEAKER_01 <NA> <NA>
"""


def test_rttm_gives_the_moment_to_who_began_last() -> None:
    turns, overlapped_s = turns_of(RTTM)
    assert [(turn.start_s, turn.end_s, turn.speaker) for turn in turns] == [
        (0.5, 4.0, "SPEAKER_00"),
        (4.0, 5.5, "SPEAKER_01"),
        (5.5, 9.0, "SPEAKER_00"),
        (9.0, 15.0, "SPEAKER_01"),
    ]
    assert overlapped_s == pytest.approx(3.0)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=30))
def test_overlapping_turns_cover_the_same_time(starts: list[tuple[int, int]]) -> None:
    lines = [f"SPEAKER t 1 {at} {length} <NA> <NA> S{k} <NA> <NA>" for k, (at, length) in enumerate(starts)]
    turns, _ = turns_of("\n".join(lines))
    owners = {t: [k for k, (at, n) in enumerate(starts) if at <= t < at + n] for t in range(75)}
    found: dict[int, Turn] = {}
    for turn in turns:
        for moment in range(int(turn.start_s), int(turn.end_s)):
            assert moment not in found
            found[moment] = turn
    assert set(found) == {moment for moment, who in owners.items() if who}
    for moment, turn in found.items():
        assert starts[int(str(turn.speaker)[1:])][0] == max(starts[k][0] for k in owners[moment])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there are no spans"),
        ("start,end,voice\n", "there are no spans"),
        ("talk.csv", "line 1, start: 'talk.csv' is not a time"),
        ("start,end,voice\n0,x,wren", "line 2, end: 'x' is not a time"),
        ("start,end,voice\n0,,wren", "line 2, end: there is no time"),
        ("0,nan,wren", "line 1, end: 'nan' is not a time"),
        ("-1,2,wren", "line 1, start: '-1' is not a time"),
        ("0,1e9999,wren", "line 1, end: '1e9999' is not a time"),
        ("0,99999999,wren", "line 1, end: '99999999' is not a time"),
        ("3,3,wren", "line 1, end: 3 s is not after the start, 3 s"),
        ("0,2,wren\n4,3,wren", "line 2, end: 3 s is not after the start, 4 s"),
        ("0,2,wren\n1.9,3,heron", "line 2, start: overlaps line 1, which lasts until 2 s"),
        ("0,9,wren\n1,2,heron", "line 2, start: overlaps line 1, which lasts until 9 s"),
        ("0,2,wren,a=1,b,c", "line 1: 6 fields, and 4 are expected"),
        ('0,2,"wren', "line 1: unexpected end of data"),
        ("start,end,voice,pitch\n0,2,wren,3", "line 2: a span has no 'pitch'"),
        ("start,end,voice,format\n0,2,wren,flac", "line 2: a span has no 'format'"),
        ("start,end,voice,transpose\n0,2,wren,99", "line 2, transpose: 99 is outside -48 to 48 semitones"),
        ("0,2,wren,transpose", "line 1, options: 'transpose' has no value"),
        ("0,2,\x1b[31mwren", "line 1, voice: not a name"),
        ('[{"start": 0, "end": 1}', "line 1: not JSON"),
        ("[" * 100_000, "not JSON"),
        ("{}", "the JSON is not a list of spans"),
        ("[1]", "entry 1 is not an object"),
        ('[{"start": 0, "end": true}]', "entry 1, end: 'True' is not a time"),
        ('[{"start": 0, "end": NaN}]', "entry 1, end: 'nan' is not a time"),
        ('[{"start": 0, "end": 1, "transpose": []}]', "entry 1, transpose: [] is not a number of semitones"),
        ('[{"start": 0, "end": 1, "index": "/etc/passwd"}]', "entry 1: a span has no 'index'"),
        ("SPEAKER a 1 0 1 <NA>", "line 1: 6 fields, where RTTM has 9 or 10"),
        ("SPEAKER a 1 0 x <NA> <NA> S <NA>", "line 1, duration: 'x' is not a time"),
        (RTTM + "SPEAKER other 1 0 1 <NA> <NA> S <NA>", "turns of several recordings (other, talk)"),
    ],
)
def test_refused(text: str, problem: str) -> None:
    with pytest.raises(OptionError) as refused:
        turns_of(text, "talk.csv")
    assert problem in refused.value.problem
    assert (refused.value.subject, refused.value.option) == ("talk.csv", "spans")


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    for each in (text, f"start,end,voice\n{text}", f"[{text}]", f"SPEAKER a 1 {text}"):
        try:
            turns = turns_of(each)[0]
        except OptionError:
            continue
        assert all(0 <= a.end_s <= b.start_s < b.end_s < math.inf for a, b in itertools.pairwise(turns))


def test_many(tmp_path: Path) -> None:
    begun_s = time.perf_counter()
    text = "\n".join(f"{k / 10},{(k + 1) / 10},wren,transpose={k % 3}" for k in range(100_000))
    assert len(turns_of(text)[0]) == 100_000
    with pytest.raises(OptionError, match="more than 100000 spans"):
        turns_of("\n".join(f"{k},{k + 1}" for k in range(100_001)))
    assert time.perf_counter() - begun_s < 60
    file = tmp_path / "huge.csv"
    with file.open("wb") as opened:
        opened.truncate(MOST_BYTES + 1)
    with pytest.raises(OptionError, match="larger than"):
        read_spans(file)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "odd.csv").write_bytes(b"0,1,\xff\xfe")
    for path, problem in (("odd.csv", "is not text in UTF-8"), ("none.csv", "No such file"), (".", "irectory|regular")):
        with pytest.raises(OptionError, match=problem) as refused:
            read_spans(tmp_path / path)
        assert refused.value.subject == str(tmp_path / path)


def asked(spans: str, home: Path, **options: object) -> object:
    return resolve(ConversionOptions(spans=spans, **options), home)  # type: ignore[arg-type]


def test_roles(tmp_path: Path) -> None:
    request = resolve(ConversionOptions(spans=RTTM, speakers="SPEAKER_00=wren"), tmp_path)
    (role,) = request.roles
    assert (role.spans_s, role.speaker, role.request.voice.name) == (((0.5, 4.0), (5.5, 9.0)), "SPEAKER_00", "wren")
    assert request.told == (
        "Turns overlap for 3.0 s, which went to the one that began last.",
        "Not converted, as they have no voice: 'SPEAKER_01'.",
    )
    text = "0,1,A\n1,2,B\n2,3,A\n3,4,heron\n4,5,"
    request = resolve(ConversionOptions(spans=text, speakers="A=wren, B=wren", voice="heron"), tmp_path)
    assert [(role.request.voice.name, role.speaker, role.spans_s) for role in request.roles] == [
        ("wren", "A", ((0.0, 1.0), (2.0, 3.0))),
        ("wren", "B", ((1.0, 2.0),)),
        ("heron", None, ((3.0, 5.0),)),
    ]
    one = resolve(ConversionOptions(spans="0,1,wren\n1,2,wren\n2.5,3,wren"), tmp_path)
    assert one.roles[0].spans_s == ((0.0, 2.0), (2.5, 3.0))
    again = resolve(ConversionOptions(spans="start;end;voice\n0;2;wren\n2,5;3;wren"), tmp_path)
    other = resolve(ConversionOptions(spans="0,2,wren\n2.5,3.1,wren"), tmp_path)
    assert one.identity == again.identity != other.identity


def test_what_cannot_be_resolved(tmp_path: Path) -> None:
    with pytest.raises(VoiceNotFoundError, match=r"line 2: .*nobody") as refused:
        asked("0,1,wren\n1,2,nobody", tmp_path)
    assert refused.value.option == "spans"
    with pytest.raises(OptionError, match=r"line 2 \(speaker_id\): voice 'wren' has only speaker 0"):
        asked("start,end,voice,speaker_id\n0,1,wren,7", tmp_path)
    with pytest.raises(OptionError, match=r"no speaker of the spans has a voice \(SPEAKER_00, SPEAKER_01\)"):
        asked(RTTM, tmp_path)
    with pytest.raises(OptionError, match=r"no span is of 'SPEAKER_1'\. The speakers are SPEAKER_00, SPEAKER_01"):
        asked(RTTM, tmp_path, speakers="SPEAKER_1=wren")
    with pytest.raises(OptionError, match="40 different combinations"):
        asked("\n".join(f"{k},{k + 1},wren,seed={k}" for k in range(40)), tmp_path)
    for wrong in ("wren", "A=", "=wren", "A=wren,B"):
        with pytest.raises(OptionError, match="has no voice"):
            speakers_of(wrong)
    with pytest.raises(OptionError, match="a speaker is given two voices"):
        speakers_of("A=wren, A =heron")
    for options, problem in (
        ({"speakers": "A=wren"}, "there are no spans"),
        ({"outside": "silence"}, "there are no spans"),
        ({"spans": "0,1,wren", "compat": "rvc"}, "compatibility modes convert whole recordings"),
    ):
        with pytest.raises(OptionError, match=problem):
            ConversionOptions(**options)  # type: ignore[arg-type]


def test_span_options_are_options() -> None:
    assert set(SPAN_OPTIONS) < set(ConversionOptions.__dataclass_fields__)
