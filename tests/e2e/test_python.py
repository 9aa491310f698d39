"""The public API as a user types it."""

from __future__ import annotations

import inspect
import io
import logging
import os
import threading
import typing
from pathlib import Path

import numpy as np
import pytest
import soundfile

import menura
from menura import (
    CancelledError,
    ConversionOptions,
    Converter,
    DecodeError,
    EncodeError,
    EngineOptions,
    MenuraError,
    Progress,
    State,
)

TINY = ConversionOptions(voice="tiny", f0="swift")


@pytest.fixture(scope="module")
def converter(home: Path) -> Converter:
    return Converter(EngineOptions(home=home))


@pytest.fixture
def samples(talk: Path) -> np.ndarray:
    return soundfile.read(talk, dtype="float32")[0]


def test_every_way_in_and_out_gives_the_same(converter: Converter, talk: Path, samples: np.ndarray) -> None:
    expected, rate = converter.convert((samples, 16_000), None, TINY)
    assert (expected.dtype, expected.shape, rate) == (np.float32, (36_000,), 24_000)
    with talk.open("rb") as file:
        for source in (str(talk), talk, file, io.BytesIO(talk.read_bytes())):
            sound, _ = converter.convert(source, None, TINY)
            np.testing.assert_allclose(sound, expected, atol=1e-3)  # of a 16-bit file
    buffer = io.BytesIO()
    for output in (Path("a/out.wav"), "out.wav", buffer):
        result = converter.convert((samples, 16_000), output, TINY)
        assert (result.state, result.output_samples) == (State.DONE, 36_000)
    written = [Path("a/out.wav").read_bytes(), Path("out.wav").read_bytes(), buffer.getvalue()]
    assert len(set(written)) == 1
    np.testing.assert_allclose(soundfile.read(io.BytesIO(written[0]))[0], expected, atol=1e-4)
    blocks = list(converter.stream((samples, 16_000), TINY))
    np.testing.assert_allclose(np.concatenate([block.samples for block in blocks]), expected, atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: np.stack([x, x], axis=1),
        lambda x: np.float64(x),
        lambda x: np.rint(x * 2**15).astype(np.int16),
        lambda x: np.rint(x * 2**31).clip(-(2**31), 2**31 - 1).astype(np.int32),
        lambda x: x.tolist(),
    ],
    ids=["stereo", "float64", "int16", "int32", "list"],
)
def test_arrays_of_any_type(converter: Converter, samples: np.ndarray, make: typing.Any) -> None:
    expected, _ = converter.convert((samples, 16_000), None, TINY)
    sound, _ = converter.convert((make(samples), 16_000), None, TINY)
    np.testing.assert_allclose(sound, expected, atol=2e-3)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 16_000)),
        np.zeros((1, 16_000)),
        np.zeros((10, 10, 2)),
        np.zeros(0),
        np.zeros((0, 2)),
        np.full(16_000, np.nan),
        np.full(16_000, np.inf),
        np.zeros(100, dtype=complex),
        np.array(["a", "b"]),
    ],
    ids=["channels first", "one channel first", "three axes", "empty", "no frames", "nan", "inf", "complex", "text"],
)
def test_other_arrays_are_refused(converter: Converter, bad: np.ndarray) -> None:
    with pytest.raises(DecodeError) as caught:
        converter.convert((bad, 16_000), None, TINY)
    assert caught.value.subject == "<array>"


@pytest.mark.parametrize("rate", [0, -1, 44_100.5, float("nan"), 10**9])
def test_impossible_rates_are_refused(converter: Converter, samples: np.ndarray, rate: float) -> None:
    with pytest.raises(DecodeError):
        converter.convert((samples, rate), None, TINY)  # type: ignore[arg-type]


def test_a_recording_is_never_replaced(converter: Converter, talk: Path) -> None:
    before = talk.read_bytes()
    Path("hard.wav").hardlink_to(talk)
    Path("soft.wav").symlink_to(talk)
    for output in (talk, Path.cwd() / talk, Path("hard.wav"), Path("soft.wav")):
        with pytest.raises(EncodeError):
            converter.convert(talk, output, TINY)
    report = converter.convert_files([(str(talk), "other.wav"), ("hard.wav", str(talk))], TINY)
    assert [result.state for result in report.files] == [State.DONE, State.FAILED]
    assert talk.read_bytes() == before


@pytest.mark.parametrize("output", ["folder", "noending", "talk.xyz", "talk.wav/under.wav"])
def test_what_cannot_be_written_is_refused_before_anything_loads(home: Path, talk: Path, output: str) -> None:
    Path("folder").mkdir()
    converter = Converter(EngineOptions(home=home))
    with pytest.raises(EncodeError):
        converter.convert(talk, output, TINY)
    assert converter.stats().model_loads == {}


def test_paths_may_be_strings_everywhere(converter: Converter, talk: Path) -> None:
    report = converter.convert_files([("talk.wav", "a.wav"), (Path("talk.wav"), Path("b.wav"))], TINY)
    assert [result.state for result in report.files] == [State.DONE, State.DONE]
    assert converter.explain("talk.wav", TINY).segments == 1
    assert len(list(converter.stream("talk.wav", TINY))) == 1


def test_progress_and_cancelling(converter: Converter, talk: Path, long_talk: Path) -> None:
    seen: list[Progress] = []
    converter.convert(talk, "a.wav", TINY, on_progress=seen.append)
    assert seen[-1].audio_done_s == pytest.approx(1.5)
    cancel = threading.Event()
    with pytest.raises(CancelledError):
        converter.convert(long_talk, "b.wav", TINY, on_progress=lambda _: cancel.set(), cancel=cancel)
    assert not Path("b.wav").exists()
    report = converter.convert_files([(talk, "c.wav")], TINY, cancel=cancel)
    assert report.files[0].error is not None
    assert report.files[0].error.kind == "cancelled"
    with pytest.raises(CancelledError):
        list(converter.stream(talk, TINY, cancel=cancel))


def test_what_progress_raises_ends_the_conversion(converter: Converter, talk: Path) -> None:
    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converter.convert(talk, "a.wav", TINY, on_progress=stop)
    assert not Path("a.wav").exists()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("menura-")]


def test_a_broken_stream_is_named_as_such(converter: Converter, place: Path) -> None:
    with pytest.raises(DecodeError) as caught:
        converter.convert(io.BytesIO(b"only words " * 100), None, TINY)
    assert caught.value.subject == "<stream>"


def test_a_request_serves_for_options(converter: Converter, talk: Path) -> None:
    request = converter.resolve(TINY)
    assert converter.resolve(request) == request
    assert converter.convert(talk, "a.wav", request).state is State.DONE


def test_closing_frees_the_networks(home: Path, talk: Path) -> None:
    with Converter(EngineOptions(home=home)) as converter:
        converter.preload(TINY)
        assert converter.stats().resident_bytes > 0
    assert converter.stats().resident_bytes == 0
    assert converter.stats().peak_memory_mb > 0


def test_what_happens_is_logged(home: Path, talk: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "menura")
    Converter(EngineOptions(home=home)).convert(talk, "a.wav", TINY)
    messages = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "menura"]
    assert any(level == "INFO" and "voice:" in text for level, text in messages)
    assert any(level == "INFO" and "1.50 s" in text for level, text in messages)
    assert any(level == "DEBUG" and "device cpu" in text for level, text in messages)


def test_threads_share_a_converter(converter: Converter, samples: np.ndarray) -> None:
    expected = [converter.convert((samples, 16_000), None, TINY)[0]]
    found: list[np.ndarray] = []
    work = lambda: found.append(converter.convert((samples, 16_000), None, TINY)[0])  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3
    for sound in found:
        np.testing.assert_allclose(sound, expected[0], atol=1e-5)


def test_types_in_public_signatures_are_public() -> None:
    public = set(menura.__all__)
    for name in ("Converter", "convert_folder"):
        value = getattr(menura, name)
        functions = (
            [value] if inspect.isfunction(value) else [f for _, f in inspect.getmembers(value, inspect.isfunction)]
        )
        for function in functions:
            if function.__name__.startswith("_"):
                continue
            for annotation in inspect.get_annotations(function).values():
                for word in "".join(c if c.isalnum() or c == "_" else " " for c in annotation).split():
                    found = getattr(menura.types, word, None) or getattr(menura.options, word, None)
                    if inspect.isclass(found) and found.__module__.startswith("menura."):
                        assert word in public, (name, function.__name__, word)


def test_an_environment_is_left_alone(home: Path, talk: Path) -> None:
    before = dict(os.environ)
    Converter(EngineOptions(home=home)).convert(talk, "a.wav", TINY)
    after = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
    assert {key: value for key, value in after.items() if before.get(key) != value} == {}


def test_errors_are_menuras(converter: Converter, place: Path) -> None:
    for source in ("missing.wav", Path("."), "no\0name.wav"):
        with pytest.raises(MenuraError):
            converter.convert(source, "out.wav", TINY)
    for source in (None, 7, np.zeros(100)):
        with pytest.raises(DecodeError):
            converter.convert(source, "out.wav", TINY)  # type: ignore[call-overload]
    with pytest.raises(EncodeError):
        converter.convert((np.zeros(1000), 16_000), 7, TINY)  # type: ignore[call-overload]
