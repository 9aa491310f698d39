"""A request is resolved from options once; its identity is what it uses, and nothing else."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from menura.errors import AssetMissingError, IndexFileError, MenuraError, OptionError, VoiceNotFoundError
from menura.loading import Request, resolve
from menura.options import ConversionOptions
from support.tiny import tiny_config, tiny_request
from support.voicefiles import write_voice

ENCODER_FILES = ("config.json", "pytorch_model.bin")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """One voice, for which the content encoder `fake` is installed."""
    home = tmp_path / "home"
    write_voice(home / "voices" / "tiny" / "voice.safetensors", tiny_config())
    install(home, "fake")
    return home


def install(home: Path, asset: str, files: tuple[str, ...] = ENCODER_FILES) -> None:
    for name in files:
        path = home / "assets" / asset / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"weights")


def request(home: Path, **options: object) -> Request:
    return resolve(ConversionOptions(**{"voice": "tiny", "f0": "swift", **options}), home)  # type: ignore[arg-type]


def test_a_request_is_its_options_and_files(home: Path, tmp_path: Path) -> None:
    plain = request(home).identity
    assert request(home).identity == plain
    assert request(home, transpose=1.0).identity != plain
    assert request(home, format="flac").identity != plain
    curve, index = tmp_path / "f0.csv", tmp_path / "i.index"
    curve.write_text("0,100\n")
    index.write_bytes(b"index")
    with_curve = request(home, f0_file=curve).identity
    assert with_curve != plain
    curve.write_text("0,1000\n")
    assert request(home, f0_file=curve).identity != with_curve
    assert request(home, index=index).identity != plain
    assert request(home, index=index, index_rate=0.0).identity == request(home, index_rate=0.0).identity == plain
    os.utime(home / "voices" / "tiny" / "voice.safetensors", (1, 1))
    assert request(home).identity != plain


@pytest.mark.parametrize("compat", ["menura", "applio", "rvc"])
@pytest.mark.parametrize(("encoder", "width", "usual"), [("menura-starter", 384, 0.0), ("fake", 768, 0.75)])
def test_the_index_rate_is_the_voices_unless_it_is_asked_for(
    home: Path, encoder: str, width: int, usual: float, compat: str
) -> None:
    config = dataclasses.replace(tiny_config(), content_encoder=encoder, content_dim=width)
    write_voice(home / "voices" / "own" / "voice.safetensors", config)
    index = home / "voices" / "own" / "own.index"
    index.write_bytes(b"index")
    left_open, none, some = (request(home, voice="own", compat=compat, index_rate=r) for r in (None, 0.0, 0.3))
    assert (left_open.index_rate, left_open.index_path) == (usual, index if usual else None)
    assert (none.index_rate, none.index_path, some.index_rate, some.index_path) == (0, None, 0.3, index)
    assert left_open.identity == request(home, voice="own", compat=compat, index_rate=usual).identity
    assert len({each.identity for each in (left_open, none, some)}) == (3 if usual else 2)
    spans = "start,end,voice,options\n0,1,own,\n1,2,tiny,\n2,3,own,index_rate=0.5\n"
    roles = request(home, spans=spans).roles
    assert [role.request.index_rate for role in roles] == [usual, 0.75, 0.5]


def test_that_an_index_asked_for_goes_unused_is_told(home: Path) -> None:
    config = dataclasses.replace(tiny_config(), content_encoder="menura-starter", content_dim=384)
    write_voice(home / "voices" / "own" / "voice.safetensors", config)
    index = home / "some.index"
    index.write_bytes(b"index")
    assert ["isn't used" in note for note in request(home, voice="own", index=index).notes] == [True]
    for given in ({"voice": "own"}, {"voice": "own", "index": index, "index_rate": 0}, {"index": index}):
        assert request(home, **given).notes == ()


def test_what_a_request_does_not_use_is_no_part_of_it(home: Path, tmp_path: Path) -> None:
    plain = request(home).identity
    install(home, "whisper", ("model.bin", "config.json", "tokenizer.json", "vocabulary.txt"))
    install(home, "contentvec")
    (home / "assets" / "rmvpe.pt").write_bytes(b"weights")
    write_voice(home / "voices" / "other" / "voice.safetensors", tiny_config())
    assert request(home).identity == plain
    assert request(home, strategy="stream").identity == plain
    install(home, "fake", ("config.json", "pytorch_model.bin"))
    os.utime(home / "assets" / "fake" / "config.json", (10**9, 10**9 + 10**8))
    assert request(home).identity != plain


def test_f0_that_is_chosen_automatically_is_part_of_it(home: Path) -> None:
    before = request(home, f0="auto")
    (home / "assets" / "rmvpe.pt").write_bytes(b"weights")
    after = request(home, f0="auto")
    assert (before.f0_method, after.f0_method) == ("swift", "rmvpe")
    assert before.identity != after.identity


def test_the_voices_pitch_counts_where_it_decides_the_shift(home: Path) -> None:
    given, automatic = request(home, transpose=2.0).identity, request(home).identity
    (home / "voices" / "tiny" / "card.json").write_text('{"f0_median_hz": 220}')
    assert request(home).transpose == "auto"
    assert request(home).identity != automatic
    assert request(home, transpose=2.0).identity == given
    assert request(home, compat="rvc").transpose == 0


def test_given_f0_is_not_moved_by_itself() -> None:
    assert tiny_request(median_hz=220.0).transpose == "auto"
    assert tiny_request(median_hz=220.0, f0_hz=np.zeros(3, dtype=np.float32)).transpose == 0
    assert tiny_request(median_hz=220.0, has_f0=False).transpose == 0


def test_it_travels_between_processes(home: Path, tmp_path: Path) -> None:
    curve = tmp_path / "f0.csv"
    curve.write_text("0,100\n0.01,110\n")
    made = request(home, f0_file=curve)
    curve.unlink()
    arrived = pickle.loads(pickle.dumps(made))
    assert arrived == made
    assert arrived.identity == made.identity
    np.testing.assert_array_equal(arrived.f0_hz, [100, 110])


@pytest.mark.parametrize(
    ("options", "kind", "option"),
    [
        ({"voice": "tinny"}, VoiceNotFoundError, None),
        ({"f0": "rmvpe"}, AssetMissingError, None),
        ({"f0_file": Path("none.csv")}, OptionError, None),
        ({"index": Path("none.index")}, IndexFileError, "index"),
        ({"speaker_id": 3}, OptionError, "speaker_id"),
        ({"transpose": "auto"}, OptionError, "transpose"),
    ],
)
def test_what_cannot_be_resolved_is_told_at_once(
    home: Path, options: dict[str, object], kind: type[MenuraError], option: str | None
) -> None:
    with pytest.raises(kind) as caught:
        request(home, **options)
    if option:
        assert caught.value.option == option


def test_a_missing_content_encoder_is_told_at_once(home: Path) -> None:
    (home / "assets" / "fake" / "config.json").unlink()
    with pytest.raises(AssetMissingError):
        request(home)


def test_resolving_builds_no_network(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys\n"
        "from menura.loading import resolve\n"
        "from menura.options import ConversionOptions\n"
        f"request = resolve(ConversionOptions(), pathlib.Path({str(tmp_path)!r}))\n"
        "assert request.config.sample_rate == 24_000, request\n"
        "assert 'menura.loading.loader' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not list(tmp_path.iterdir())
