"""Several voices in one recording, on real speech and from the command line."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from menura import BatchOptions, ConversionOptions, Converter, EngineOptions, convert_folder, read_spans
from menura.cli.main import run
from support.speech import RATE, speech

if TYPE_CHECKING:
    from menura.types import FloatArray

DOCS = Path(__file__).parents[2] / "docs"
RTTM = """SPEAKER talk 1 0.10 0.60 <NA> <NA> SPEAKER_00 <NA> <NA>
SPEAKER talk 1 0.50 0.70 <NA> <NA> SPEAKER_01 <NA> <NA>
SPEAKER talk 1 1.30 9.00 <NA> <NA> SPEAKER_02 <NA> <NA>
"""


@pytest.fixture(scope="module")
def converter(tmp_path_factory: pytest.TempPathFactory) -> Converter:
    return Converter(EngineOptions(home=tmp_path_factory.mktemp("home")))


def steps(sound: FloatArray, places: np.ndarray, rate: int) -> np.ndarray:
    """The largest jump within 2 ms of each place, over the level within 15 ms; and of the highest frequencies so."""
    near, around = round(0.002 * rate), round(0.015 * rate)
    found = []
    for signal in (np.diff(sound), np.diff(sound, n=4)):
        here = np.array([np.abs(signal[at - near : at + near]).max() for at in places])
        level = np.array([np.sqrt(np.mean(sound[at - around : at + around] ** 2)) for at in places])
        found.append(here / (level + 1e-3))
    return np.stack(found)


def test_borders_have_no_clicks(converter: Converter) -> None:
    """37 borders, of two voices and the original, look like any other place."""
    voices = ("wren", None, "heron", "wren", "heron", None)
    borders = 0.5 + np.arange(38) * 0.41
    entries = [
        {"start": borders[k], "end": borders[k + 1], "voice": voices[k % 6], "transpose": 0}
        for k in range(37)
        if voices[k % 6]
    ]
    options = ConversionOptions(spans=read_spans(entries))
    sound, rate = converter.convert((speech(16.5), RATE), None, options)
    assert len(sound) == round(16.5 * rate)
    joins = np.round(borders * rate).astype(int)
    apart = np.arange(rate // 2, len(sound) - rate // 2, rate // 50)
    apart = apart[np.abs(apart[:, None] - joins).min(axis=1) > rate // 20]
    at, elsewhere = steps(sound, joins, rate), steps(sound, apart, rate)
    for here, there in zip(at, elsewhere, strict=True):
        assert np.mean(here[:, None] > there) < 0.6  # by chance 0.5
        assert np.mean(here > np.percentile(there, 99)) < 0.06
        assert here.max() < there.max()


def test_of_everything_it_is_the_plain_conversion(converter: Converter) -> None:
    samples = speech(25)
    plain = converter.convert((samples, RATE), None, ConversionOptions(voice="heron"))[0]
    spans = read_spans([{"start": 0, "end": 25, "voice": "heron"}])
    np.testing.assert_array_equal(converter.convert((samples, RATE), None, ConversionOptions(spans=spans))[0], plain)


def test_words_at_borders_are_those_of_the_whole(converter: Converter) -> None:
    """A span's sound is that of a conversion of everything, as the voice hears what is around."""
    samples = speech(12)
    plain = ConversionOptions(transpose=0.0, seed=3, loudness="voice")
    spans = read_spans([{"start": 4, "end": 6.5, "voice": "wren"}])
    sound, rate = converter.convert((samples, RATE), None, dataclasses.replace(plain, spans=spans, outside="silence"))
    whole, _ = converter.convert((samples, RATE), None, plain)
    inner = slice(round(4.02 * rate), round(6.48 * rate))
    difference = 10 * np.log10(np.mean((sound - whole)[inner] ** 2) / np.mean(whole[inner] ** 2))
    assert difference < -40
    assert not sound[: 3 * rate].any()


def test_from_the_command_line(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("talk.rttm").write_text(RTTM)
    speakers = ["--speakers", "SPEAKER_00=wren,SPEAKER_01=heron"]
    command = ["convert", str(talk), "--spans", "talk.rttm", *speakers]
    assert run([*command, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["files"]
    assert result["output"] == "talk.dialogue.wav"
    assert result["output_samples"] == 36_000
    said = "\n".join(result["notes"])
    for note in (
        "Turns overlap for 0.2 s",
        "Not converted, as they have no voice: 'SPEAKER_02'",
        "'SPEAKER_00' became 'wren'",
    ):
        assert note in said
    assert run([*command, "--explain"]) == 0
    assert "spans of wren: 1" in capsys.readouterr().out
    assert (
        run(["convert", str(talk), str(talk.absolute().parent), "--spans", "talk.rttm", *speakers, "-o", "out/"]) == 2
    )
    assert "spans are of one recording" in capsys.readouterr().err
    Path("wrong.csv").write_text("start,end,voice\n0,1,wren\n0.5,2,nobody\n")
    assert run(["convert", str(talk), "--spans", "wrong.csv"]) == 2
    assert "wrong.csv: line 3, start: overlaps line 2, which lasts until 1 s" in capsys.readouterr().err
    Path("wrong.csv").write_text("0,1,wren\n1,2,nobody\n")
    assert run(["convert", str(talk), "--spans", "wrong.csv"]) == 1
    assert "--spans: line 2: voice 'nobody' is not known" in capsys.readouterr().err
    Path("wrong.csv").write_text("0,1,wren\n1,2,B\n")
    assert run(["convert", str(talk), "--spans", "wrong.csv", "--speakers", "B=nobody"]) == 1
    assert "--speakers: 'B': voice 'nobody' is not known" in capsys.readouterr().err


def test_folders_resume_and_workers_write_the_same(talk: Path, home: Path) -> None:
    """Two worker processes, one recording: not divided into parts, however short these may be."""
    samples = speech(45)
    soundfile.write("longer.wav", samples, RATE)
    spans = read_spans([{"start": k, "end": k + 0.7, "voice": ("tiny", "wren")[k % 2]} for k in range(44)])
    options, engine = ConversionOptions(spans=spans, part_length=20.0), EngineOptions(home=home, threads=1)
    once = convert_folder("longer.wav", "one", options, engine=engine)
    shared = convert_folder("longer.wav", "two", options, engine=engine, batch=BatchOptions(workers=2))
    assert [each.files[0].parts for each in (once, shared)] == [0, 0]
    assert Path("one/longer.wav").read_bytes() == Path("two/longer.wav").read_bytes()
    again = convert_folder("longer.wav", "one", options, engine=engine)
    assert again.files[0].resumed
    other = ConversionOptions(spans=spans, outside="silence")
    assert not convert_folder("longer.wav", "one", other, engine=engine).files[0].resumed


@pytest.mark.parametrize("page", ["dialogue.md", "dialogue.zh-CN.md"])
def test_the_page_s_commands_run(talk: Path, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (spans,) = (block for kind, block in found if kind == "text")
    Path("dialogue.csv").write_text(spans, encoding="utf-8")
    Path("talk.rttm").write_text(RTTM)
    shown = [shlex.split(line) for kind, block in found if kind == "bash" for line in block.splitlines()]
    assert len(shown) == 3
    for command in shown:
        assert run(command[1:]) == 0, (command, capsys.readouterr().err)
        assert Path(command[command.index("-o") + 1]).stat().st_size > 1000
