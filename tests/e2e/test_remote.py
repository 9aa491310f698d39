"""A batch from URLs to URLs: fetched, converted, put there, and gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from menura import ConversionOptions, Converter, EngineOptions
from menura.cli.main import run


def test_urls(talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples, rate = soundfile.read(talk, dtype="float32")
    Path("talks/day").mkdir(parents=True)
    for name, gain, times in (("a.wav", 0.5, 1), ("day/b.flac", 0.4, 20)):
        soundfile.write(f"talks/{name}", np.float32(gain) * np.tile(samples, times), rate)
    Path("talks/bad.wav").write_text("no recording " * 50)
    source, target = Path("talks").resolve().as_uri(), Path("out").resolve().as_uri()
    command = ["convert", source, "-o", target, "--voice", "tiny", "--threads", "1", "--json", "--part-length", "1"]
    assert run(command) == 1
    first = {file["input"]: file for file in json.loads(capsys.readouterr().out)["files"]}
    assert {name: file["state"] for name, file in first.items()} == {
        f"{source}/a.wav": "done",
        f"{source}/bad.wav": "failed",
        f"{source}/day/b.flac": "done",
    }
    assert first[f"{source}/day/b.flac"]["output"] == f"{target}/day/b.wav"
    assert first[f"{source}/day/b.flac"]["parts"] == 0  # which nobody would find again
    assert first[f"{source}/bad.wav"]["error"]["subject"] == f"{source}/bad.wav"
    assert {path.name for path in Path("out").rglob("*.*") if path.is_file()} - {"a.wav", "b.wav"} == {
        path.name for path in Path("out/.menura-journal").iterdir()
    }
    Converter(EngineOptions(threads=1)).convert("talks/day/b.flac", "b.wav", ConversionOptions(voice="tiny"))
    assert Path("out/day/b.wav").read_bytes() == Path("b.wav").read_bytes()
    Path("talks/bad.wav").unlink()
    assert run(command) == 0
    again = json.loads(capsys.readouterr().out)
    assert [file["resumed"] for file in again["files"]] == [True, True]
    assert again["model_loads"] == {}
    assert run(["convert", source, "--explain", "--voice", "tiny"]) == 0
    told = capsys.readouterr().out
    assert f"{source}/a.wav: 1.50 s, stream" in told
    assert run(["convert", f"{source}/a.wav", "-o", f"{target}/c.wav"]) == 2
    assert f"{target}/c.wav/" in capsys.readouterr().err
