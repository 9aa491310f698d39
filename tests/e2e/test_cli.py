"""`menura convert` on real files, with the whole engine behind it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from menura import ConversionOptions, Converter, EngineOptions
from menura.audio.decode import open_audio
from menura.audio.encode import AudioWriter
from menura.audio.tags import Cover, Tags, read_tags
from menura.checkpoints.voice import load_voice, save_voice
from menura.cli.main import run
from menura.options import FORMATS
from menura.units import rescaled_length
from menura.voices.library import find_voice
from support.tiny import tiny_config
from support.voicefiles import write_voice

Run = Callable[..., tuple[int, str, str]]

STAGES = {"decode", "content", "f0", "retrieval", "synthesis", "assemble", "encode"}


@pytest.fixture
def menura(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process: exit code, standard output, standard error."""

    def menura(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        one_thread = ["--threads", "1"] if arguments[0] == "convert" else []  # so that busy machines are no slower
        code = run([*map(str, arguments), *one_thread])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return menura


def convert(menura: Run, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
    """Convert into the tiny voice with --json, expecting an exit code: the document."""
    got, out, err = menura("convert", "--voice", "tiny", *arguments, "--json")
    assert got == code, err
    document = json.loads(out)
    assert isinstance(document, dict)
    return document


def test_the_document_says_what_was_done(menura: Run, talk: Path) -> None:
    document = convert(menura, talk, "-o", "out.wav")
    assert set(document) == {"version", "files", "wall_s", "peak_memory_mb", "model_loads"}
    (file,) = document["files"]
    assert (file["input"], file["output"], file["state"], file["error"]) == ("talk.wav", "out.wav", "done", None)
    assert (file["output_samples"], file["output_rate"], file["audio_s"]) == (36_000, 24_000, 1.5)
    assert file["f0_method"] == "swift"
    assert set(file["stages"]) == STAGES
    assert 0 < sum(file["stages"].values()) <= file["wall_s"] <= document["wall_s"]
    assert file["real_time_factor"] == pytest.approx(file["wall_s"] / 1.5, rel=1e-3)
    assert file["seams_s"] == []
    assert document["peak_memory_mb"] > 50
    assert sorted(document["model_loads"].values()) == [1, 1, 1]
    samples, rate = soundfile.read("out.wav")
    assert (len(samples), rate) == (36_000, 24_000)
    assert np.isfinite(samples).all()
    assert 0 < np.abs(samples).max() <= 0.99


def test_python_and_the_command_line_give_equal_samples(menura: Run, talk: Path) -> None:
    convert(menura, talk, "-o", "out.wav", "--transpose", "5", "--seed", "3")
    Converter(EngineOptions(threads=1)).convert(
        talk, "python.wav", ConversionOptions(voice="tiny", transpose=5, seed=3)
    )
    assert Path("python.wav").read_bytes() == Path("out.wav").read_bytes()
    convert(menura, talk, "-o", "other.wav", "--transpose", "5", "--seed", "4")
    assert Path("other.wav").read_bytes() != Path("out.wav").read_bytes()


@pytest.mark.parametrize("name", ["o.wav", "o.flac", "o.ogg", "o.mp3", "o.opus", "o.m4a"])
def test_output_formats(menura: Run, talk: Path, name: str) -> None:
    (file,) = convert(menura, talk, "-o", name)["files"]
    assert (file["output_rate"], file["output_samples"]) == (24_000, 36_000)
    assert Path(name).stat().st_size > 1000
    if name != "o.m4a":
        assert soundfile.info(name).frames == 36_000


def test_tags_and_cover_go_from_input_to_output(menura: Run, talk: Path) -> None:
    x, rate = soundfile.read(talk, dtype="float32")
    tags = Tags(
        title="T", artist="A", album="B", track="3/12", date="2021-05-03", cover=Cover("image/jpeg", b"\xff" * 99)
    )
    with AudioWriter("in.mp3", rate, tags=tags) as writer:
        writer.write(x)
    for name in ("o.mp3", "o.flac"):
        convert(menura, "in.mp3", "-o", name)
        assert read_tags(Path(name)) == tags


def test_bitrate_and_bit_depth(menura: Run, talk: Path) -> None:
    for name, setting in (("o.mp3", ("--bitrate", "32")), ("p.mp3", ("--bitrate", "128"))):
        convert(menura, talk, "-o", name, *setting)
    assert Path("p.mp3").stat().st_size > 3 * Path("o.mp3").stat().st_size
    convert(menura, talk, "-o", "o.wav", "--bit-depth", "24")
    assert soundfile.info("o.wav").subtype == "PCM_24"


def test_sample_rate_is_really_resampled_and_codecs_get_what_they_have(menura: Run, talk: Path) -> None:
    (file,) = convert(menura, talk, "-o", "o.wav", "--sample-rate", "44100")["files"]
    assert (file["output_rate"], file["output_samples"]) == (44_100, 66_150)
    assert soundfile.info("o.wav").frames == 66_150
    (file,) = convert(menura, talk, "-o", "o.opus", "--sample-rate", "44100")["files"]
    assert file["output_rate"] == 48_000
    assert any("48000 Hz" in note for note in file["notes"])


def test_automatic_pitch(menura: Run, talk: Path, home: Path) -> None:
    code, _, err = menura("convert", talk, "-o", "out.wav", "--voice", "tiny", "--transpose", "auto")
    assert (code, err.count("\n")) == (2, 1)
    assert "--transpose: the pitch of voice 'tiny' is unknown" in err
    shutil.copytree(home / "voices" / "tiny", home / "voices" / "known")
    (home / "voices" / "known" / "card.json").write_text('{"f0_median_hz": 300}')
    code, out, _ = menura("convert", talk, "-o", "out.wav", "--voice", "known", "--transpose", "auto", "--json")
    (file,) = json.loads(out)["files"]
    assert code == 0
    assert file["transpose"] == 18  # the reader speaks at about 107 Hz
    assert file["notes"] == ["Pitch was moved by +18 semitones to the voice's."]
    convert(menura, talk, "-o", "given.wav", "--transpose", "18")
    assert Path("given.wav").read_bytes() == Path("out.wav").read_bytes()
    # By default a voice that tells its pitch gets it, but not where the pitch was given or a mode is compatible.
    assert convert(menura, talk, "-o", "same.wav")["files"][0]["transpose"] == 0
    known = ("--voice", "known")
    for arguments, semitones in (((), 18), (("--transpose", "0"), 0), (("--compat", "applio"), 0)):
        code, out, _ = menura("convert", talk, "-o", "default.wav", *known, *arguments, "--force", "--json")
        assert (code, json.loads(out)["files"][0]["transpose"]) == (0, semitones)


@pytest.mark.parametrize("format", FORMATS)
def test_less_than_a_sample(menura: Run, place: Path, format: str) -> None:
    """One sample at 192 kHz is an eighth of one at 24 kHz."""
    soundfile.write("short.wav", np.full(1, 0.1), 192_000)
    (file,) = convert(menura, "short.wav", "-o", f"o.{format}")["files"]
    least = 0 if format in ("wav", "ogg") else 1
    assert (file["state"], file["output_samples"]) == ("done", least)
    assert any("less than one sample" in note for note in file["notes"]) == bool(least)
    if format == "m4a":
        reader = open_audio(Path("o.m4a"))
        assert sum(len(block) for block in reader.blocks(1000)) == 1
    else:
        assert soundfile.info(f"o.{format}").frames == least


def test_explain_says_what_would_be_done_and_does_nothing(menura: Run, long_talk: Path) -> None:
    before = sorted(Path().iterdir())
    code, out, err = menura("convert", long_talk, "missing.wav", "--voice", "tiny", "--explain")
    assert (code, err) == (1, "")
    lines = out.splitlines()
    assert lines[0].startswith("long.flac: ")
    assert lines[0].endswith(" s, stream, 16 segments")
    assert "bounded memory" in lines[1]
    assert lines[-1] == "missing.wav: no such file."
    code, out, _ = menura("convert", long_talk, "--voice", "tiny", "--strategy", "whole", "--explain", "--json")
    (file,) = json.loads(out)["files"]
    assert (code, file["strategy"], file["segments"], file["refusal"]) == (0, "whole", 1, None)
    assert file["widest_frames"] > 20_000
    assert sorted(Path().iterdir()) == before


def test_a_folder_with_bad_files(menura: Run, talk: Path) -> None:
    samples, rate = soundfile.read(talk)
    for name in ("in/a.wav", "in/a.flac", "in/deep/b.ogg"):
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        soundfile.write(name, np.stack([samples, samples], axis=1), rate)
    Path("in/empty.wav").touch()
    Path("in/text.mp3").write_text("not audio at all, only words\n" * 50)
    Path("in/notes.txt").write_text("no recording")
    code, out, err = menura("convert", "in", "missing.wav", "-o", "out", "--voice", "tiny", "--json")
    assert code == 1
    states = {file["input"]: file["state"] for file in json.loads(out)["files"]}
    assert states == {
        "in/a.flac": "done",
        "in/a.wav": "done",
        "in/deep/b.ogg": "done",
        "in/empty.wav": "failed",
        "in/text.mp3": "failed",
        "missing.wav": "failed",
    }
    made = sorted(path.as_posix() for path in Path("out").rglob("*") if path.is_file())
    assert made == ["out/.menura-journal.jsonl", "out/a-flac.wav", "out/a.wav", "out/deep/b.wav"]
    lines = err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("menura: ") for line in lines)
    assert lines[-1] == "menura: 3 of 6 failed: in/text.mp3, in/empty.wav, missing.wav"


def test_a_pattern_and_its_lines(menura: Run, talk: Path) -> None:
    Path("b.wav").write_bytes(talk.read_bytes())
    code, out, err = menura("convert", "*.wav", "-o", "out", "--voice", "tiny", "--format", "flac", "--timings")
    assert (code, err) == (0, "1/2 b.wav\n2/2 talk.wav\n")
    lines = out.splitlines()
    assert lines[0].startswith("out/b.flac  1.50 s at 24000 Hz, ")
    assert lines[2].startswith("2 of 2 converted, 0:03 of sound in 0:")
    assert lines[3].split()[:3] == ["seconds", "by", "stage"]
    assert [line.split()[0] for line in lines[4:7]] == ["b.wav", "talk.wav", "total"]
    assert lines[7].startswith("peak memory ")
    code, out, err = menura("convert", "*.wav", "-o", "out", "--voice", "tiny", "--quiet")
    assert (code, out, err) == (0, "", "")


def test_where_output_goes(menura: Run, talk: Path) -> None:
    assert convert(menura, talk)["files"][0]["output"] == "talk.tiny.wav"
    Path("there").mkdir()
    assert convert(menura, talk, "-o", "there")["files"][0]["output"] == "there/talk.wav"
    assert convert(menura, talk, "-o", "new/", "--format", "ogg")["files"][0]["output"] == "new/talk.ogg"
    assert convert(menura, talk, "-o", "deep/er/x.wav")["files"][0]["output"] == "deep/er/x.wav"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["talk.wav", "-o", "."], "would overwrite the recording"),
        (["talk.wav", "-o", "out.xyz"], "'.xyz'"),
        (["talk.wav", "-o", "out.wav", "--format", "mp3"], "--format"),
        (["talk.wav", "talk2.wav"], "Did you mean -o talk2.wav?"),
        (["talk.wav", "x.wav", "-o", "-"], "Add -o FOLDER."),
        (["talk.wav", "-o", "-", "--json"], "standard output"),
        (["talk.wav", "--device", "gpu9"], "gpu9"),
        (["talk.wav", "-o", "x.mp3", "--bit-depth", "24"], "--bit-depth: mp3 has no bit depth."),
        (["talk.wav", "--bitrate", "128"], "--bitrate: wav has no bitrate."),
        (["talk.wav", "-o", "/dev/null", "--format", "wav"], "/dev/null: is a device"),
        (["talk.wav", "--speaker-id", "3"], "--speaker-id"),
    ],
)
def test_wrong_usage(menura: Run, talk: Path, arguments: list[str], said: str) -> None:
    before = sorted(Path().iterdir())
    code, out, err = menura("convert", "--voice", "tiny", *arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert sorted(Path().iterdir()) == before


def write_header_only(path: Path) -> None:
    soundfile.write(path, np.zeros(0, dtype=np.float32), 16_000)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("missing.wav", lambda path: None),
        ("empty.wav", lambda path: path.touch()),
        ("text.wav", lambda path: path.write_text("only words " * 100)),
        ("header.wav", write_header_only),
        ("folder.wav", lambda path: path.mkdir()),
    ],
)
def test_bad_recordings(menura: Run, place: Path, name: str, make: Callable[[Path], object]) -> None:
    make(Path(name))
    code, out, err = menura("convert", name, "-o", "out/", "--voice", "tiny")
    assert (code, out) == (1, "")
    assert err.startswith("menura: ")
    assert name in err
    assert err.count("\n") == 1
    assert not Path("out").exists() or not list(Path("out").iterdir())


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def write_torch(path: Path, content: object) -> None:
    import torch

    torch.save(content, path)


@pytest.mark.parametrize(
    ("voice", "make", "said"),
    [
        ("tinny", lambda path: None, "Did you mean 'tiny'?"),
        ("missing.pth", lambda path: None, "no such voice file"),
        ("empty.pth", lambda path: path.touch(), "empty"),
        ("text.pth", lambda path: path.write_text("words"), "not a torch file"),
        ("other.pth", lambda path: write_torch(path, {"model": {}}), "not a voice"),
        ("harmful.pth", lambda path: write_torch(path, {"weight": Harmful(), "config": []}), "more than weights"),
    ],
)
def test_bad_voices(menura: Run, talk: Path, voice: str, make: Callable[[Path], object], said: str) -> None:
    make(Path(voice))
    code, out, err = menura("convert", talk, "-o", "out.wav", "--voice", voice, "--json")
    assert code == 1
    assert said in err
    assert err.count("\n") == 1
    (file,) = json.loads(out)["files"]
    assert file["state"] == "failed"
    assert said in " ".join(map(str, file["error"].values()))
    assert not Path("out.wav").exists()
    assert not Path("ran").exists()


@pytest.mark.parametrize("length", [1, 2, 441, 16_000])
def test_silence_of_any_length(menura: Run, place: Path, length: int) -> None:
    soundfile.write("quiet.wav", np.zeros(length, dtype=np.float32), 44_100)
    (file,) = convert(menura, "quiet.wav", "-o", "out.wav")["files"]
    expected = rescaled_length(length, 44_100, 24_000)
    assert file["output_samples"] == expected
    assert soundfile.info("out.wav").frames == expected
    assert any("silent" in note for note in file["notes"])


def test_a_cut_off_recording_converts_as_far_as_it_goes(menura: Run, talk: Path) -> None:
    samples, rate = soundfile.read(talk)
    soundfile.write("whole.flac", np.tile(samples, 4), rate)
    content = Path("whole.flac").read_bytes()
    Path("cut.flac").write_bytes(content[: len(content) // 2])
    code, out, err = menura("convert", "cut.flac", "-o", "out.wav", "--voice", "tiny", "--json")
    assert code == 1
    (file,) = json.loads(out)["files"]
    assert file["state"] == "warning"
    assert 1 < file["audio_s"] < 5
    assert file["output_samples"] == soundfile.info("out.wav").frames
    assert err.startswith("menura: warning: ")
    assert err.count("\n") == 1


def test_given_f0_is_used(menura: Run, talk: Path) -> None:
    Path("f0.csv").write_text("".join(f"{i / 100:.2f},{220 if i > 20 else 0}\n" for i in range(150)))
    (file,) = convert(menura, talk, "-o", "given.wav", "--f0-file", "f0.csv")["files"]
    assert file["f0_method"] == "file"
    convert(menura, talk, "-o", "estimated.wav")
    assert Path("given.wav").read_bytes() != Path("estimated.wav").read_bytes()
    Path("bad.csv").write_text("here,there\n")
    code, _, err = menura("convert", talk, "-o", "x.wav", "--voice", "tiny", "--f0-file", "bad.csv")
    assert code in (1, 2)
    assert "bad.csv" in err
    assert not Path("x.wav").exists()


def test_doctor(menura: Run, place: Path, home: Path) -> None:
    code, out, err = menura("doctor")
    assert (code, err) == (0, "")
    for wanted in ("torch", "libsndfile", "contentvec", "tiny", "threads", str(home)):
        assert wanted in out
    code, out, _ = menura("doctor", "--json")
    findings = json.loads(out)
    assert code == 0
    assert findings["device"]["auto"] in ("cpu", "cuda", "mps")
    assert findings["folders"]["data"]["path"] == str(home)
    assert "m4a" in findings["formats"]["write"].split()
    assert {voice["name"] for voice in findings["voices"]} >= {"tiny"}


def test_voices_and_assets(menura: Run, talk: Path, home: Path) -> None:
    tiny = home / "voices" / "tiny" / "voice.safetensors"
    assert menura("voices", "import", tiny, "--name", "second")[0] == 0
    voices = json.loads(menura("voices", "list", "--json")[1])
    assert {"name": "second", "builtin": False, "source": "voice.safetensors"} in voices
    facts = json.loads(menura("voices", "info", "second", "--json")[1])
    assert (facts["sample_rate"], facts["content_encoder"], facts["speakers"]) == (24_000, "menura-starter", 3)
    assert "sample rate" in menura("voices", "info", "second")[1]
    assert convert(menura, talk, "-o", "x.wav", "--voice", "second")["files"][0]["state"] == "done"
    assert menura("voices", "import", tiny, "--name", "second")[0] == 2
    Path("bad.index").write_bytes(b"no index")
    code, _, err = menura("voices", "import", tiny, "--name", "third", "--index", "bad.index")
    assert code == 1
    assert err.startswith("menura: bad.index: ")
    assert menura("voices", "blend", "tiny:1", "second:3", "--name", "both")[0] == 0
    code, _, err = menura("voices", "blend", "tiny:1", "second", "--name", "other")
    assert (code, err) == (2, "menura: second: says no share. Write VOICE:SHARE, such as wren:0.7.\n")
    assert convert(menura, talk, "-o", "x.wav", "--voice", "both")["files"][0]["state"] == "done"
    assert menura("voices", "rename", "both", "blended")[0:2] == (0, "'both' is now 'blended'\n")
    taken = "menura: a voice named 'tiny' exists already. Give another name, or remove it first.\n"
    assert menura("voices", "rename", "blended", "tiny")[::2] == (2, taken)
    assert menura("voices", "rename", "nobody", "else")[2].startswith("menura: voice 'nobody' is not known. ")
    assert menura("voices", "remove", "blended")[0] == 0
    assert menura("voices", "remove", "second")[0] == 0
    assert menura("voices", "remove", "second")[0] == 1
    assets = json.loads(menura("assets", "list", "--json")[1])
    assert {asset["name"] for asset in assets} >= {"contentvec", "rmvpe", "fcpe"}
    assert all(asset["found"] or asset["missing"] for asset in assets)
    assert "rmvpe" in menura("assets", "list")[1]


def test_speakers_by_name(menura: Run, talk: Path, home: Path) -> None:
    config = dataclasses.replace(tiny_config(rates=(10, 6, 2, 2)), content_dim=384, content_encoder="menura-starter")
    write_voice(home / "voices" / "choir" / "voice.safetensors", config, scale=0.5)
    card = home / "voices" / "choir" / "card.json"
    card.write_text('{"speakers": ["Anna", "bert", "BERT"]}')
    assert json.loads(menura("voices", "info", "choir", "--json")[1])["speaker_names"] == ["Anna", "bert", "BERT"]
    made = []
    for number, name in ((0, "anna"), (1, "bert"), (2, "BERT")):
        for speaker in (str(number), name):
            code, _, err = menura("convert", talk, "-o", "o.wav", "--voice", "choir", "--speaker-id", speaker)
            assert code == 0, err
            made.append(Path("o.wav").read_bytes())
        assert made[-2] == made[-1]
    assert made[0] != made[2] != made[4]
    for name, said in (
        ("carl", "no speaker named 'carl'. Use a --speaker-id up to 2, or one of these names: Anna"),
        ("Bert", "several speakers named 'Bert'"),
    ):
        code, _, err = menura("convert", talk, "-o", "o.wav", "--voice", "choir", "--speaker-id", name)
        assert (code, said in err) == (2, True), err
    card.unlink()
    code, _, err = menura("convert", talk, "-o", "o.wav", "--voice", "choir", "--speaker-id", "anna")
    assert (code, "the voice names none" in err) == (2, True), err
    shutil.rmtree(home / "voices" / "choir")


def test_voices_of_a_folder_and_weights_of_another_program(menura: Run, talk: Path, home: Path) -> None:
    models = Path("models")
    models.mkdir()
    for name in ("singer_100e_200s", "singer_200e_400s", "bird"):
        shutil.copy(home / "voices" / "tiny" / "voice.safetensors", models / f"{name}.safetensors")
    code, out, _ = menura("voices", "import", models)
    assert (code, out.count("installed '")) == (0, 2)
    code, out, _ = menura("voices", "import", models, "--all")
    assert (code, out.count("installed '"), out.count("exists already")) == (0, 1, 2)
    (models / "damaged.pth").write_bytes(b"no voice")
    code, _, err = menura("voices", "import", models)
    assert (code, err.count("menura: "), err.count("damaged.pth")) == (1, 1, 1)
    code, _, err = menura("assets", "import", talk.parent)
    assert code == 2
    assert "Applio" in err
    assert "put it at" in menura("assets", "list", "--all")[1]
    assert "put it at" not in menura("assets", "list")[1]


def test_the_index_beside_a_voice_is_told_if_it_is_used(menura: Run, talk: Path) -> None:
    import faiss

    save_voice(Path("own.safetensors"), load_voice(find_voice("wren", Path.cwd()).path))
    index = faiss.index_factory(384, "IVF1,Flat")
    vectors = np.random.default_rng(1).standard_normal((50, 384)).astype(np.float32)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, "added_IVF1_Flat_nprobe_1_own_v2.index")
    plain = convert(menura, talk, "-o", "x.wav", "--voice", "own.safetensors")
    assert not any(name.startswith("index") for name in plain["model_loads"])
    assert not any(".index" in note for note in plain["files"][0]["notes"])
    given = ("--voice", "own.safetensors", "--index", "added_IVF1_Flat_nprobe_1_own_v2.index")
    assert "isn't used" in "".join(convert(menura, talk, "-o", "y.wav", *given)["files"][0]["notes"])
    assert Path("x.wav").read_bytes() == Path("y.wav").read_bytes()
    found = convert(menura, talk, "-o", "z.wav", "--voice", "own.safetensors", "--index-rate", "0.75")
    assert Path("z.wav").read_bytes() != Path("x.wav").read_bytes()
    Path("talks").mkdir()
    shutil.copy(talk, "talks/talk.wav")
    for rate, resumed in ((), False), (("--index-rate", "0"), True), (("--index-rate", "0.75"), False):
        again = convert(menura, "talks", "-o", "out", "--voice", "own.safetensors", *rate)
        assert [file["resumed"] for file in again["files"]] == [resumed]
    (file,) = found["files"]
    assert any(name.startswith("index") for name in found["model_loads"])
    assert any("added_IVF1_Flat_nprobe_1_own_v2.index" in note for note in file["notes"])
