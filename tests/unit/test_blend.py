"""Voices blended of others: weights, index, card, and what doesn't match."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from menura.checkpoints.voice import LoadedVoice, VoiceMetadata, load_voice, save_voice
from menura.errors import IndexFileError, MenuraError, OptionError, VoiceExistsError
from menura.models.config import SynthesizerConfig
from menura.models.weights import folded
from menura.retrieval.faiss_index import FaissIndex
from menura.voices import blend as blending
from menura.voices.blend import Part, blend_voices
from menura.voices.library import find_voice, list_voices
from support.full_size import make_index
from support.tiny import tiny_config
from support.voicefiles import write_voice

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Installs a voice of weights from a seed, with its index if vectors are given."""

    def make(
        name: str,
        seed: int,
        config: SynthesizerConfig | None = None,
        *,
        vectors: np.ndarray | None = None,
        dtype: str = "float16",
        **card: object,
    ) -> Path:
        folder = tmp_path / "voices" / name
        voice = load_voice(write_voice(tmp_path / f"{name}.pth", config))
        generator = torch.Generator().manual_seed(seed)
        state = {key: torch.randn(tensor.shape, generator=generator) for key, tensor in voice.state.items()}
        metadata = VoiceMetadata(licence="of its file", speaker_names=("a", "b", "c"))
        folder.mkdir(parents=True)
        voice = LoadedVoice(config=voice.config, state=state, metadata=metadata)
        save_voice(folder / "voice.safetensors", voice, dtype=dtype)
        if card:
            (folder / "card.json").write_text(json.dumps(card))
        if vectors is not None:
            index = faiss.IndexFlatL2(vectors.shape[1])
            index.add(vectors.astype(np.float32))
            faiss.write_index(index, str(folder / f"{name}.index"))
        return tmp_path

    return make


def blended(home: Path, name: str = "new", **shares: float) -> LoadedVoice:
    parts = [Part(voice=find_voice(voice, home), share=share) for voice, share in shares.items()]
    return load_voice(blend_voices(parts, name, home).path)


def test_weights_are_the_weighted_mean_of_those_that_are_used(make: Make) -> None:
    make("one", 1, dtype="float32"), make("two", 2, dtype="float32")
    home = make("three", 3, dtype="float32")
    new = folded(blended(home, one=1, two=2, three=5).state)
    parents = [folded(load_voice(find_voice(name, home).path).state) for name in ("one", "two", "three")]
    for key, weight in new.items():
        expected = sum(share / 8 * parent[key] for share, parent in zip((1, 2, 5), parents, strict=True))
        torch.testing.assert_close(weight, expected, atol=1e-6, rtol=1e-5)


def test_a_voice_and_its_copy_give_the_voice_in_its_own_precision(make: Make) -> None:
    make("one", 1)
    home = make("copy", 1)
    new = blended(home, one=0.3, copy=0.7)
    size = (home / "voices" / "one" / "voice.safetensors").stat().st_size
    assert find_voice("new", home).path.stat().st_size == pytest.approx(size, rel=0.02)
    own = folded(load_voice(find_voice("one", home).path).state)
    for key, weight in folded(new.state).items():
        torch.testing.assert_close(weight, own[key], atol=2e-3, rtol=2e-3)


def test_the_speakers_that_all_have(make: Make) -> None:
    make("many", 1, tiny_config(n_speakers=7))
    home = make("few", 2, tiny_config(n_speakers=2))
    new = blended(home, many=1, few=1)
    assert (new.config.n_speakers, len(new.state["emb_g.weight"])) == (2, 2)
    assert new.metadata.speaker_names == ("a", "b")


def test_the_card_names_the_parents_and_their_rights(make: Make) -> None:
    make("wide", 1, licence="CC0-1.0", source="me", f0_median_hz=100, f0_range_hz=[80, 150])
    home = make("deep", 2, rights="with her consent", f0_median_hz=400, f0_range_hz=[320, 600])
    new = blended(home, wide=1, deep=1)
    entry = find_voice("new", home)
    card = json.loads((entry.path.parent / "card.json").read_text())
    assert card["source"] == "blend of wide 50%, deep 50%"
    assert card["parents"] == [
        {"name": "wide", "share": 0.5, "source": "me", "rights": "CC0-1.0"},
        {"name": "deep", "share": 0.5, "source": "voice.safetensors", "rights": "with her consent"},
    ]
    assert card["rights"] == new.metadata.licence == "wide: CC0-1.0; deep: with her consent"
    assert entry.f0_median_hz == 200
    assert entry.f0_range_hz == (160, 300)
    # One that says nothing of itself, and a parent whose pitch isn't known.
    make("silent", 3)
    assert "silent: of its file" in blended(home, "newer", new=1, silent=2).metadata.licence
    newer = find_voice("newer", home)
    assert (newer.f0_median_hz, newer.f0_range_hz) == (None, None)


def test_the_index_has_vectors_of_each_in_proportion(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    make("one", 1, vectors=random.uniform(1, 2, (600, 8)))
    home = make("two", 2, vectors=random.uniform(-2, -1, (100, 8)))

    def counts(name: str) -> tuple[int, int]:
        path = find_voice(name, home).index_path
        assert path is not None
        vectors = FaissIndex.load(path).cells().vectors
        assert len({row.tobytes() for row in vectors}) == len(vectors)
        return int((vectors[:, 0] > 0).sum()), int((vectors[:, 0] < 0).sum())

    blended(home, "first", one=0.8, two=0.2)
    assert counts("first") == (400, 100)
    blended(home, "second", one=0.2, two=0.8)
    assert counts("second") == (25, 100)
    monkeypatch.setattr(blending, "MOST_VECTORS", 50)
    blended(home, "third", one=0.8, two=0.2)
    assert counts("third") == (40, 10)
    make("none", 3)
    blended(home, "fourth", one=0.8, none=0.2)
    assert find_voice("fourth", home).index_path is None


def test_indexes_of_other_content(make: Make) -> None:
    make("one", 1, vectors=np.ones((40, 8)))
    home = make("two", 2)
    make_index(home, 64, 9).rename(home / "voices" / "two" / "two.index")
    with pytest.raises(IndexFileError, match="9 dimensions"):
        blended(home, one=1, two=1)
    assert [voice.name for voice in list_voices(home) if not voice.builtin] == ["one", "two"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"content_encoder": "spin"}, "content encoder fake and spin"),
        ({"has_f0": False}, "has f0 True and False"),
        ({"hidden_channels": 16}, "hidden channels 8 and 16"),
        ({"vocoder": "MRF HiFi-GAN"}, "vocoder HiFi-GAN and MRF HiFi-GAN"),
        (
            {"sample_rate": 8000, "upsample_rates": (5, 4, 2, 2), "upsample_kernel_sizes": (11, 8, 4, 4)},
            r"upsample rates \(5, 2, 2, 2\) and \(5, 4, 2, 2\), .* sample rate 4000 and 8000",
        ),
    ],
)
def test_what_does_not_match_is_told(change: dict[str, object], said: str, make: Make) -> None:
    make("one", 1)
    home = make("two", 2, dataclasses.replace(tiny_config(), **change))
    with pytest.raises(OptionError, match=rf"'one' and 'two' don't match: {said}"):
        blended(home, one=1, two=1)
    assert not (home / "voices" / "new").exists()


@pytest.mark.parametrize("share", [0, -1, float("nan"), float("inf"), 1e308, 1e-300])
def test_shares_that_are_none(share: float, make: Make) -> None:
    make("one", 1)
    home = make("two", 2)
    with pytest.raises(OptionError, match="is no share"):
        blended(home, one=1, two=share)


def test_names_and_numbers_of_voices(make: Make, tmp_path: Path) -> None:
    make("one", 1)
    home = make("two", 2)
    with pytest.raises(OptionError, match="2 to 16 voices, not 1"):
        blended(home, one=1)
    with pytest.raises(VoiceExistsError):
        blended(home, "two", one=1, two=1)
    with pytest.raises(OptionError, match="can't be a voice's name"):
        blended(home, "../x", one=1, two=1)
    one = find_voice("one", home)
    with pytest.raises(OptionError, match="named twice"):
        blend_voices([Part(voice=one, share=1), Part(voice=find_voice(str(one.path), home), share=1)], "new", home)
    damaged = home / "voices" / "two" / "voice.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(MenuraError, match="cut off"):
        blended(home, one=1, two=1)
    assert sorted(path.name for path in (home / "voices").iterdir()) == ["one", "two"]
