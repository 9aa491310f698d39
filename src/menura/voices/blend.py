"""New voices from several: their weights and their indexes, in proportion. Loads no torch until it is asked to."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from menura.errors import OptionError
from menura.system.files import temporary_folder, writing
from menura.voices.library import (
    CARD_NAME,
    TEMPORARY,
    ImportRequest,
    VoiceEntry,
    card_of,
    free_name,
    import_voices,
    rights_of,
)

if TYPE_CHECKING:
    from menura.checkpoints.voice import LoadedVoice, VoiceMetadata
    from menura.models.config import SynthesizerConfig

MOST_VOICES = 16
MOST_VECTORS = 50_000
"""Of a blended index: what a quarter of an hour of speech gives, and what one thread sorts within half a minute."""
_UNHEARD = ("n_speakers", "segment_size_frames", "spec_channels", "p_dropout")
"""What may differ: the speakers that all have are blended, the rest serves training only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A voice, and how much of it goes into a blend; shares are relative to each other."""

    voice: VoiceEntry
    share: float


def blend_voices(parts: Sequence[Part], name: str, home: Path) -> VoiceEntry:
    """Install a voice whose weights are the weighted mean of others', with an index if they all have one.

    Its index has vectors of each of theirs, drawn in proportion to the shares; its card names them and their rights.

    Raises:
        OptionError: fewer than two voices, a share that is none, voices that don't match, or a name that is taken.
        MenuraError: a voice or an index can't be read, or the new one not written.
    """
    free_name(name, home)
    parts = _checked(parts)
    config = _common_config(parts)
    voice, card = _blended(parts, config, name)
    indexes = [part.voice.index_path for part in parts if part.voice.index_path is not None]
    index = _blended_index(indexes, [part.share for part in parts]) if len(indexes) == len(parts) else None
    return _installed(voice, index, card, home)


def _checked(parts: Sequence[Part]) -> list[Part]:
    """With shares whose sum is 1."""
    if not 2 <= len(parts) <= MOST_VOICES:
        raise OptionError(None, f"a blend takes 2 to {MOST_VOICES} voices, not {len(parts)}")
    for part in parts:
        if not 1e-6 <= part.share <= 1e6:  # nothing over- or underflows
            raise OptionError(part.voice.name, f"{part.share:g} is no share", "Use a number such as 0.7")
    if len({part.voice.path.resolve() for part in parts}) < len(parts):
        raise OptionError(None, "a voice is named twice", "Add up its shares")
    total = sum(part.share for part in parts)
    return [replace(part, share=part.share / total) for part in parts]


def _common_config(parts: Sequence[Part]) -> SynthesizerConfig:
    from menura.checkpoints.voice import read_config

    first, *others = configs = [read_config(part.voice.path) for part in parts]
    names = [field.name for field in fields_of(first) if field.name not in _UNHEARD]
    for part, other in zip(parts[1:], others, strict=True):
        differing = [name for name in names if getattr(first, name) != getattr(other, name)]
        if differing:
            told = (f"{n.replace('_', ' ')} {getattr(first, n)} and {getattr(other, n)}" for n in differing[:4])
            problem = f"'{parts[0].voice.name}' and '{part.voice.name}' don't match: {', '.join(told)}"
            raise OptionError(None, problem, "Blend voices of one architecture")
    return replace(first, n_speakers=min(config.n_speakers for config in configs))


def _blended(parts: Sequence[Part], config: SynthesizerConfig, name: str) -> tuple[LoadedVoice, dict[str, object]]:
    """The voice and its card. Weights are blended as they are used, with their norms multiplied in."""
    from menura.checkpoints.voice import VoiceMetadata, checked_voice, fits_half, load_voice
    from menura.models.weights import State, folded

    state: State = {}
    stored: list[VoiceMetadata] = []
    halves = True
    for part in parts:
        voice = load_voice(part.voice.path)
        stored.append(voice.metadata)
        halves &= fits_half(voice.state)
        for key, weight in folded(voice.state).items():
            mine = part.share * (weight[: config.n_speakers] if key == "emb_g.weight" else weight)
            state[key] = state[key] + mine if key in state else mine
    card = _card(parts, stored, name)
    speakers = {voice.speaker_names[: config.n_speakers] for voice in stored}
    metadata = VoiceMetadata(
        name=name,
        info=str(card["source"]),
        creation_date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        licence=str(card["rights"]),
        speaker_names=speakers.pop() if len(speakers) == 1 else (),
    )
    blend = checked_voice(Path(name), config, state, metadata)
    if halves:  # as RVC stores voices; the sums of such weights would take twice the room
        blend = replace(blend, state={key: weight.half().float() for key, weight in blend.state.items()})
    return blend, card


def _card(parts: Sequence[Part], stored: Sequence[VoiceMetadata], name: str) -> dict[str, object]:
    parents = [
        {
            "name": part.voice.name,
            "share": round(part.share, 4),
            "source": part.voice.source,
            "rights": rights_of(part.voice) or metadata.licence or metadata.source or "not stated",
        }
        for part, metadata in zip(parts, stored, strict=True)
    ]
    card: dict[str, object] = {
        "name": name,
        "source": "blend of " + ", ".join(f"{p['name']} {p['share']:.0%}" for p in parents),
        "rights": "; ".join(f"{p['name']}: {p['rights']}" for p in parents),
        "parents": parents,
    }
    pitches = [(part.voice.f0_median_hz, *(part.voice.f0_range_hz or (None, None))) for part in parts]
    median, *ends = (_mean_hz(each, parts) for each in zip(*pitches, strict=True))
    card |= {"f0_median_hz": median} if median else {}
    card |= {"f0_range_hz": ends} if all(ends) else {}
    speakers = [card_of(part.voice).fields.get("speakers") for part in parts]
    if speakers[0] and all(one == speakers[0] for one in speakers):
        card["speakers"] = speakers[0]
    return card


def _mean_hz(pitches_hz: Sequence[float | None], parts: Sequence[Part]) -> float | None:
    """Geometric mean of the voices' pitches; None where one has none."""
    logs = [part.share * math.log(hz) for part, hz in zip(parts, pitches_hz, strict=True) if hz]
    return round(math.exp(sum(logs)), 1) if len(logs) == len(parts) else None


def _blended_index(indexes: Sequence[Path], shares: Sequence[float]) -> bytes:
    """As many vectors as the proportion, and `MOST_VECTORS`, allow; which of an index is drawn by a fixed seed."""
    from menura.retrieval.faiss_index import FaissIndex, build_index

    found = [FaissIndex.load(path) for path in indexes]
    for index in found[1:]:
        index.check_dim(found[0].dim)
    total = min(MOST_VECTORS, *(index.size / share for index, share in zip(found, shares, strict=True)))
    drawn, random = [], np.random.default_rng(0)
    for index, share in zip(found, shares, strict=True):
        count = min(index.size, max(1, round(total * share)))
        drawn.append(index.cells().vectors[np.sort(random.choice(index.size, count, replace=False))])
    return build_index(np.concatenate(drawn), method="faiss").data


def _installed(voice: LoadedVoice, index: bytes | None, card: dict[str, object], home: Path) -> VoiceEntry:
    """By way of files of it, which are imported as a stranger's are: checked, and whole or not at all."""
    from menura.checkpoints.voice import save_voice

    name, voices = str(card["name"]), home / "voices"
    with writing(voices):
        voices.mkdir(parents=True, exist_ok=True)
        with temporary_folder(TEMPORARY, voices) as folder:
            source = folder / f"{name}.safetensors"
            save_voice(source, voice, dtype="float32")
            if index is not None:
                source.with_suffix(".index").write_bytes(index)
            (folder / CARD_NAME).write_text(json.dumps(card, ensure_ascii=False), encoding="utf-8")
            (result,) = import_voices(ImportRequest(source=source, home=home, name=name))
    if result.error is not None:
        raise result.error.about({str(source): name})
    assert result.voice is not None
    return result.voice
