"""Spans with a voice each: the sound of a plain conversion within them, the original between, exact in length."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from menura.errors import OptionError
from menura.loading.loader import VoiceModels
from menura.loading.request import Request, Role
from menura.pipeline.conversion import Conversion
from menura.pipeline.dialogue import CROSSFADE_S, Dialogue, Weights, silences_around
from menura.pipeline.engine import Advanced, Done, Engine, Fairness, Share
from menura.pipeline.execute import SynthesisRequest
from menura.pipeline.output import MemorySink
from menura.pipeline.progress import Worked
from menura.pipeline.recording import ArrayRecording, Reader, Silences
from menura.pipeline.windows import Windowing
from properties.test_engine import voice_like
from support.tiny import (
    FakeEncoder,
    FakeF0,
    TinyNetworks,
    converted_alone,
    tiny_config,
    tiny_models,
    tiny_request,
    tiny_voice,
)

if TYPE_CHECKING:
    from menura.types import FloatArray

RATE = 16_000
WINDOWING = Windowing(segment_frames=200, context_frames=100, seam_search_frames=20)
MODELS = tiny_models()
FASTER = dataclasses.replace(MODELS, synthesizer=tiny_voice(tiny_config(rates=(4, 4, 5))))
"""The same encoder and F0, at 8 kHz."""

Spans = Sequence[tuple[float, float]]


class CountedRecording(ArrayRecording):
    opened = 0

    def open(self) -> Reader:
        self.opened += 1
        return super().open()


def asked(*spans: Spans, outside: str = "original", request: Request | None = None, **options: object) -> Request:
    """A request with a role for each of these lists of spans."""
    request = request or tiny_request(**options)  # type: ignore[arg-type]
    roles = tuple(Role(request=request, spans_s=tuple(each)) for each in spans)
    whole = dataclasses.replace(request.options, spans="-", outside=outside)
    return dataclasses.replace(request, options=whole, roles=roles)


def dialogue(samples: FloatArray, request: Request, models: Sequence[VoiceModels] = ()) -> Dialogue:
    models = models or [MODELS] * len(request.roles)
    return Dialogue(ArrayRecording(samples, RATE), request, models, windowing=WINDOWING)


def plain(samples: FloatArray, models: VoiceModels = MODELS, **options: object) -> FloatArray:
    request = tiny_request(**options)  # type: ignore[arg-type]
    return converted_alone(Conversion(ArrayRecording(samples, RATE), request, models, windowing=WINDOWING))


@settings(max_examples=12, deadline=None)
@given(
    seconds=st.floats(0.01, 12),
    options=st.fixed_dictionaries(
        {},
        optional={
            "rms_mix_rate": st.just(0.3),
            "split_silence": st.just(True),
            "effects": st.sampled_from(["gain", "reverb, limiter"]),
            "clean_output": st.just(0.7),
            "clean_input": st.just(0.7),
            "transpose": st.sampled_from([3.0, "auto"]),
            "autotune": st.just(1.0),
        },
    ),
    beyond_s=st.sampled_from([0.0, 7.0]),
)
def test_a_span_of_everything_is_the_plain_conversion(
    seconds: float, options: dict[str, object], beyond_s: float
) -> None:
    samples = voice_like(max(1, round(seconds * RATE)))
    if options.get("transpose") == "auto":
        options["median_hz"] = 333.0
    job = dialogue(samples, asked([(0.0, len(samples) / RATE + beyond_s)], **options))
    np.testing.assert_array_equal(converted_alone(job), plain(samples, **options))
    whole = Conversion(ArrayRecording(samples, RATE), tiny_request(**options), MODELS, windowing=WINDOWING)
    converted_alone(whole)
    assert job.semitones == whole.semitones
    assert any("cut at the recording's end" in note for note in job.notes()) == bool(beyond_s)


def test_inside_is_what_each_voice_says_and_outside_is_the_original() -> None:
    samples = voice_like(9 * RATE)
    request = asked([(1.0, 2.5), (6.0, 7.0)], [(2.5, 4.0)], sample_rate=RATE)
    sound = converted_alone(dialogue(samples, request, [MODELS, FASTER]))
    assert len(sound) == len(samples)
    slow, fast = plain(samples, sample_rate=RATE), plain(samples, FASTER, sample_rate=RATE)
    apart = round(RATE * CROSSFADE_S / 2) + 1
    for start_s, end_s, wanted in (
        *((0.0, 1.0, samples), (1.0, 2.5, slow), (2.5, 4.0, fast), (4.0, 6.0, samples)),
        *((6.0, 7.0, slow), (7.0, 9.0, samples)),
    ):
        inner = slice(round(start_s * RATE) + apart * (start_s > 0), round(end_s * RATE) - apart * (end_s < 9))
        np.testing.assert_allclose(sound[inner], wanted[inner], atol=1e-5)
    silent = converted_alone(
        dialogue(samples, dataclasses.replace(request, options=_silent(request)), [MODELS, FASTER])
    )
    for start_s, end_s in ((0.0, 1.0), (4.0, 6.0), (7.0, 9.0)):
        assert not silent[round(start_s * RATE) + apart : round(end_s * RATE) - apart].any()
    inner = slice(round(1.1 * RATE), round(3.9 * RATE))
    np.testing.assert_array_equal(silent[inner], sound[inner])


def _silent(request: Request) -> object:
    return dataclasses.replace(request.options, outside="silence")


@given(
    edges=st.lists(st.floats(0, 3), min_size=2, max_size=12, unique=True),
    rate=st.sampled_from([8000, 22_050, 48_000]),
)
def test_weights_of_neighbours_add_up(edges: list[float], rate: int) -> None:
    spans = list(zip(sorted(edges), sorted(edges)[1:], strict=False))
    one, other, both = (Weights(each, 3.0, rate) for each in (spans[::2], spans[1::2] or [(9, 9)], spans))
    total = one.of(0, 3 * rate) + other.of(0, 3 * rate)
    np.testing.assert_allclose(total, both.of(0, 3 * rate), atol=1e-6)
    assert np.abs(np.diff(total)).max() <= 1.01 / (CROSSFADE_S * rate)
    assert one.of(0, 3 * rate).min() >= 0
    np.testing.assert_array_equal(np.concatenate([one.of(0, 777), one.of(777, 3 * rate)]), one.of(0, 3 * rate))


def test_voices_share_windows_and_readings() -> None:
    encoder, f0 = FakeEncoder(), FakeF0()
    models = [dataclasses.replace(each, encoder=encoder, f0=f0) for each in (MODELS, FASTER)]
    recording = CountedRecording(voice_like(30 * RATE), RATE)
    spans = [(k / 2, (k + 1) / 2) for k in range(60)]
    job = Dialogue(recording, asked(spans[::2], spans[1::2]), models, windowing=WINDOWING)
    converted_alone(job)
    shared = len(encoder.windows), len(f0.windows)
    encoder.windows.clear(), f0.windows.clear()
    converted_alone(Conversion(recording, tiny_request(), models[0], windowing=WINDOWING))
    assert shared == (len(encoder.windows), len(f0.windows))
    assert recording.opened == 3 + 2


def test_what_is_far_from_all_spans_is_not_computed() -> None:
    encoder, f0 = FakeEncoder(), FakeF0()
    models = dataclasses.replace(MODELS, encoder=encoder, f0=f0)
    job = Dialogue(ArrayRecording(voice_like(200 * RATE), RATE), asked([(100.0, 101.0)]), [models])
    frames = 0
    for step in _driven(job):
        frames += sum(sum(b - a for a, b in r.sounding) for r in step if isinstance(r, SynthesisRequest))
    assert sum(encoder.windows) / RATE < 60
    assert sum(f0.windows) / RATE < 60
    assert 100 <= frames <= 150


def _driven(job: Dialogue) -> Iterator[tuple[object, ...]]:
    """Its requests, answered."""
    from support.tiny import Executor

    executor, steps, answers = Executor(TinyNetworks.device), job.steps(), None
    while True:
        try:
            step = steps.send(answers)
        except StopIteration:
            return
        answers = None
        if not isinstance(step, (np.ndarray, Worked)):
            yield step
            answers = executor.execute(step)


def test_each_speaker_has_one_shift() -> None:
    """By the F0 of the own spans alone, however late they are."""
    samples = voice_like(40 * RATE)
    samples[: 20 * RATE] *= 0.2
    request = tiny_request(median_hz=200.0)
    job = dialogue(samples, asked([(0.0, 5.0), (10.0, 15.0)], [(25.0, 30.0), (35.0, 40.0)], request=request))
    converted_alone(job)
    low, high = (voice.semitones for voice in job._voices)
    for part, found in ((samples[: 15 * RATE], low), (samples[25 * RATE :], high)):
        alone = Conversion(ArrayRecording(part, RATE), request, MODELS)
        converted_alone(alone)
        assert alone.semitones is not None
        assert abs(alone.semitones - found) <= 1
    assert low > high
    assert job.semitones is None
    assert sum("was moved by" in note for note in job.notes()) == 2


def test_what_is_told_of_a_speakers_shift_names_the_speaker() -> None:
    request = tiny_request(median_hz=200.0)
    given = np.concatenate([np.full(500, 100), np.full(490, 850), np.zeros(10)]).astype(np.float32)
    request = dataclasses.replace(request, f0_hz=given, options=dataclasses.replace(request.options, transpose="auto"))
    models = [dataclasses.replace(MODELS, f0=None)] * 2
    spans = [[(0.0, 9.0)], [(9.85, 9.91)]]
    job = dialogue(voice_like(10 * RATE), asked(*spans, request=request), models)
    converted_alone(job)
    whole, short = (voice.semitones for voice in job._voices)
    assert (whole, short) == (12, 0)
    two = "There are two registers or speakers, around 100 and 850 Hz; the shift is for the one around 100 Hz."
    assert f"'tiny': {two}" in job.notes()
    assert "'tiny': There is too little voice to tell its pitch by; it was not moved." in job.notes()


def test_spans_of_a_millisecond() -> None:
    """Shorter than the crossfade: both voices are heard all the time, each half as loud."""
    spans = [(k / 1000, (k + 1) / 1000) for k in range(10_000)]
    samples = voice_like(10 * RATE)
    sound = converted_alone(dialogue(samples, asked(spans[::2], spans[1::2], sample_rate=RATE), [MODELS, FASTER]))
    assert len(sound) == len(samples)
    slow, fast = plain(samples, sample_rate=RATE), plain(samples, FASTER, sample_rate=RATE)
    inner = slice(RATE // 10, -RATE // 10)
    np.testing.assert_allclose(sound[inner], (slow + fast)[inner] / 2, atol=1e-5)


def test_all_beyond_the_end() -> None:
    with pytest.raises(OptionError, match=r"all spans lie beyond its end, 1\.00 s"):
        dialogue(voice_like(RATE), asked([(1.0, 2.0)]))


def test_the_engine_tells_progress_to_the_end() -> None:
    samples, sink, done, fairness = voice_like(42 * RATE), MemorySink(), [0.0], Fairness()
    with Engine(TinyNetworks(MODELS)) as engine:
        request, share = asked([(1.0, 4.0)], [(5.0, 39.0)]), Share(fairness)
        engine.submit(ArrayRecording(samples, RATE), request, sink, share=share)
        ends = []
        while not engine.idle:
            for event in engine.step():
                done += [event.audio_done_s] if isinstance(event, Advanced) else []
                ends += [event] if isinstance(event, Done) else []
    assert all(before < after for before, after in itertools.pairwise(done)), "it never stands still"
    assert done[-1] == pytest.approx(42)
    assert fairness.served_s == pytest.approx(42)
    assert len(ends) == 1
    assert ends[0].result.output_samples == len(sink.joined()) == 42 * 4000


def test_silences_around_spans() -> None:
    found = silences_around([(2.0, 3.0), (3.4, 4.0)], Silences(spans=((500, 600),)), 1000)
    assert found.spans[1:] == ((403, 1 << 40),)
    assert found.spans[0][1] == 197
    assert silences_around([(0.0, 10.0)], Silences(), 1000).spans == ()
