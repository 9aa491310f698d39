"""Effects on real speech: the grammar, presets, Applio's files; what each does; recordings of any channels."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from menura.cli.main import run
from menura.effects.definitions import EFFECTS, PRESETS, Gain, Limiter, PitchShift, Reverb, effects_schema
from menura.effects.loudness import measured, towards
from menura.effects.processors import chain_of
from menura.effects.text import given_text, parsed, read_effects, text_of
from menura.errors import OptionError

Samples = npt.NDArray[np.float32]
DEMO = Path(str(files("menura") / "assets/demo/librivox_0870.flac"))
RATE = 16_000


@pytest.fixture(scope="module")
def speech() -> Samples:
    samples, rate = soundfile.read(DEMO, dtype="float32")
    assert rate == RATE
    return np.asarray(samples)


def through(text: str, samples: Samples, rate: int = RATE) -> Samples:
    chain = chain_of(parsed(text), rate)
    return np.concatenate([chain.push(samples), chain.flush()])


def db(samples: Samples) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-20))


def band_db(samples: Samples, low_hz: float, high_hz: float, rate: int = RATE) -> float:
    power, hz = np.abs(np.fft.rfft(samples)) ** 2, np.fft.rfftfreq(len(samples), 1 / rate)
    return float(10 * np.log10(power[(hz >= low_hz) & (hz < high_hz)].sum()))


def tone(hz: float, seconds: float = 1.0, level: float = 0.5, rate: int = RATE) -> Samples:
    return (level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def test_text_and_effects_are_two_forms_of_one() -> None:
    asked = parsed("reverb room=.6 wet=.4,limiter threshold=-6,gain db=-3")
    assert asked == (Reverb(room=0.6, wet=0.4), Limiter(), Gain(db=-3.0))
    assert text_of(asked) == "reverb room=0.6 wet=0.4, limiter, gain db=-3.0"
    assert parsed(text_of(asked)) == asked
    for preset in PRESETS.values():
        assert parsed(text_of(parsed(preset))) == parsed(preset)
    assert parsed("room, gain db=1") == (*parsed(PRESETS["room"]), Gain(db=1.0))
    assert parsed("") == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rever", "Did you mean reverb?"),
        ("gain volume=3", "gain has no 'volume'"),
        ("gain db", "'db' of gain has no value"),
        ("gain db=100", "gain db: 100 is outside -60 to 60 dB"),
        ("gain db=loud", "gain db: 'loud' is not a number"),
        ("gain db=nan", "is not a number"),
        ("hall room=1", "'hall' is a preset"),
        ("gain," * 65, "more than 64"),
    ],
)
def test_what_is_wrong_with_a_text_is_said(text: str, said: str) -> None:
    with pytest.raises(OptionError) as refused:
        parsed(text)
    assert said in str(refused.value)
    assert refused.value.option == "effects"


def test_applio_s_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "applio.json"
    fields = {"reverb": True, "reverb_room_size": 0.7, "reverb_freeze_mode": 0, "delay": False, "delay_seconds": 1.0}
    path.write_text(json.dumps(fields | {"pitch_shift_semitones": 3.0, "pitch": 0, "index_rate": 0.75}))
    assert read_effects(path) == (Reverb(room=0.7), PitchShift(semitones=3.0))
    assert given_text(str(path)) == "reverb room=0.7, pitch-shift semitones=3.0"
    path.write_text('{"pitch": 2, "index_rate": 0.75, "rms_mix_rate": 0.25, "protect": 0.33}')
    with pytest.raises(OptionError, match=r"pitch 2.*Give them as"):
        read_effects(path)


def test_json_holds_what_texts_hold(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('[{"effect": "reverb", "room": 0.6}, {"effect": "limiter"}]')
    assert read_effects(path) == parsed("reverb room=.6, limiter")
    for bad in ("[1]", "{", "3", '[{"effect": "none"}]', '[{"effect": "gain", "db": "x"}]', '[{"effect": ["gain"]}]'):
        path.write_text(bad)
        with pytest.raises(OptionError) as refused:
            read_effects(path)
        assert refused.value.subject == str(path)
    with pytest.raises(OptionError, match="small file"):
        read_effects(tmp_path / "none.json")
    for odd, said in (
        ('[{"effect": "podcast"}]', "'podcast' is a preset"),
        ('{"reverb": "false"}', "reverb is neither true nor false"),
        ('{"reverb_rom_size": 0.3}', "names no effect"),
        (json.dumps({"pitch": "x" * 5000}), "Give them as"),
    ):
        path.write_text(odd)
        with pytest.raises(OptionError, match=said) as refused:
            read_effects(path)
        assert len(str(refused.value)) < 300 + len(str(path))
    path.write_text('{"reverb": false, "pitch_shift": false}')
    assert read_effects(path) == ()


def test_the_schema_has_every_parameter() -> None:
    schemas = effects_schema()
    assert list(schemas) == list(EFFECTS)
    room = schemas["reverb"]["properties"]["room"]
    assert (room["minimum"], room["maximum"], room["default"]) == (0, 1, 0.5)


@pytest.mark.parametrize("name", EFFECTS)
def test_as_many_samples_as_before_at_any_rate(name: str, speech: Samples) -> None:
    for rate in (4_000, 44_100, 96_000):
        for samples in (speech[:10_000], np.stack([speech[:5001], -speech[:5001], speech[:5001]], axis=1), speech[:1]):
            made = through(name, samples, rate)
            assert made.shape == samples.shape
            assert np.isfinite(made).all()


SAME = "gain", "gain db=0", "compressor", "equalizer", "pitch-shift", "delay seconds=0", "chorus mix=0", "limiter"


@pytest.mark.parametrize("text", SAME)
def test_what_asks_for_nothing_changes_nothing(text: str, speech: Samples) -> None:
    quiet = speech * np.float32(0.4 / np.abs(speech).max())
    np.testing.assert_allclose(through(text, quiet), quiet, atol=1e-6)


def test_gain_distortion_clipping_and_bits(speech: Samples) -> None:
    np.testing.assert_allclose(through("gain db=6", speech), speech * 10 ** (6 / 20), rtol=1e-6)
    np.testing.assert_allclose(through("distortion drive=25", speech), np.tanh(speech * 10 ** (25 / 20)), atol=1e-6)
    clipped = through("clipping threshold=-20", speech)
    assert np.abs(clipped).max() == pytest.approx(0.1)
    assert (clipped[np.abs(speech) < 0.1] == speech[np.abs(speech) < 0.1]).all()
    crushed = through("bitcrush bits=4", speech)
    assert set(np.unique(crushed * 16).tolist()) <= set(range(-16, 17))


def test_the_limiter_holds_its_level_and_the_compressor_its_ratio(speech: Samples) -> None:
    for level_db in (-6, -40):
        limited = through(f"limiter threshold={level_db}", speech * 4)
        assert np.abs(limited).max() <= 10 ** (level_db / 20) * 1.0001
        assert np.abs(limited).max() > 10 ** (level_db / 20) * 0.9
    loud = tone(500, 2.0, 0.5)
    made = through("compressor threshold=-26 ratio=4 attack=1 release=50", loud)[RATE:]
    # the peak is 20 dB above the level: 5 dB are left
    assert 20 * np.log10(np.abs(made).max()) == pytest.approx(-26 + 5, abs=0.7)


def test_the_delay_repeats_and_the_reverb_rings(speech: Samples) -> None:
    click = np.zeros(RATE, dtype=np.float32)
    click[100] = 1.0
    echoes = through("delay seconds=0.2 feedback=0.5 mix=0.5", click)
    found = {int(i): round(float(echoes[i]), 6) for i in np.flatnonzero(echoes)}
    assert found == {100: 0.5, 3300: 0.5, 6500: 0.25, 9700: 0.125, 12900: 0.0625}
    ringing = through("reverb room=0.5 wet=1 dry=0", np.concatenate([click, np.zeros(3 * RATE, np.float32)]))
    levels = [db(ringing[start * RATE // 2 : (start + 1) * RATE // 2]) for start in range(1, 6)]
    assert all(later < before - 3 for before, later in itertools.pairwise(levels))
    larger = through("reverb room=0.9 wet=1 dry=0", np.concatenate([click, np.zeros(3 * RATE, np.float32)]))
    assert db(larger[2 * RATE :]) > db(ringing[2 * RATE :]) + 10
    np.testing.assert_allclose(through("reverb freeze=1 dry=0.5", speech), speech, atol=1e-7)


def test_the_reverb_is_as_wide_as_asked(speech: Samples) -> None:
    both = np.stack([speech, speech], axis=1)
    wide, narrow = through("reverb width=1", both), through("reverb width=0", both)
    assert db(wide[:, 0] - wide[:, 1]) > -50
    assert db(narrow[:, 0] - narrow[:, 1]) < -120


def test_the_chorus_swings(speech: Samples) -> None:
    hum = tone(440, 2.0)
    wet = through("chorus rate=2 depth=1 delay=8 mix=1", hum)
    power = np.abs(np.fft.rfft(wet[RATE:] * np.hanning(RATE)))
    hz = np.fft.rfftfreq(RATE, 1 / RATE)
    beside = power[(np.abs(hz - 440) > 5) & (np.abs(hz - 440) < 60)].max() / power.max()
    assert beside > 0.2  # the delay's swing moves the pitch up and down
    steady = through("chorus rate=0 depth=0 delay=10 mix=1", speech)
    np.testing.assert_allclose(steady[160:], speech[:-160], atol=1e-6)


@pytest.mark.parametrize("semitones", [-12, -5, 3, 7, 12])
def test_pitch_moves_and_time_stays(semitones: int, speech: Samples) -> None:
    made = through(f"pitch-shift semitones={semitones}", tone(440, 2.0, rate=44_100), 44_100)[22_050:66_150]
    power = np.abs(np.fft.rfft(made * np.hanning(len(made)), 1 << 18))
    found_hz = power.argmax() * 44_100 / (1 << 18)
    assert 12 * np.log2(found_hz / 440) == pytest.approx(semitones, abs=0.05)
    for rate in (16_000, 44_100):
        before, after = (
            envelope(x, rate) for x in (speech, through(f"pitch-shift semitones={semitones}", speech, rate))
        )
        lag = int(np.correlate(after, before, "full").argmax()) - len(before) + 1
        assert abs(lag) <= 1  # hundredths of a second
    assert np.abs(through(f"pitch-shift semitones={semitones}", speech)[-400:]).max() > 0


def envelope(samples: Samples, rate: int) -> npt.NDArray[np.float64]:
    hop = rate // 100
    levels = np.sqrt(np.mean(np.square(samples[: len(samples) // hop * hop].reshape(-1, hop).astype(float)), axis=1))
    return np.asarray(levels - levels.mean())


def test_filters_act_where_they_should(speech: Samples) -> None:
    mixed = tone(30) + tone(1000, level=0.1)
    passed = through("high-pass frequency=120", mixed)
    assert band_db(passed, 20, 40) < band_db(mixed, 20, 40) - 20
    assert band_db(passed, 900, 1100) == pytest.approx(band_db(mixed, 900, 1100), abs=0.5)
    for text, low, high in (("low=12", 20, 80), ("mid=12", 950, 1050), ("high=12", 7000, 7900)):
        change = band_db(through(f"equalizer {text}", speech), low, high) - band_db(speech, low, high)
        assert change == pytest.approx(12, abs=1.5)


def test_the_de_esser_softens_hissing_alone() -> None:
    hiss = np.random.default_rng(3).standard_normal(RATE).astype(np.float32)
    hiss = np.diff(hiss, n=3, prepend=[0, 0, 0]).astype(np.float32) * 0.05
    vowel = sum((tone(hz, level=0.1) for hz in (200, 400, 600)), np.zeros(RATE, np.float32))
    both = np.concatenate([vowel, hiss])
    made = through("de-esser amount=1", both)
    assert db(made[RATE:]) < db(hiss) - 3
    assert db(made[:RATE]) == pytest.approx(db(vowel), abs=1)


def test_apply_keeps_channels_rate_length_and_tags(tmp_path: Path, speech: Samples) -> None:
    stereo = np.stack([speech, np.zeros_like(speech)], axis=1)
    soundfile.write(tmp_path / "in.wav", stereo, 44_100, subtype="FLOAT")
    arguments = ["effects", "apply", str(tmp_path / "in.wav"), "--effects", "gain db=-6"]
    assert run([*arguments, "-o", str(tmp_path / "new" / "out.wav"), "--bit-depth", "32"]) == 0
    made, rate = soundfile.read(tmp_path / "new" / "out.wav", dtype="float32")
    assert rate == 44_100
    np.testing.assert_allclose(made, stereo * np.float32(10 ** (-6 / 20)), atol=1e-6)
    for suffix in ("flac", "mp3", "ogg", "m4a"):
        assert run([*arguments, "-o", str(tmp_path / f"out.{suffix}")]) == 0
        from menura.audio.decode import open_audio

        reader = open_audio(tmp_path / f"out.{suffix}")
        heard = np.concatenate(list(reader.chunks()))
        assert heard.shape == stereo.shape
        assert db(heard[:, 0]) > db(heard[:, 1]) + 20  # each channel in its place


def test_apply_leaves_nothing_half_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.wav"
    cases = (
        ([str(DEMO), "--effects", "rever"], "Did you mean reverb?"),
        ([str(DEMO)], "no effects are named"),
        ([str(tmp_path / "none.wav"), "--effects", "hall"], "no such file"),
        ([str(DEMO), "--effects", str(tmp_path / "none.json")], "small file"),
    )
    for arguments, said in cases:
        assert run(["effects", "apply", *arguments, "-o", str(out)]) != 0
        assert said in capsys.readouterr().err
    ten, out = tmp_path / "ten.wav", tmp_path / "out.mp3"
    soundfile.write(ten, np.zeros((100, 10), dtype=np.float32), RATE)
    assert run(["effects", "apply", str(ten), "--effects", "gain", "-o", str(out)]) == 1
    assert "mp3 takes up to 2 channels, not 10" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [ten]
    copy = tmp_path / "same.flac"
    copy.write_bytes(DEMO.read_bytes())
    assert run(["effects", "apply", str(copy), "--effects", "hall", "-o", str(copy)]) == 1
    assert copy.read_bytes() == DEMO.read_bytes()


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["effects", "list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*EFFECTS, *PRESETS))
    assert run(["effects", "list", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"effects": json.loads(json.dumps(effects_schema())), "presets": PRESETS}


def test_without_ffmpeg_only_its_effects_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    from menura.effects.text import checked

    found: Callable[..., object] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "av" else found(name, *a))
    assert checked("gain db=3, reverb")
    with pytest.raises(OptionError, match=r"limiter needs PyAV.*menura\[media\]"):
        checked("limiter")


def bs1770(samples: npt.NDArray[np.floating], rate: int) -> float:
    """Integrated loudness of (samples, channels), by ITU-R BS.1770-4's formulas, its filters by their analog forms."""
    from scipy import signal

    def shelf(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        gain, q, k = 3.999843853973347, 0.7071752369554196, np.tan(np.pi * 1681.974450955533 / rate)
        high = 10 ** (gain / 20)
        band = high**0.4996667741545416
        b = [high + band * k / q + k * k, 2 * (k * k - high), high - band * k / q + k * k]
        return np.asarray(signal.lfilter(b, [1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k], x, axis=0))

    q, k = 0.5003270373238773, np.tan(np.pi * 38.13547087602444 / rate)
    a = [1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k]
    weighted = signal.lfilter([1, -2, 1], np.array(a) / a[0], shelf(samples.astype(np.float64)), axis=0)
    step = rate // 10
    blocks = [weighted[i : i + 4 * step] for i in range(0, len(weighted) - 4 * step + 1, step)]
    powers = np.array([np.mean(np.square(block), axis=0).sum() for block in blocks])
    loud = powers[powers > 10 ** ((-70 + 0.691) / 10)]
    return float(-0.691 + 10 * np.log10(loud[loud > loud.mean() / 10].mean()))


def true_peak_db(samples: Samples, rate: int) -> float:
    from menura.audio.processor import StreamResampler

    stream = StreamResampler(rate, 8 * rate)
    return float(20 * np.log10(np.abs(np.concatenate([stream.push(samples), stream.flush()])).max()))


@pytest.mark.parametrize("rate", [16_000, 22_050, 48_000])
def test_loudness_is_bs_1770_s(speech: Samples, rate: int) -> None:
    stereo = np.stack([speech, speech[::-1] / 2], axis=1)
    for samples in (speech, stereo):
        pieces = np.array_split(samples, 17)
        found = measured(pieces, rate)
        assert found == measured([samples], rate)
        assert found[0] == pytest.approx(bs1770(samples.reshape(len(samples), -1), rate), abs=0.1)
        assert 20 * np.log10(found[1]) == pytest.approx(true_peak_db(samples, rate), abs=0.3)


def test_a_click_in_the_last_moment_counts_as_a_peak(speech: Samples) -> None:
    short = speech[:3000].copy()
    short[-1] = 0.9
    assert measured([short], RATE)[1] > 0.85
    assert measured([], RATE) == (None, 0.0)
    assert towards(-16, [], RATE) == towards(-16, [0 * speech], RATE) == (1.0, ())


@pytest.mark.parametrize(("target", "channels"), [(-27, 1), (-30, 2), (-10, 1)])
def test_a_loudness_is_reached_or_the_peak_says_how_much_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], target: float, channels: int
) -> None:
    samples, rate = soundfile.read(DEMO, dtype="float32")
    soundfile.write(tmp_path / "in.wav", np.stack([samples] * channels, axis=1), rate)
    out = tmp_path / "out.wav"
    asked = ["--loudness", str(target), "--bit-depth", "24"]
    assert run(["effects", "apply", str(tmp_path / "in.wav"), *asked, "-o", str(out)]) == 0
    made, _ = soundfile.read(out, dtype="float32", always_2d=True)
    said = capsys.readouterr().out
    assert true_peak_db(made, rate) <= -0.9
    if target == -10:
        assert true_peak_db(made, rate) == pytest.approx(-1, abs=0.1)
        assert f"Peaks allow a loudness of {bs1770(made, rate):.1f} LUFS" in said
    else:
        assert bs1770(made, rate) == pytest.approx(target, abs=0.1)
        assert "Peaks" not in said


def test_a_conversion_has_the_loudness_asked_for(tmp_path: Path) -> None:
    from menura import ConversionOptions, Converter, EngineOptions

    with Converter(EngineOptions(home=tmp_path, threads=1)) as converter:
        options = ConversionOptions(loudness=-31, bit_depth=24)
        samples, rate = converter.convert(DEMO, options=options)
        result = converter.convert(DEMO, tmp_path / "out.wav", options)
    written, _ = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert result.notes == () or "LUFS" not in result.notes[-1]
    assert bs1770(samples[:, None], rate) == pytest.approx(-31, abs=0.1)
    np.testing.assert_allclose(written, samples, atol=2**-23)


def noisy(speech: Samples, level: float) -> Samples:
    return (speech + np.random.default_rng(0).normal(0, level, len(speech))).astype(np.float32)


def test_noise_is_weakened_from_the_first_second_on_and_speech_left(speech: Samples) -> None:
    paused = np.tile(np.concatenate([speech[:40_000], np.zeros(8000, np.float32)]), 15)  # 45 s
    hissing = noisy(paused, 0.01)
    pauses = np.tile(np.arange(48_000) > 42_000, 15)
    made = through("clean-up strength=0.9", hissing)
    for start in range(0, len(made), 48_000):
        part = slice(start, start + 48_000)
        assert db(made[part][pauses[part]]) < db(hissing[part][pauses[part]]) - 15
    loud = np.convolve(np.abs(paused), np.ones(800) / 800, "same") > 0.05
    assert np.corrcoef(made[loud], paused[loud])[0, 1] > 0.98
    assert db(made[loud]) == pytest.approx(db(paused[loud]), abs=0.5)
    half = through("clean-up strength=0.5", hissing)
    assert db(half[pauses]) == pytest.approx(db(hissing[pauses]) - 6, abs=1)


def test_noise_that_changes_is_followed(speech: Samples) -> None:
    quiet, loud = (np.random.default_rng(1).normal(0, s, 60 * RATE).astype(np.float32) for s in (0.001, 0.01))
    made = through("clean-up strength=1", np.concatenate([quiet, loud]))
    assert db(made[20 * RATE : 50 * RATE]) < db(quiet) - 15
    assert db(made[100 * RATE :]) < db(loud) - 15


def test_a_strength_of_nothing_and_silence_change_nothing(speech: Samples) -> None:
    np.testing.assert_allclose(through("clean-up strength=0", speech), speech, atol=1e-6)
    assert not through("clean-up strength=1", np.zeros(100_000, np.float32)).any()


@pytest.mark.parametrize(("text", "factor"), [("formant timbre=1.25", 1.25), ("female-to-male", 0.8)])
def test_formants_move_pitch_and_loudness_stay(text: str, factor: float) -> None:
    t, f0_hz = np.arange(3 * RATE) / RATE, 130
    gains = {hz: sum(1 / (1 + ((hz - f) / 80) ** 2) for f in (700, 1800, 2900)) for hz in range(f0_hz, 7000, f0_hz)}
    vowel = (0.05 * sum(g * np.sin(2 * np.pi * hz * t) for hz, g in gains.items())).astype(np.float32)
    made = through(text, vowel)[RATE : 2 * RATE]
    power = np.abs(np.fft.rfft(made * np.hanning(RATE))) ** 2  # bins of 1 Hz
    harmonics = np.array([power[hz - 3 : hz + 4].sum() for hz in gains])
    assert harmonics.sum() > 0.99 * power.sum()  # the pitch is what it was
    peaks = np.array(list(gains))[1:-1][(harmonics[1:-1] > harmonics[:-2]) & (harmonics[1:-1] > harmonics[2:])]
    for formant_hz in (700, 1800):
        assert np.abs(peaks - factor * formant_hz).min() < f0_hz * 1.01
    assert db(made) == pytest.approx(db(vowel), abs=0.5)


def test_applio_s_formant_files_and_presets_are_one(tmp_path: Path) -> None:
    path = tmp_path / "m2f.json"
    path.write_text('{"formant_qfrency": 1.0, "formant_timbre": 1.2}')
    assert read_effects(path) == parsed("male-to-female") == parsed("formant timbre=1.2")


def test_a_conversion_is_cleaned(tmp_path: Path, speech: Samples) -> None:
    from menura import ConversionOptions, Converter, EngineOptions

    hissing, voice = noisy(speech[:40_000], 0.01), ConversionOptions(loudness="voice")
    with Converter(EngineOptions(home=tmp_path, threads=1)) as converter:
        plain, rate = converter.convert((hissing, RATE), options=voice)
        before, _ = converter.convert((hissing, RATE), options=dataclasses.replace(voice, clean_input=0.9))
        after, _ = converter.convert((hissing, RATE), options=dataclasses.replace(voice, clean_output=0.9))
        cleaned, _ = converter.convert((through("clean-up strength=0.9", hissing), RATE), options=voice)
    np.testing.assert_array_equal(before, cleaned)
    assert np.abs(before - plain).max() > 0.01
    np.testing.assert_allclose(after, through("clean-up strength=0.9", plain, rate), atol=1e-6)
