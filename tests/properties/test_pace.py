"""The pace of a GPU, kept on a CPU: many windows and segments in a pass, two passes under way, and the same sound."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from menura.errors import ResourceError
from menura.pipeline import engine as engine_module
from menura.pipeline import execute
from menura.pipeline.conversion import Conversion
from menura.pipeline.engine import Done, Engine, Failed, Pace
from menura.pipeline.execute import Answer, Executor, Flight, NetworkRequest, normals
from menura.pipeline.output import MemorySink
from menura.pipeline.recording import ArrayRecording
from support.tiny import (
    FakeEncoder,
    TinyNetworks,
    converted_alone,
    converted_together,
    tiny_models,
    tiny_request,
)

if TYPE_CHECKING:
    from menura.loading.loader import VoiceModels
    from menura.types import FloatArray

BUSY = Pace(preparing=3, passes=2, company_s=0.02, ahead_frames=32_000)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(engine_module._PACES, "cpu", BUSY)


def speech(seconds: float, seed: int = 0) -> FloatArray:
    """Bursts of noise with pauses, the second quarter silent."""
    generator = np.random.default_rng(seed)
    t = np.arange(round(seconds * 16_000)) / 16_000
    loud = (np.sin(2 * np.pi * 0.7 * t) > -0.5) * (np.abs(t / seconds - 0.375) > 0.125)
    return np.asarray(0.2 * loud * generator.standard_normal(len(t)), dtype=np.float32)


def recordings(*lengths_s: float) -> list[ArrayRecording]:
    return [ArrayRecording(speech(seconds, k), 16_000) for k, seconds in enumerate(lengths_s)]


class Passes:
    """Stands for a network's method, and notes the rows of every pass."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call
        self.rows: list[int] = []

    def __call__(self, first: Any, *others: Any) -> Any:
        self.rows.append(len(first))
        return self.call(first, *others)


def counted(models: VoiceModels, monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Rows of the passes to come, of content, F0 and synthesis."""
    counts = []
    for network, method in ((models.encoder, "encode"), (models.f0, "estimate"), (models.synthesizer, "encode")):
        passes = Passes(getattr(network, method))
        monkeypatch.setattr(network, method, passes)
        counts.append(passes.rows)
    return counts


OPTIONS: list[dict[str, Any]] = [
    {},
    {"split_silence": True},
    {"transpose": "auto"},
    {"rms_mix_rate": 0.3, "sample_rate": 8000},
    {"strategy": "whole"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("ahead_frames", [5000, 32_000])
def test_together_it_sounds_the_same(options: dict[str, Any], ahead_frames: int) -> None:
    """As a window and a segment at a time."""
    request = tiny_request(median_hz=220.0, **options)
    alone, together = (
        Conversion(*recordings(131.3), request, tiny_models(), ahead_frames=frames) for frames in (0, ahead_frames)
    )
    np.testing.assert_allclose(converted_alone(together), converted_alone(alone), atol=1e-5)
    for fact in ("seams_s", "semitones"):
        assert getattr(together, fact) == getattr(alone, fact)
    assert together.notes() == alone.notes()


def test_without_f0_and_with_given_f0() -> None:
    for request, models in (
        (tiny_request(has_f0=False), tiny_models(has_f0=False)),
        (tiny_request(f0_hz=np.full(5000, 150.0, np.float32)), tiny_models()),
    ):
        alone, together = (Conversion(*recordings(50), request, models, ahead_frames=n) for n in (0, 32_000))
        np.testing.assert_allclose(converted_alone(together), converted_alone(alone), atol=1e-5)


@pytest.mark.usefixtures("busy")
def test_five_minutes_are_a_handful_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The segments at the two ends have other windows than those between them."""
    models = tiny_models()
    content, f0, synthesis = counted(models, monkeypatch)
    (sound,) = converted_together(recordings(300), tiny_request(), models)
    assert isinstance(sound, np.ndarray)
    assert len(sound) == 300 * 4000
    assert sorted(content) == [1, 1, 36]
    assert sorted(f0) == [1, 1, 17]
    assert sorted(synthesis) == [1, 1, 13]


@pytest.mark.usefixtures("busy")
def test_what_is_asked_for_together_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the budget in a pass; in an hour by what one recording may ask for."""
    models = tiny_models()
    content, _, synthesis = counted(models, monkeypatch)
    job = Conversion(*recordings(900), tiny_request(), models, ahead_frames=BUSY.ahead_frames)
    asked = [step for step in stepped(job) if isinstance(step, tuple)]
    assert max(sum(request.frames for request in step if request.stage == "synthesis") for step in asked) < 34_000
    del content[:], synthesis[:]
    (sound,) = converted_together(recordings(300), tiny_request(), models, frame_budget=5000)
    assert isinstance(sound, np.ndarray)
    assert max(content) == 5000 // 1000
    assert max(synthesis) == 2


def stepped(job: Conversion) -> Iterator[Any]:
    """Its steps, answered."""
    executor, steps, answers = Executor(TinyNetworks.device), job.steps(), None
    with contextlib.suppress(StopIteration):
        while True:
            step = steps.send(answers)
            yield step
            answers = executor.execute(step) if isinstance(step, tuple) else None


@pytest.mark.usefixtures("busy")
def test_recordings_that_are_being_read_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    models = tiny_models()
    content, f0, synthesis = counted(models, monkeypatch)
    together = converted_together(recordings(*[5.0] * 12), tiny_request(), models)
    assert all(isinstance(sound, np.ndarray) for sound in together)
    assert (sum(content), sum(f0), sum(synthesis)) == (12, 12, 12)
    assert len(content) + len(f0) + len(synthesis) <= 12  # 3 where nothing else keeps the threads from reading


@pytest.mark.usefixtures("busy")
def test_lengths_within_a_second_share_a_pass_of_synthesis(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths_s = (4.03, 4.21, 4.4, 4.999, 5.0)
    alone = [converted_alone(Conversion(r, tiny_request(), tiny_models())) for r in recordings(*lengths_s)]
    models = tiny_models()
    _, _, synthesis = counted(models, monkeypatch)
    jobs = [Conversion(r, tiny_request(), models, ahead_frames=32_000) for r in recordings(*lengths_s)]
    found = answered_together(jobs)
    for sound, expected in zip(found, alone, strict=True):
        np.testing.assert_allclose(sound, expected, atol=1e-5)
    assert synthesis == [5]


def answered_together(jobs: list[Conversion]) -> list[FloatArray]:
    """Sound of conversions that ask for the same at the same time."""
    executor = Executor(TinyNetworks.device)
    running: dict[int, Any] = {number: job.steps() for number, job in enumerate(jobs)}
    sounds: list[list[FloatArray]] = [[] for _ in jobs]
    answers: dict[int, Any] = dict.fromkeys(running)
    while running:
        asked: dict[int, Any] = {}
        for number, steps in list(running.items()):
            step = steps.send(answers.pop(number, None))
            while isinstance(step, np.ndarray):
                sounds[number].append(step)
                step = next(steps, None)
            if step is None:
                del running[number]
            else:
                asked[number] = step
        given = iter(executor.execute([request for step in asked.values() for request in step]))
        answers = {number: [next(given) for _ in step] for number, step in asked.items()}
    return [np.concatenate(parts) for parts in sounds]


@pytest.mark.parametrize("ahead_frames", [0, 32_000])
def test_noise_is_drawn_ahead_in_a_thread(ahead_frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set()

    def noted(*given: Any) -> FloatArray:
        threads.add(threading.current_thread().name.rpartition("_")[0])
        return normals(*given)

    monkeypatch.setattr(execute, "normals", noted)
    converted_alone(Conversion(*recordings(45), tiny_request(), tiny_models(), ahead_frames=ahead_frames))
    assert threads == ({"menura-noise"} if ahead_frames else {""})
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("menura-noise")]


@pytest.mark.usefixtures("busy")
def test_the_next_pass_begins_before_the_last_ones_answers_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = set(), 0
    begin, collect = Executor.begin, Flight.collect

    def begun(self: Executor, requests: Sequence[NetworkRequest]) -> Flight:
        nonlocal most
        flight = begin(self, requests)
        under_way.add(flight)
        most = max(most, len(under_way))
        return flight

    def collected(self: Flight) -> list[Answer]:
        under_way.remove(self)
        return collect(self)

    monkeypatch.setattr(Executor, "begin", begun)
    monkeypatch.setattr(Flight, "collect", collected)
    converted_together(recordings(70, 30, 5), tiny_request(), tiny_models())
    assert most == 2
    assert not under_way


@pytest.mark.usefixtures("busy")
def test_what_fails_or_is_cancelled_under_way_stops_nothing() -> None:
    failing = dataclasses.replace(tiny_models(), encoder=FakeEncoder())

    def encode(samples: Any, statistics: Any) -> Any:
        if samples.shape[1] > 9 * 16_000:
            raise MemoryError
        return FakeEncoder.encode(failing.encoder, samples, statistics)

    failing.encoder.encode = encode
    alone = converted_alone(Conversion(*recordings(5), tiny_request(), tiny_models()))
    sounds = converted_together([*recordings(5), *recordings(50)], tiny_request(), failing)
    assert isinstance(sounds[1], ResourceError)
    np.testing.assert_allclose(sounds[0], alone, atol=1e-5)
    with Engine(TinyNetworks(tiny_models())) as engine:
        sinks = [MemorySink() for _ in range(2)]
        tickets = [engine.submit(r, tiny_request(), sink) for r, sink in zip(recordings(100, 5), sinks, strict=True)]
        while not (engine._flights or engine.idle):
            engine.step()
        engine.cancel(tickets[0])
        ends = {}
        while not engine.idle:
            ends.update({event.ticket: event for event in engine.step() if isinstance(event, (Done, Failed))})
    assert isinstance(ends[tickets[0]], Failed)
    assert isinstance(ends[tickets[1]], Done)
