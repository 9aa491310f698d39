from __future__ import annotations

import os
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from menura.errors import OptionError
from menura.f0.contour import coarse_bins, fill_unvoiced, length_notes, read_f0_file, transpose


def contour(*hz: float) -> np.ndarray:
    return np.array(hz, dtype=np.float32)


def test_an_octave_up_doubles_and_silence_stays() -> None:
    np.testing.assert_allclose(transpose(contour(0, 110, 220), 12), [0, 220, 440])
    np.testing.assert_allclose(transpose(contour(0, 100), -0.5), [0, 100 * 2 ** (-0.5 / 12)])


def test_no_transposition_changes_no_bit() -> None:
    f0_hz = contour(0, 123.456)
    assert transpose(f0_hz, 0) is f0_hz


def test_pitch_classes_span_50_to_1100_hz() -> None:
    assert coarse_bins(contour(0, 1, 49, 50, 1100, 1101, 8000)).tolist() == [1, 1, 1, 1, 255, 255, 255]


@given(st.lists(st.floats(0, 8000, width=32), min_size=2))
def test_pitch_classes_rise_with_pitch(values: list[float]) -> None:
    bins = coarse_bins(np.sort(np.array(values, dtype=np.float32)))
    assert bins.dtype == np.int64
    assert (np.diff(bins) >= 0).all()
    assert bins.min() >= 1
    assert bins.max() <= 255


def test_unvoiced_frames_are_filled_and_ends_held() -> None:
    filled = fill_unvoiced(contour(0, 0, 100, 0, 0, 130, 0))
    np.testing.assert_allclose(filled, [100, 100, 100, 110, 120, 130, 130])
    assert filled.dtype == np.float32


@pytest.mark.parametrize("f0_hz", [contour(0, 0, 0), contour(100, 200), contour()])
def test_nothing_to_fill(f0_hz: np.ndarray) -> None:
    assert np.array_equal(fill_unvoiced(f0_hz), f0_hz)


def read(path: Path, text: str | bytes) -> np.ndarray:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_f0_file(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.00,100\n0.01,0\n0.02,120.5\n", [100, 0, 120.5]),
        ("seconds,hz\n0.00,100\n0.01,110\n", [100, 110]),
        ("# made by hand\n\n0,100\r\n0.01 , 110\r\n\r\n", [100, 110]),
        ("\ufeff0,100\n", [100]),
        ("0;100\n0.01;110", [100, 110]),
        ("0,100\n0.04,140\n", [100, 110, 120, 130, 140]),
        ("0,100\n0.04,0\n", [100, 100, 0, 0, 0]),
        ("0,0\n0.03,130\n", [0, 0, 130, 130]),
        ("0.02,100\n0.03,110\n", [0, 0, 100, 110]),
        ("0.005,100\n0.015,120\n0.025,140\n", [100, 110, 130, 140]),
        ("0,100\n0.012,124\n0.02,140\n", [100, 120, 140]),
        ("time,frequency,confidence\n0.00,100.5,0.05\n0.01,101,0.93\n", [0, 101]),  # CREPE
        ("0.00,100.5,0.05\n0.01,101,0.93\n", [0, 101]),
        ("0,-100\n0.01,101\n0.02,102\n", [0, 101, 102]),  # pYIN, unvoiced ones negative
        ("talk.wav,0,100\n,0.01,101\n,0.02,102\n", [100, 101, 102]),  # sonic-annotator
        ('"a talk.wav",0,100\n,0.01,101\n', [100, 101]),
        ("0\t100\n0.01\t101\n", [100, 101]),  # Sonic Visualiser
        ("times,f0,voiced_flag,voiced_prob\n0,100,True,0.9\n0.01,nan,False,0.1\n0.02,99,False,0.1\n", [100, 0, 0]),
        ("0,,\n0.01,101,0.9\n", [0, 101]),
        ("f0,seconds\n100,0\n101,0.01\n", [100, 101]),
    ],
)
def test_f0_files(tmp_path: Path, text: str, expected: list[float]) -> None:
    f0_hz = read(tmp_path / "f0.csv", text)
    assert f0_hz.dtype == np.float32
    np.testing.assert_allclose(f0_hz, expected, rtol=1e-6)


def test_where_a_dense_file_has_no_lines_there_is_no_voice(tmp_path: Path) -> None:
    """pYIN's smoothed pitch track, of a hop of 256 at 44.1 kHz, has voiced lines only; drawn curves have few."""
    hop = 256 / 44_100
    lines = [f"{n * hop:.9f},{100 + n}\n" for n in (*range(20), *range(80, 100))]
    f0_hz = read(tmp_path / "pyin.csv", "".join(lines))
    places = np.arange(len(f0_hz)) / 100 / hop
    inside = (places < 19.5) | (places > 79.5)
    np.testing.assert_allclose(f0_hz[inside], (100 + places)[inside], atol=1.0)
    assert not f0_hz[(places > 21) & (places < 78)].any()
    assert (read(tmp_path / "drawn.csv", "0,100\n1,200\n2,100\n9,150\n") > 0).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,100\n0.01\n", r"line 2 \('0\.01'\): two numbers"),
        ("0,100\n0.01,high\n", r"line 2 .*: two numbers"),
        ("a,b\nc,d\n", r"line 2 .*: two numbers"),
        ("t,hz\n0.02,100\n0.01,100\n", r"line 3 .*: the time must be later"),
        ("0,100\n0,100\n", r"line 2 .*: the time must be later"),
        ("0,inf\n", r"line 1 .*: F0 must be 0"),
        ("0,9000\n", r"line 1 .*: F0 must be 0"),
        ("-1,100\n", r"line 1 .*: the time must be 0"),
        ("1e300,100\n", r"line 1 .*: the time must be 0"),
        ("", "has no line"),
        ("seconds,hz\n", "has no line"),
        (b"\xff\xfe\x00", "is not UTF-8"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(tmp_path / "f0.csv", text)
    assert re.match(message, caught.value.problem)
    assert caught.value.subject == str(tmp_path / "f0.csv")
    assert caught.value.option == "f0_file"


def test_missing_f0_file(tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        read_f0_file(tmp_path / "nothing.csv")
    assert "No such file" in caught.value.problem
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(OptionError) as caught:
        read_f0_file(tmp_path / "pipe.csv")
    assert "regular file" in caught.value.problem


def test_a_file_of_two_lines_costs_little(tmp_path: Path) -> None:
    tracemalloc.start()
    f0_hz = read(tmp_path / "f0.csv", "0,100\n172800,200\n")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(f0_hz) == 17_280_001
    assert peak < 100e6
    assert f0_hz[8_640_000] == pytest.approx(150)
    with pytest.raises(OptionError, match="not milliseconds"):
        read(tmp_path / "f0.csv", "0,100\n172801,200\n")


@pytest.mark.parametrize(
    ("frames", "audio_s", "words"),
    [
        (300, 3.0, None),
        (290, 3.4, None),
        (59_000, 600.0, None),
        (100, 3.0, "unvoiced"),
        (700, 3.0, "ignored"),
        (300_000, 3.0, "milliseconds"),
    ],
)
def test_f0_that_is_longer_or_shorter_than_its_recording(frames: int, audio_s: float, words: str | None) -> None:
    notes = length_notes(frames, audio_s)
    assert [words in note for note in notes if words] == ([True] if words else [])
    assert len(notes) == (words is not None)
