"""Any length, exact; any split of the input; any companions: the same samples."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from menura.errors import CancelledError, OptionError
from menura.pipeline.conversion import Conversion
from menura.pipeline.engine import Advanced, Begun, Done, Engine, Event, Failed
from menura.pipeline.output import MemorySink
from menura.pipeline.plan import _extended, planned, survey
from menura.pipeline.recording import ArrayRecording, Reader
from menura.pipeline.windows import Windowing
from menura.types import AudioInfo, State
from support.tiny import (
    FakeEncoder,
    FakeF0,
    TinyNetworks,
    converted_alone,
    converted_together,
    tiny_models,
    tiny_request,
)

if TYPE_CHECKING:
    from menura.types import FloatArray

MODELS = tiny_models()


class SplitRecording:
    """An array that arrives in blocks of given sizes."""

    name = "<split>"
    warning = None
    notes = ()

    def __init__(self, samples: FloatArray, rate: int, cuts: list[int]) -> None:
        self.samples = samples
        self.info = AudioInfo(sample_rate=rate, channels=1, length_samples=None)
        self.places = sorted({c % (len(samples) + 1) for c in cuts})

    def open(self) -> Reader:
        return self

    def blocks(self, block_samples: int, apart: bool = False) -> Iterator[FloatArray]:
        yield from np.split(self.samples, self.places)


def voice_like(length: int, rate: int = 16_000, seed: int = 0) -> FloatArray:
    """Noise bursts and a gliding tone with pauses: everything in it changes all the time."""
    rng = np.random.default_rng(seed)
    t = np.arange(length) / rate
    loud = 0.25 * (1 + np.sin(2 * np.pi * 0.31 * t + seed)) * (np.sin(2 * np.pi * 1.3 * t) > -0.6)
    tone = np.sin(2 * np.pi * (150 * t + 20 * np.sin(2 * np.pi * 0.7 * t)))
    return np.asarray(loud * (0.7 * tone + 0.3 * rng.standard_normal(length)), dtype=np.float32)


def conversion(samples: FloatArray, rate: int = 16_000, **options: object) -> Conversion:
    return Conversion(ArrayRecording(samples, rate), tiny_request(**options), MODELS)


def converted(samples: FloatArray, rate: int = 16_000, **options: object) -> FloatArray:
    return converted_alone(conversion(samples, rate, **options))


def relative_db(a: FloatArray, b: FloatArray) -> float:
    return float(10 * np.log10(np.mean((a - b) ** 2) / np.mean(b**2)))


@settings(max_examples=40, deadline=None)
@given(
    length=st.one_of(st.integers(1, 2000), st.integers(1, 300_000)),
    rate=st.sampled_from([8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000]),
    output_rate=st.sampled_from([None, 8000, 16_000, 44_100, 48_000]),
)
def test_duration_is_exact(length: int, rate: int, output_rate: int | None) -> None:
    sound = converted(voice_like(length, rate), rate, sample_rate=output_rate)
    out = output_rate or MODELS.synthesizer.config.sample_rate
    assert len(sound) == (2 * length * out + rate) // (2 * rate)
    assert np.isfinite(sound).all()


@pytest.mark.parametrize("seconds", [19.9, 20.0, 20.01, 23.99, 24.0, 24.01, 40.0, 61.7])
def test_duration_is_exact_around_segment_borders(seconds: float) -> None:
    length = round(seconds * 16_000)
    assert len(converted(voice_like(length))) == (2 * length * 4000 + 16_000) // 32_000


@settings(max_examples=6, deadline=None)
@given(cuts=st.lists(st.integers(0, 10**7), max_size=12))
def test_it_does_not_matter_how_blocks_arrive(cuts: list[int]) -> None:
    samples = voice_like(45 * 22_050, 22_050)
    one = Conversion(SplitRecording(samples, 22_050, []), tiny_request(), MODELS)
    many = Conversion(SplitRecording(samples, 22_050, cuts), tiny_request(), MODELS)
    np.testing.assert_allclose(converted_alone(many), converted_alone(one), atol=1e-5)


def test_blocks_are_contiguous_and_seams_are_reported() -> None:
    sink, at = MemorySink(), 0
    with Engine(TinyNetworks(MODELS)) as engine:
        engine.submit(ArrayRecording(voice_like(70 * 16_000), 16_000), tiny_request(), sink)
        events = list(run(engine))
    for block in sink.take():
        assert block.start_samples == at
        at += len(block.samples)
    assert at == 70 * 4000
    assert isinstance(events[0], Begun)
    advances = [event.audio_done_s for event in events if isinstance(event, Advanced)]
    assert advances == sorted(advances)
    assert advances[-1] == 70
    assert isinstance(events[-1], Done)
    seams = events[-1].result.seams_s
    assert len(seams) == 3
    assert all(abs(seam - 20 * (k + 1)) <= 0.5 for k, seam in enumerate(seams))


def run(engine: Engine) -> Iterator[Event]:
    while not engine.idle:
        yield from engine.step()


def submitted(engine: Engine, seconds: float, **how: object) -> tuple[object, MemorySink]:
    sink = MemorySink()
    recording = ArrayRecording(voice_like(round(seconds * 16_000)), 16_000)
    return engine.submit(recording, tiny_request(), sink, **how), sink  # type: ignore[arg-type]


@pytest.mark.usefixtures("signals_handled")
def test_a_swallowed_ctrl_c_ends_the_conversion_at_its_next_step() -> None:
    with Engine(TinyNetworks(MODELS)) as engine:
        submitted(engine, 70)
        engine.step()
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            engine.step()


def test_the_urgent_overtake_what_is_under_way() -> None:
    with Engine(TinyNetworks(MODELS), frame_budget=0) as engine:
        long, _ = submitted(engine, 100)
        engine.step()
        urgent, sink = submitted(engine, 3, priority=1)
        last, _ = submitted(engine, 3)
        ends = [event for event in run(engine) if isinstance(event, (Done, Failed))]
    assert [end.ticket for end in ends] == [urgent, long, last]
    np.testing.assert_array_equal(sink.joined(), converted(voice_like(3 * 16_000)))


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("way", ["engine", "event"])
def test_what_is_cancelled_fails_and_stops_nothing(steps: int, way: str) -> None:
    cancel = threading.Event()
    with Engine(TinyNetworks(MODELS), frame_budget=0) as engine:
        ticket, _ = submitted(engine, 100, cancel=cancel)
        other, sink = submitted(engine, 3)
        for _ in range(steps):
            engine.step()
        if way == "engine":
            engine.cancel(ticket)  # type: ignore[arg-type]
        else:
            cancel.set()
        ends = {event.ticket: event for event in run(engine) if isinstance(event, (Done, Failed))}
    failed = ends[ticket]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, CancelledError)
    assert failed.result.error is not None
    assert (failed.result.state, failed.result.error.kind) == (State.FAILED, "cancelled")
    assert isinstance(ends[other], Done)
    assert len(sink.joined()) == 3 * 4000


class Counted(ArrayRecording):
    """Notes when it is opened, in what all of them share."""

    opened: ClassVar[list[Counted]] = []

    def open(self) -> Reader:
        Counted.opened.append(self)
        return super().open()


def test_reading_ahead_is_bounded() -> None:
    Counted.opened.clear()
    with Engine(TinyNetworks(MODELS), frame_budget=0) as engine:
        for k in range(60):
            engine.submit(Counted(voice_like(1000 + k), 16_000), tiny_request(), MemorySink())
        engine.step()
        time.sleep(0.2)
        assert len(set(Counted.opened)) <= 1 + 16 + 1
        assert sum(isinstance(event, Done) for event in run(engine)) <= 60
    assert len(Counted.opened) == 60


@pytest.mark.parametrize(("seconds", "gain", "times"), [(3, 0.5, 1), (3, 8.0, 2), (17, 0.5, 2)])
def test_only_loud_and_long_recordings_are_read_twice(seconds: int, gain: float, times: int) -> None:
    Counted.opened.clear()
    converted_alone(Conversion(Counted(voice_like(seconds * 16_000) * gain, 16_000), tiny_request(), MODELS))
    assert len(Counted.opened) == times


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(2000, 60_000), rate=st.sampled_from([8000, 16_000, 44_100]))
def test_what_the_first_pass_keeps_is_what_a_second_would_read(samples: int, rate: int) -> None:
    kept: list[FloatArray] = []
    recording, request = ArrayRecording(0.5 * voice_like(samples), rate), tiny_request()
    plan = planned("x", request, MODELS, *survey(recording, request, MODELS, kept=kept))
    second = list(_extended(recording, plan, lambda: None))
    assert plan.facts.gain == 1.0
    assert np.array_equal(np.concatenate(kept), np.concatenate(second))


def test_the_urgent_overtake_what_is_prepared() -> None:
    order: list[int] = []
    with Engine(TinyNetworks(MODELS), frame_budget=0, on_end=lambda ticket, _: order.append(ticket.number)) as engine:
        for k in range(40):
            engine.submit(ArrayRecording(voice_like(1000 + k), 16_000), tiny_request(), MemorySink())
        urgent, _ = submitted(engine, 1, priority=1)
        list(run(engine))
    assert order.index(urgent.number) <= 3  # type: ignore[attr-defined]
    assert sorted(order) == list(range(41))


def test_the_urgent_find_room_among_the_prepared() -> None:
    """However many others are prepared, and wait for a long one."""
    order: list[int] = []
    with Engine(TinyNetworks(MODELS), frame_budget=0, on_end=lambda ticket, _: order.append(ticket.number)) as engine:
        for seconds in (100, *[1] * 20):
            submitted(engine, seconds)
        engine.step()
        while sum(future.done() for future in engine._preparing) < 16:
            time.sleep(0.01)
        Counted.opened.clear()
        deadline_s = time.monotonic() + 10
        engine.submit(Counted(voice_like(1000), 16_000), tiny_request(), MemorySink(), priority=1)
        while not Counted.opened and time.monotonic() < deadline_s:
            time.sleep(0.01)
        list(run(engine))
    assert order[0] == 21


def test_a_conversion_is_freed_before_its_output_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a long recording's features, up to four of them would wait for the disk."""
    planned: list[weakref.ref[Conversion]] = []
    left: list[object] = []

    def noted(self: Conversion, *given: object, **named: object) -> None:
        planned.append(weakref.ref(self))
        original(self, *given, **named)  # type: ignore[arg-type]

    def finish(self: MemorySink, check: object) -> None:
        may_look.wait(10)
        left.append(planned[0]())

    original, may_look = Conversion.__init__, threading.Event()
    monkeypatch.setattr(Conversion, "__init__", noted)
    monkeypatch.setattr(MemorySink, "finish", finish)
    with Engine(TinyNetworks(MODELS)) as engine:
        submitted(engine, 3)
        while not engine._writing:
            engine.step()
        may_look.set()
        list(run(engine))
    assert left == [None]


def test_recordings_can_be_added_at_any_time() -> None:
    with Engine(TinyNetworks(MODELS)) as engine:
        assert engine.idle
        assert engine.step() == []
        sinks = []
        for seconds in (2, 5, 2):
            sinks.append(submitted(engine, seconds)[1])
            engine.step()
        list(run(engine))
    for sink, seconds in zip(sinks, (2, 5, 2), strict=True):
        np.testing.assert_allclose(sink.joined(), converted(voice_like(seconds * 16_000)), atol=1e-4)


def test_smaller_segments_give_nearly_the_same() -> None:
    """Windowing is a value: live conversion takes other sizes, without another engine."""
    samples = voice_like(30 * 16_000)
    small = Windowing(segment_frames=100, context_frames=400, seam_search_frames=10, analysis_frames=100)
    job = Conversion(ArrayRecording(samples, 16_000), tiny_request(), MODELS, windowing=small)
    sound = converted_alone(job)
    assert len(job.seams_s) > 20
    assert job.widest_frames <= 100 + 100 + 2 * 410
    assert relative_db(sound, converted(samples)) < -30


def test_stream_is_near_whole() -> None:
    """With local analysis only the text encoder's upper layers see an end of a window."""
    samples = voice_like(60 * 16_000)
    whole = converted(samples, strategy="whole")
    stream = converted(samples, strategy="stream")
    assert relative_db(stream, whole) < -45


def test_companions_do_not_matter() -> None:
    inputs = [voice_like(n, seed=k) for k, n in enumerate([5 * 16_000, 33_333, 5 * 16_000, 64_000, 45 * 16_000])]
    alone = [converted(x) for x in inputs]
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        for frame_budget in (0, 2000, 100_000):
            recordings = [ArrayRecording(inputs[k], 16_000) for k in order]
            together = converted_together(recordings, tiny_request(), MODELS, frame_budget)
            for k, sound in zip(order, together, strict=True):
                np.testing.assert_allclose(sound, alone[k], atol=1e-4)


def test_the_seed_decides_the_noise() -> None:
    samples = voice_like(50_000)
    np.testing.assert_array_equal(converted(samples, seed=1), converted(samples, seed=1))
    assert np.abs(converted(samples, seed=1) - converted(samples, seed=2)).max() > 1e-4
    np.testing.assert_array_equal(
        converted(samples, seed=1, noise_scale=0.0), converted(samples, seed=2, noise_scale=0.0)
    )


def test_memory_stays_bounded_windows_do_not_grow() -> None:
    encoder, f0 = FakeEncoder(), FakeF0()
    models = type(MODELS)(synthesizer=MODELS.synthesizer, encoder=encoder, f0=f0, index=None)
    job = Conversion(ArrayRecording(voice_like(150 * 16_000), 16_000), tiny_request(), models)
    assert len(converted_alone(job)) == 150 * 4000
    assert max(encoder.windows) <= (800 + 400 + 100 + 200) * 160 + 80
    assert max(f0.windows) <= (1600 + 400 + 100 + 160) * 160 + 80


def test_silence_and_a_single_sample() -> None:
    for samples in (np.zeros(40_000, dtype=np.float32), np.ones(1, dtype=np.float32) * 0.1):
        assert np.isfinite(converted(samples)).all()
    assert "silent" in conversion(np.zeros(40_000, dtype=np.float32)).notes()[0]


def test_loud_input_is_scaled_as_a_whole() -> None:
    samples = voice_like(40_000)
    loud = samples * (4.0 / np.abs(samples).max())
    limited = samples * (0.95 / np.abs(samples).max())
    np.testing.assert_allclose(converted(loud), converted(limited), atol=2e-4)


def test_a_click_or_a_low_level_leaves_the_speech_as_it_is() -> None:
    samples = voice_like(40_000)
    samples *= 0.03 / np.abs(samples).max()
    expected = converted(samples)
    np.testing.assert_allclose(converted(samples * 0.03), expected, atol=2e-3)
    clicked = voice_like(40_000)
    clicked[:100] = clicked[-100:] = 0
    reference = converted(clicked)
    clicked[50] = 1e6
    assert relative_db(converted(clicked)[1000:], reference[1000:]) < -30


def test_compatible_modes_are_whole() -> None:
    samples = voice_like(3 * 16_000)
    assert len(converted(samples, compat="applio")) == 3 * 4000
    with pytest.raises(OptionError):
        conversion(samples, compat="applio", strategy="stream")


def automatic(samples: FloatArray, median_hz: float | None, rate: int = 16_000, **options: object) -> Conversion:
    request = tiny_request(median_hz=median_hz, transpose="auto", **options)
    return Conversion(ArrayRecording(samples, rate), request, MODELS)


@pytest.mark.parametrize("strategy", ["stream", "whole"])
def test_automatic_pitch_is_that_shift_given(strategy: str) -> None:
    """FakeF0 hears 100 to 300 Hz; the median it hears of this recording is found by moving to it."""
    samples = voice_like(70 * 16_000)
    job = automatic(samples, 440.0, strategy=strategy)
    sound = converted_alone(job)
    semitones = job.semitones
    assert semitones is not None
    assert semitones == round(semitones)
    assert 5 <= semitones <= 24
    np.testing.assert_array_equal(sound, converted(samples, transpose=semitones, strategy=strategy))


def test_automatic_pitch_hears_no_more_than_it_needs_and_nothing_twice() -> None:
    f0 = FakeF0()
    models = dataclasses.replace(MODELS, f0=f0)
    samples = np.concatenate([np.zeros(40 * 16_000, dtype=np.float32), voice_like(100 * 16_000)])
    request = tiny_request(median_hz=220.0, transpose="auto")
    job = Conversion(ArrayRecording(samples, 16_000), request, models)
    assert len(converted_alone(job)) == 140 * 4000
    asked = len(f0.windows)
    f0.windows.clear()
    plain = Conversion(ArrayRecording(samples, 16_000), tiny_request(), models)
    converted_alone(plain)
    assert asked == len(f0.windows)
    assert job.semitones not in (None, 0.0)


def test_automatic_pitch_of_silence_and_of_given_f0() -> None:
    silent = automatic(np.zeros(30_000, dtype=np.float32), 220.0)
    converted_alone(silent)
    assert silent.semitones == 0
    given_f0_hz = np.full(300, 110.0, dtype=np.float32)
    request = tiny_request(median_hz=220.0, f0_hz=given_f0_hz, transpose="auto")
    job = Conversion(ArrayRecording(voice_like(48_000), 16_000), request, MODELS)
    converted_alone(job)
    assert job.semitones == 12
    long = tiny_request(f0_hz=np.full(30_000, 110.0, dtype=np.float32))
    assert "300.00 s" in Conversion(ArrayRecording(voice_like(48_000), 16_000), long, MODELS).notes()[0]


@pytest.mark.parametrize("strategy", ["stream", "whole"])
def test_silence_is_left_out_and_nothing_else(strategy: str) -> None:
    sound = [voice_like(31 * 16_000, seed=1), voice_like(3 * 16_000, seed=2), voice_like(22 * 16_000, seed=3)]
    gaps = [np.zeros(int(s * 16_000), dtype=np.float32) for s in (1.3, 61.7)]
    samples = np.concatenate([sound[0], gaps[0], sound[1], gaps[1], sound[2]])
    encoder, f0 = FakeEncoder(), FakeF0()
    models = dataclasses.replace(MODELS, encoder=encoder, f0=f0)

    def run(*, split_silence: bool) -> tuple[FloatArray, Conversion, tuple[int, int]]:
        request = tiny_request(strategy=strategy, split_silence=split_silence)
        job = Conversion(ArrayRecording(samples, 16_000), request, models)
        made = converted_alone(job)
        asked = len(encoder.windows), len(f0.windows)
        encoder.windows.clear()
        f0.windows.clear()
        return made, job, asked

    plain, _, plain_asked = run(split_silence=False)
    split, job, split_asked = run(split_silence=True)
    assert len(split) == len(plain) == 4000 * 119
    spans = job.facts.silences.spans
    heard = np.ones(len(plain), dtype=bool)
    for start, end in spans:
        heard[40 * start : 40 * end] = False
        assert not split[40 * (start + 4) : 40 * (end - 4)].any()
    np.testing.assert_allclose(split[heard], plain[heard], atol=1e-4)
    for gap_start, gap_end in ((31.0, 32.3), (35.3, 97.0)):  # voice_like falls silent by itself too
        inside = [(a / 100, b / 100) for a, b in spans if a / 100 < gap_end and b / 100 > gap_start]
        assert inside
        assert inside[0][0] <= gap_start + 0.2
        assert inside[-1][1] >= gap_end - 0.2
    assert split_asked[1] < plain_asked[1]
    if strategy == "stream":
        assert split_asked[0] < plain_asked[0]
    assert any("of silence were skipped" in note for note in job.notes())


def test_a_silent_recording_asks_nothing_of_the_networks() -> None:
    encoder = FakeEncoder()
    models = dataclasses.replace(MODELS, encoder=encoder)
    request = tiny_request(split_silence=True)
    job = Conversion(ArrayRecording(np.zeros(90 * 16_000, np.float32), 16_000), request, models)
    sound = converted_alone(job)
    assert len(sound) == 90 * 4000
    assert not sound.any()
    assert not encoder.windows


def test_preparing_makes_no_pool_of_threads() -> None:
    """It would keep the computing thread's own from waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Engine(TinyNetworks(MODELS)) as engine:
            assert engine._reader.submit(torch.get_num_threads).result() == 1
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
