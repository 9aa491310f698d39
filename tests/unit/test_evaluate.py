"""Measures of conversions: what they must say of cases whose answer is known."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from menura.cli.main import run
from menura.errors import AssetMissingError, CheckpointError, OptionError
from menura.evaluate import Judges, SpeakerEncoder, Target
from menura.evaluate.figures import FIGURES
from menura.evaluate.judges import (
    naturalness_judge,
    phones_judge,
    recogniser,
    second_naturalness_judge,
    second_recogniser,
)
from menura.evaluate.measures import (
    buzz_db,
    character_error_rate,
    pitch_scores,
    seam_scores,
    share_changed,
    speaker_scores,
    without_silence,
)
from menura.evaluate.rating import Pair, pairs_in, rate, rate_or_tell, target_of_voice
from menura.voices.library import find_voice
from support.browser import browser

CLIP = Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"


def contour(frames: int = 300) -> np.ndarray:
    hz = 150 * 2 ** (np.sin(np.arange(frames) / 20) / 4)
    hz[100:140] = 0
    return hz.astype(np.float32)


def test_a_shifted_contour_follows_exactly() -> None:
    scores = pitch_scores(contour(), contour() * np.float32(2 ** (5 / 12)))
    assert scores is not None
    assert scores.shift_semitones == pytest.approx(5, abs=1e-3)
    assert scores.correlation == pytest.approx(1)
    assert (scores.voiced_agreement, scores.gross_error, scores.lag_ms) == (1.0, 0.0, 0)


def test_delays_and_octave_jumps_are_found() -> None:
    late = np.concatenate([np.zeros(4, dtype=np.float32), contour()[:-4]])
    scores = pitch_scores(contour(), late)
    assert scores is not None
    assert scores.lag_ms == 40
    jumping = contour()
    jumping[200:252] *= 2
    scores = pitch_scores(contour(), jumping)
    assert scores is not None
    assert scores.gross_error == pytest.approx(52 / 260)
    assert pitch_scores(contour(5), contour(5)) is None
    silent = pitch_scores(contour(), np.zeros(300, dtype=np.float32))
    assert silent is not None
    assert silent.correlation is None


def test_errors_by_characters() -> None:
    assert character_error_rate("kitten", "sitting") == 3 / 6
    assert character_error_rate("It's late, isn't it?", "its late isnt it") == 0
    assert character_error_rate("abcd", "abxd") == 0.25
    assert character_error_rate("Größe", "grösse") == pytest.approx(2 / 5)
    assert character_error_rate("...", "a") is None
    assert share_changed(["tʃ", "i", "z"], ["t", "i", "z", "z"]) == pytest.approx(2 / 3)


def test_moved_is_0_at_the_source_and_1_at_the_target() -> None:
    targets = [np.array(row, dtype=np.float32) for row in ([1, 0.1, 0], [1, -0.1, 0], [1, 0, 0.1])]
    targets = [row / np.linalg.norm(row) for row in targets]
    source = np.array([0, 0, 1], dtype=np.float32)
    target = Target.of_embeddings(targets)
    assert speaker_scores(source, source, target).moved == pytest.approx(0, abs=1e-6)
    near = speaker_scores(source, targets[0], target)
    assert near.moved == pytest.approx(1, abs=0.05)
    assert speaker_scores(source, source, Target.of_embeddings(targets[:1])).moved is None


def test_a_click_is_told_from_other_places() -> None:
    rate = 16_000
    sound = np.sin(2 * np.pi * 200 * np.arange(2 * rate) / rate) * 0.2
    smooth = seam_scores(sound.astype(np.float32), rate, [0.7, 1.3])
    assert smooth is not None
    assert smooth.worst < 1.01
    for place in (0.7, 1.3):
        sound[int(place * rate) :] += 0.1
    clicking = seam_scores(sound.astype(np.float32), rate, [0.7, 1.3])
    assert clicking is not None
    assert (clicking.measured, clicking.auc) == (2, 1.0)
    assert clicking.worst > 3
    assert seam_scores(np.zeros(2 * rate, dtype=np.float32), rate, [1.0]) is None


def test_silence_is_left_out() -> None:
    speech = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    kept = without_silence(np.concatenate([np.zeros(32_000, dtype=np.float32), speech]))
    assert 16_000 <= len(kept) <= 16_000 + 7 * 480


def test_speaker_encoder_reads_resemblyzers_layout(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {**SpeakerEncoder().state_dict(), "similarity_weight": torch.ones(1)}
    (tmp_path / "assets").mkdir()
    path = tmp_path / "assets" / "speaker-encoder.pt"
    torch.save({"step": 1, "model_state": state}, path)
    encoder = SpeakerEncoder.load(tmp_path)
    samples, _ = soundfile.read(CLIP, dtype="float32")
    embedding = encoder.embed(samples)
    assert embedding.shape == (256,)
    assert np.linalg.norm(embedding) == pytest.approx(1, abs=1e-5)
    assert np.abs(encoder.embed(samples * 0.1) - embedding).max() < 1e-3
    torch.save({"model_state": {"lstm.weight_ih_l0": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match="isn't Resemblyzer"):
        SpeakerEncoder.load(tmp_path)


LOADERS = (
    SpeakerEncoder.load, naturalness_judge, recogniser, second_recogniser, phones_judge, second_naturalness_judge
)  # fmt: skip


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in ("faster_whisper", "moonshine_voice", "hama", "distillmos", "resemblyzer", "speechmos"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("menura.voices.assets._packaged", lambda place: None)
    monkeypatch.setenv("MENURA_HOME", str(tmp_path))


@pytest.mark.parametrize("load", LOADERS)
def test_missing_networks_say_what_to_install(load, tmp_path: Path, nothing_installed: None) -> None:
    with pytest.raises(AssetMissingError, match=r"pip install|put it"):
        load(tmp_path)


def test_a_stand_in_for_torchaudio_doesnt_stay(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package, model = types.ModuleType("distillmos.sqa"), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8, 1))
    package.ConvTransformerSQAModel = lambda: sys.stdout.write("loaded") and model  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "distillmos.sqa", package)
    monkeypatch.setitem(sys.modules, "distillmos", package)
    monkeypatch.delitem(sys.modules, "torchaudio", raising=False)
    assert isinstance(second_naturalness_judge(None)(np.ones(8, dtype=np.float32)), float)
    assert "torchaudio" not in sys.modules
    assert capsys.readouterr().out == ""


def test_a_buzz_at_the_frame_rate_is_told_from_noise_and_speech() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.1, 5 * 24_000)
    pattern = np.tile(rng.normal(0, 0.1, 240), 500)
    none, some, much = (buzz_db(noise + share * pattern, 24_000) for share in (0.0, 0.1, 1.0))
    assert none is not None
    assert some is not None
    assert much is not None
    assert abs(none) < 1
    assert none + 1 < some < much - 5
    speech, rate = soundfile.read(CLIP)
    assert abs(buzz_db(speech, rate) or 99) < 1.5
    assert buzz_db(noise[:40_000], 24_000) is None
    assert buzz_db(np.zeros(100_000), 24_000) == 0


def test_without_networks_pitch_is_still_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], nothing_installed: None
) -> None:
    assert run(["evaluate", str(CLIP), str(CLIP), "--target", str(CLIP), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    (recording,) = made["recordings"]
    assert recording["f0_correlation"] == pytest.approx(1)
    assert recording["f0_shift"] == 0
    assert recording["moved"] is recording["whisper"] is recording["distill_mos"] is None
    assert len(made["missing"]) == len(LOADERS)
    picture = tmp_path / "a picture.png"
    assert run(["evaluate", str(CLIP), str(CLIP), "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr()
    rows = {line[:30].strip(): line[30:].split() for line in out.out.splitlines()}
    assert rows["voicing agreement"] == ["100.0", "%"]
    assert rows["character errors, Whisper"] == rows["naturalness, DNSMOS"] == ["not", "measured"] * 2
    assert "-" not in out.out.split()
    assert out.err.count("not measured") == len(LOADERS)


def write(path: Path, seconds: float = 1.0, level: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = level * np.sin(2 * np.pi * 150 * np.arange(int(seconds * 16_000)) / 16_000)
    soundfile.write(path, samples, 16_000)
    return path


def unit(number: int) -> np.ndarray:
    return np.eye(256, dtype=np.float32)[number]


def loud(samples: np.ndarray) -> bool:
    """Stand-ins tell the source, at a level of 0.1, from the conversion, at 0.2 or more."""
    return float(np.abs(samples).max()) > 0.15


STAND_INS = Judges(
    whisper=lambda samples: "hello word" if loud(samples) else "hello world",
    moonshine=lambda samples: "hallo word" if loud(samples) else "hello world",
    phones=lambda samples: list("helo") if loud(samples) else list("halo"),
    speaker=lambda samples: unit(0) if loud(samples) else unit(1),
    dnsmos=lambda samples: {"signal": 3.0, "background": 4.0, "overall": 2.0 + loud(samples)},
    distill_mos=lambda samples: 10 * float(np.abs(samples).max()),
)


def test_words_count_against_the_text_or_what_was_heard(tmp_path: Path) -> None:
    source, converted = write(tmp_path / "a.wav"), write(tmp_path / "b.wav", level=0.3)
    target = Target(embedding=unit(0), self_similarity=0.9)
    heard = rate(Pair(name="a", source=source, converted=converted), STAND_INS, target=target).numbers
    assert (heard["whisper"], heard["moonshine"]) == (1 / 10, 2 / 10)
    assert heard["source_whisper"] is heard["source_moonshine"] is None
    assert heard["phones_changed"] == 1 / 4
    assert (heard["moved"], heard["self_similarity"]) == (pytest.approx(1 / 0.9), 0.9)
    assert (heard["dnsmos"], heard["source_dnsmos"], heard["dnsmos_background"]) == (3.0, 2.0, 4.0)
    said = rate(Pair(name="a", source=source, converted=converted, text="Hello, words!"), STAND_INS).numbers
    assert (said["source_whisper"], said["whisper"]) == (2 / 10, 1 / 10)
    assert "moved" not in said
    other = rate(Pair(name="a", source=source, converted=converted, english=False), STAND_INS).numbers
    assert other.keys().isdisjoint(("whisper", "moonshine", "phones_changed"))
    assert other["distill_mos"] == pytest.approx(3, abs=0.1)


def test_a_network_that_fails_costs_its_recording_only(tmp_path: Path) -> None:
    def fails(samples: np.ndarray) -> float:
        raise RuntimeError("Kernel size can't be greater than actual input size")

    pair = Pair(name="a", source=write(tmp_path / "a.wav"), converted=write(tmp_path / "b.wav"))
    told = rate_or_tell(pair, replace(STAND_INS, distill_mos=fails), None)
    assert told.error is not None
    assert "Kernel size" in told.error


def test_figures_for_people_have_no_minus_zero() -> None:
    figures = {figure.name: figure for figure in FIGURES}
    shown = [figures["f0_shift"].text(value) for value in (-0.04, 0.04, -0.0, -5.0, 7.0, None)]
    assert shown == ["0.0", "0.0", "0.0", "-5.0", "+7.0", "not measured"]
    assert [figures["whisper"].text(value) for value in (0.0, 0.0124)] == ["0.0 %", "1.2 %"]


def test_folders_are_matched_by_name(tmp_path: Path) -> None:
    source, converted = tmp_path / "talks", tmp_path / "talks" / "wren"
    for name in ("a.wav", "a.flac", "deep/b.v2.flac", "alone.wav", "notes/c.wav"):
        write(source / name)
    for name in ("a.wav", "a-flac.wav", "deep/b.v2.mp3", "other.wav"):
        write(converted / name)
    pairs, alone = pairs_in(source, converted, {"deep/b.v2.flac": "text"})
    found = {p.source.relative_to(source).as_posix(): p.converted.relative_to(converted).as_posix() for p in pairs}
    assert found == {"a.wav": "a.wav", "a.flac": "a-flac.wav", "deep/b.v2.flac": "deep/b.v2.mp3"}
    assert alone == ["alone.wav", "notes/c.wav"]
    assert [(pair.text, pair.english) for pair in pairs if pair.name == "deep/b.v2"] == [("text", True)]
    assert not any(pair.english for pair in pairs if pair.text is None)
    with pytest.raises(OptionError, match="no recording"):
        pairs_in(source / "notes", converted)


def test_starter_voices_say_what_they_should_sound_like(tmp_path: Path) -> None:
    wren, heron = (target_of_voice(find_voice(name, tmp_path)) for name in ("wren", "heron"))
    for target in (wren, heron):
        assert np.linalg.norm(target.embedding) == pytest.approx(1, abs=1e-3)
        assert target.self_similarity == pytest.approx(0.96, abs=0.02)
    assert wren.embedding @ heron.embedding < 0.7
    stranger = tmp_path / "stranger.safetensors"
    stranger.write_bytes(b"")
    for content in (None, "[]", '{"embedding": [1, 2], "self_similarity": 0.9}', '{"embedding": "x"}'):
        if content:
            (tmp_path / "speaker.json").write_text(content, encoding="ascii")
        with pytest.raises(OptionError, match=r"speaker\.json"):
            target_of_voice(find_voice(str(stranger), tmp_path))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(Judges, "load", staticmethod(lambda home: STAND_INS))
    source, converted = tmp_path / "s", tmp_path / "c"
    for name, level in ((EVIL, 0.9), ("b", 0.2), ("c", 0.3), ("d", 0.4), ("e", 0.5)):
        write(source / f"{name}.wav")
        write(converted / f"{name}.wav", level=level)
    (converted / "broken.wav").write_bytes(b"RIFF")
    write(source / "broken.wav")
    texts = [{"file": f"{EVIL}.wav", "text": "<b>hello</b>"}, {"file": "b.wav", "text": "hello word"},
             {"file": "c.wav", "text": "x", "language": "it"}]  # fmt: skip
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    return source, converted


EVIL = "<img src=x onerror=alert(1)>&'\"{{ 7*7 }}"


def test_a_folder_gives_one_report(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    asked = ["--voice", "wren", "--text", str(tmp_path / "texts.json"), "--report", str(page)]
    assert run(["evaluate", *map(str, folders), *asked]) == 0
    out = capsys.readouterr()
    assert "6 of 6" in out.err
    assert "broken.wav" in out.err
    document = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    summary, recordings = document["summary"], {row["name"]: row for row in document["recordings"]}
    assert (summary["recordings"], summary["recordings_with_text"]) == (5, 2)
    assert "broken.wav" in recordings["broken"]["error"]
    assert recordings["c"]["whisper"] is None
    # "<b>hello</b>" has 7 letters, "hello word" 9.
    rates = (character_error_rate("<b>hello</b>", "hello word"), 0.0)
    assert summary["whisper"] == pytest.approx(np.average(rates, weights=[7, 9]))
    assert (summary["distill_mos"], summary["worst_distill_mos"]) == (
        pytest.approx(4.6, abs=0.1),
        pytest.approx(2, abs=0.1),
    )
    text = page.read_text(encoding="utf-8")
    assert "<img" not in text
    assert "<b>hello" not in text
    assert "49" not in text.partition("<h3>")[2].partition("</h3>")[0]
    assert text.count("<audio") == 2 * text.count("<article>") > 0


def test_the_report_sorts_speaks_chinese_and_fetches_nothing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    page_path = tmp_path / "report.html"
    assert run(["evaluate", *map(str, folders), "--report", str(page_path)]) == 0
    with browser() as chromium, chromium.new_context(locale="zh-CN") as context:
        page, wrong = context.new_page(), list[str]()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text))
        context.on(
            "request", lambda sent: wrong.append(sent.url) if not sent.url.startswith(("file:", "data:")) else None
        )
        page.goto(page_path.as_uri())
        assert page.get_by_role("heading", level=1).inner_text() == "转换评估"
        assert "not measured" not in page.locator("dl").inner_text()  # no text was given, so the source has no errors
        page.get_by_role("button", name="English").click()
        assert page.get_by_role("heading", level=1).inner_text() == "Conversions, judged"
        page.get_by_role("button", name="Naturalness, Distill-MOS").click()
        names = page.locator("tbody th").all_inner_texts()
        assert names == ["b", "c", "d", "e", EVIL, "broken"]
        page.get_by_role("button", name="Naturalness, Distill-MOS").click()
        assert page.locator("tbody th").all_inner_texts() == [EVIL, "e", "d", "c", "b", "broken"]
        page.wait_for_function("[...document.querySelectorAll('audio')].every(sound => sound.duration > 0.9)")
        assert wrong == []


def test_what_doesnt_go_together_is_told(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, converted = map(str, folders)
    texts = tmp_path / "odd.json"
    texts.write_text('["a"]', encoding="ascii")
    report = str(tmp_path / "report.json")
    for given in (["--seam", "1"], ["--plot", "a.png"], ["--text", str(texts)], ["--report", report]):
        assert run(["evaluate", source, converted, *given]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert run(["evaluate", source, str(CLIP)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    texts = tmp_path / "texts.json"
    before = texts.read_bytes()
    assert run(["evaluate", source, converted, "--text", str(texts), "--report", str(texts.with_suffix(".html"))]) == 2
    assert "Choose another name" in capsys.readouterr().err
    assert texts.read_bytes() == before
