"""The loudness of outputs: the meter against the norm, and the recording's loudness in what a conversion writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from menura.effects.loudness import FULL_SCALE, HEADROOM, LoudnessMeter, Match, integrated
from menura.loading.request import Request, Role
from menura.pipeline.engine import Done, Engine, run_batch
from menura.pipeline.output import FileSink, MemorySink, Sink
from menura.pipeline.recording import ArrayRecording
from menura.types import FileResult, FloatArray
from tests.properties.test_engine import voice_like
from tests.support.tiny import TinyNetworks, tiny_models, tiny_request

RATE = 16_000
MODELS = tiny_models()


def tone(rate: int, level_db: float, seconds: float, hz: float = 997.0) -> FloatArray:
    at = np.arange(round(rate * seconds)) / rate
    return np.asarray(10 ** (level_db / 20) * np.sin(2 * np.pi * hz * at), dtype=np.float32)


def lufs(samples: FloatArray, rate: int) -> float | None:
    meter = LoudnessMeter(rate)
    meter.push(samples)
    return integrated(meter.powers())


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_a_tone_of_997_hz_has_the_loudness_of_the_norm(rate: int) -> None:
    assert lufs(tone(rate, 0, 5), rate) == pytest.approx(-3.01, abs=0.005 if rate == 48_000 else 0.05)
    stereo = np.stack([tone(rate, -23, 5)] * 2, axis=1)
    assert lufs(stereo, rate) == pytest.approx(-23, abs=0.06)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [  # EBU Tech 3341, its tests 3 to 5: dB of full scale and seconds of a stereo tone of 1 kHz
        (((-36, 10), (-23, 60), (-36, 10)), -23.0),
        (((-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)), -23.0),
        (((-26, 20), (-20, 20.1), (-26, 20)), -23.0),
    ],
)
def test_gates_are_those_of_the_norm(parts: tuple[tuple[float, float], ...], expected: float) -> None:
    sound = np.concatenate([tone(48_000, level, seconds, 1000) for level, seconds in parts])
    assert lufs(np.stack([sound, sound], axis=1), 48_000) == pytest.approx(expected, abs=0.1)


def test_the_weighting_is_the_table_of_the_norm() -> None:
    from scipy import signal

    shelf = [1.53512485958697, -2.69169618940638, 1.19839281085285], [1, -1.69065929318241, 0.73248077421585]
    low = [1.0, -2.0, 1.0], [1, -1.99004745483398, 0.99007225036621]
    noise = np.random.default_rng(1).standard_normal(48_000).astype(np.float32)
    expected = signal.lfilter(*low, signal.lfilter(*shelf, noise.astype(np.float64)))
    meter = LoudnessMeter(48_000)
    meter.push(noise)
    np.testing.assert_allclose(meter.powers()[:, 0], np.square(expected).reshape(10, -1).mean(axis=1), rtol=1e-6)


@pytest.mark.parametrize("rate", [1000, 11_025, 44_100])
def test_blocks_make_no_difference(rate: int) -> None:
    sound = np.stack([voice_like(7 * rate + 13, rate), voice_like(7 * rate + 13, rate, 1)], axis=1)
    whole, pieces = LoudnessMeter(rate), LoudnessMeter(rate)
    whole.push(sound)
    for piece in np.array_split(sound, 23):
        pieces.push(piece)
        pieces.push(piece[:0])
    np.testing.assert_array_equal(pieces.powers(), whole.powers())


def test_what_is_shorter_than_the_norm_permits_is_one_block() -> None:
    for seconds in (0.02, 0.15, 0.3):
        assert lufs(tone(48_000, -10, seconds), 48_000) == pytest.approx(-13, abs=1)
    assert lufs(np.zeros(48_000, np.float32), 48_000) is None
    assert integrated(LoudnessMeter(48_000).powers()) is None


def test_quiet_speech_is_measured_as_it_is_raised() -> None:
    meter = LoudnessMeter(48_000)
    meter.push(tone(48_000, -78, 3))
    assert integrated(meter.powers()) is None
    assert integrated(meter.powers(), raised=10.0) == pytest.approx(-81, abs=0.1)


def test_peaks_say_how_loud_it_may_be() -> None:
    source, made = np.full((10, 1), 0.1), np.full((10, 1), 0.001)
    assert Match.of(made, source, 0.5).limited(0.01) == (pytest.approx(10), ())
    for peak, highest in ((0.5, HEADROOM), (0.95, 0.95), (1.0, FULL_SCALE)):
        gain, notes = Match.of(made, source, peak).limited(0.5)
        assert gain * 0.5 == pytest.approx(highest)
        assert f", not {integrated(source):.1f}." in notes[0]
        assert f"{float(integrated(made) or 0) + 20 * np.log10(gain):.1f} LUFS" in notes[0]
    assert Match.of(made, source, 0.9).limited(0.09)[1] == ()  # less than 1 dB: nothing to tell
    assert Match.of(made, source, 4.0).gain == pytest.approx(10 / 4)  # over full scale: as if scaled down
    assert Match.of(made, 0 * source, 0.0).limited(0.5) == (0.0, ())


def run(samples: FloatArray, sink: Sink, request: Request, rate: int = RATE) -> FileResult:
    (end,) = run_batch(TinyNetworks(MODELS), [(ArrayRecording(samples, rate), sink)], request)
    assert isinstance(end, Done), end
    return end.result


def written(path: Path, samples: FloatArray, request: Request, rate: int = RATE) -> tuple[FloatArray, int, FileResult]:
    options = dataclasses.replace(request.options, bit_depth=32, format="wav")
    result = run(samples, FileSink(path, options), dataclasses.replace(request, options=options), rate)
    found, found_rate = soundfile.read(path, dtype="float32")
    return found, found_rate, result


@pytest.mark.parametrize("level", [0.03, 0.3])
@pytest.mark.parametrize(
    "options",
    [{}, {"rms_mix_rate": 0.2}, {"sample_rate": 22_050}, {"split_silence": True}, {"effects": "gain db=0"}],
)
def test_an_output_is_as_loud_as_its_recording(tmp_path: Path, options: dict[str, object], level: float) -> None:
    samples = voice_like(12 * RATE) * np.float32(level)
    own, rate, _ = written(tmp_path / "own.wav", samples, tiny_request(**options))
    made, _, result = written(tmp_path / "made.wav", samples, tiny_request(**options, loudness="source"))
    assert lufs(made, rate) == pytest.approx(lufs(samples, RATE), abs=0.02)
    assert result.notes == ()
    ratio = np.sqrt(np.mean(np.square(made)) / np.mean(np.square(own)))
    np.testing.assert_allclose(made, ratio * own, atol=1e-5 * ratio)  # one gain for all of it


def test_effects_find_the_sound_at_its_loudness(tmp_path: Path) -> None:
    samples = voice_like(8 * RATE) * np.float32(0.05)
    plain, *_ = written(tmp_path / "a.wav", samples, tiny_request(loudness="source"))
    louder, _, _ = written(tmp_path / "b.wav", samples, tiny_request(loudness="source", effects="gain db=6"))
    np.testing.assert_allclose(louder, plain * 10 ** (6 / 20), rtol=1e-5, atol=1e-7)


def test_peaks_limit_it_and_a_note_says_so(tmp_path: Path) -> None:
    samples = np.sign(voice_like(5 * RATE)) * np.float32(0.85)  # nothing is louder
    made, rate, result = written(tmp_path / "made.wav", samples, tiny_request(loudness="source"))
    assert np.abs(made).max() == pytest.approx(HEADROOM, abs=1e-5)
    told = f"Peaks allow a loudness of {lufs(made, rate):.1f} LUFS, not {lufs(samples, RATE):.1f}."
    assert result.notes[-1] == told


@pytest.mark.parametrize("seconds", [0.01, 0.2, 0.5])
def test_short_recordings_have_a_loudness_too(tmp_path: Path, seconds: float) -> None:
    samples = tone(RATE, -30, seconds)
    made, rate, _ = written(tmp_path / "made.wav", samples, tiny_request(loudness="source"))
    assert lufs(made, rate) == pytest.approx(lufs(samples, RATE), abs=1.0)


def test_silence_stays_silent(tmp_path: Path) -> None:
    silence = np.zeros(2 * RATE, np.float32)
    own, _, _ = written(tmp_path / "own.wav", silence, tiny_request())
    assert own.any()  # networks make something of it
    for further in ({}, {"effects": "gain db=6"}):
        made, _, _ = written(tmp_path / "made.wav", silence, tiny_request(loudness="source", **further))
        assert len(made) == len(own)
        assert not made.any()
    assert Match.of(np.zeros((5, 1)), np.ones((5, 1)), 1.0).limited(0.0) == (1.0, ())


@pytest.mark.parametrize("peak_db", [-60, -75, -90])
def test_faint_speech_comes_out_as_faint_and_is_told(tmp_path: Path, peak_db: float) -> None:
    usual = voice_like(6 * RATE)
    usual /= np.abs(usual).max()
    made, _, result = written(
        tmp_path / "a.wav", usual * np.float32(10 ** (peak_db / 20)), tiny_request(loudness="source")
    )
    loud = made * np.float32(10 ** (-peak_db / 20))
    assert lufs(loud, 4000) == pytest.approx(lufs(usual, RATE), abs=0.5)  # pauses are above a gate that was lowered
    assert "as faint as the recording" in result.notes[-1]


def stereo(left: float, right: float) -> FloatArray:
    return np.stack([voice_like(6 * RATE) * np.float32(left), voice_like(6 * RATE, seed=3) * np.float32(right)], axis=1)


def test_channels_get_one_gain(tmp_path: Path) -> None:
    samples = stereo(0.1, 0.02)
    own, rate, _ = written(tmp_path / "own.wav", samples, tiny_request(channels="stereo"))
    made, _, _ = written(tmp_path / "made.wav", samples, tiny_request(channels="stereo", loudness="source"))
    assert lufs(made, rate) == pytest.approx(lufs(samples, RATE), abs=0.02)
    ratios = np.sqrt(np.mean(np.square(made), axis=0) / np.mean(np.square(own), axis=0))
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-5)


def test_the_side_of_a_converted_middle_stays_as_it_is(tmp_path: Path) -> None:
    samples = stereo(0.1, 0.02)
    options: dict[str, object] = {"channels": "mid", "sample_rate": RATE}
    made, _, _ = written(tmp_path / "made.wav", samples, tiny_request(**options, loudness="source"))
    np.testing.assert_allclose(made[:, 0] - made[:, 1], samples[:, 0] - samples[:, 1], atol=1e-6)
    middle = samples.mean(axis=1)
    assert lufs(made.mean(axis=1), RATE) == pytest.approx(lufs(middle, RATE), abs=0.02)


def spoken(*spans: Sequence[tuple[float, float]], **options: object) -> Request:
    request = tiny_request(loudness="source", sample_rate=RATE, **options)
    roles = tuple(Role(request=request, spans_s=tuple(each)) for each in spans)
    return dataclasses.replace(request, options=dataclasses.replace(request.options, spans="-"), roles=roles)


def test_each_speaker_of_a_dialogue_is_as_loud_as_before_and_the_rest_is_untouched(tmp_path: Path) -> None:
    levels = np.repeat(np.array([0.2, 0.05, 0.3, 0.01, 0.2], np.float32), 4 * RATE)
    samples = np.tile(voice_like(2 * RATE), 10) * levels
    request = spoken([(4.0, 8.0)], [(12.0, 16.0)])
    made, _, result = written(tmp_path / "made.wav", samples, request)
    assert len(made) == len(samples)
    for start_s in (0.0, 8.0, 16.0):
        kept = slice(round((start_s + 0.02) * RATE), round((start_s + 3.98) * RATE))
        np.testing.assert_allclose(made[kept], samples[kept], atol=1e-7)
    for start_s in (4.0, 12.0):
        span = slice(round(start_s * RATE), round((start_s + 4) * RATE))
        assert np.abs(made[span] - samples[span]).max() > 1e-3
        assert lufs(made[span], RATE) == pytest.approx(lufs(samples[span], RATE), abs=0.3)
    assert not any("Peaks" in note for note in result.notes)


def test_a_span_of_everything_is_the_plain_conversion(tmp_path: Path) -> None:
    samples = voice_like(9 * RATE) * np.float32(0.1)
    plain, _, _ = written(tmp_path / "a.wav", samples, tiny_request(loudness="source", sample_rate=RATE))
    whole, _, _ = written(tmp_path / "b.wav", samples, spoken([(0.0, 9.0)]))
    np.testing.assert_array_equal(whole, plain)


@pytest.mark.parametrize("options", [{}, {"effects": "gain db=1"}])
def test_progress_reaches_the_end_once(options: dict[str, object]) -> None:
    sink, done, seconds = MemorySink(), [], 70
    with Engine(TinyNetworks(MODELS)) as engine:
        request = tiny_request(loudness="source", **options)
        engine.submit(ArrayRecording(voice_like(seconds * RATE), RATE), request, sink)
        while not engine.idle:
            done += [event.audio_done_s for event in engine.step() if hasattr(event, "audio_done_s")]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(seconds)
    assert len({round(each) for each in done}) > 3
    assert (sink.match is None) == bool(options)
