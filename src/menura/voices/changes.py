"""Changes to installed voices. Loads no torch by itself."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from menura.errors import OptionError, ResourceError
from menura.system.files import replacing, write_whole, writing
from menura.voices.library import CARD_NAME, VoiceEntry, find_voice, free_name, read_card


def rename_voice(name: str, new: str, home: Path) -> VoiceEntry:
    """Call an installed voice by another name, with its index and card.

    Raises:
        VoiceNotFoundError: no voice of that name.
        OptionError: the voice is built in, or the new name can't be used.
        ResourceError: its files can't be changed.
    """
    voice = _folder_voice(name, home)
    target = home / "voices" / free_name(new, home, own=name)
    with writing(target):
        os.replace(voice.path.parent, target)
    index = target / f"{name}.index"
    if index.is_file():
        with writing(index):
            os.replace(index, target / f"{new}.index")
    card = target / CARD_NAME
    if card.is_file():
        fields = {**read_card(card).fields, "name": new}
        write_whole(card, (json.dumps(fields, indent=2, ensure_ascii=False) + "\n").encode())
    return find_voice(new, home)


def add_index(name: str, index: Path, home: Path) -> VoiceEntry:
    """Give an installed voice a retrieval index, in place of the one that it may have.

    Raises:
        IndexFileError: it is no index, or another encoder's.
        OptionError, ResourceError: as for `rename_voice`.
    """
    from menura.checkpoints.voice import read_config
    from menura.retrieval.faiss_index import FaissIndex

    voice = _folder_voice(name, home)
    FaissIndex.load(index).check_dim(read_config(voice.path).content_dim)
    target = voice.path.parent / f"{voice.name}.index"
    with replacing(target) as partial:
        shutil.copyfile(index, partial)
    return replace(find_voice(name, home), note="")


def _folder_voice(name: str, home: Path) -> VoiceEntry:
    voice = find_voice(name, home)
    if voice.builtin or voice.path.parent.parent != home / "voices":
        raise OptionError(name, "is not an installed voice", "Import it first", "voice")
    if voice.path.parent.is_symlink():
        raise ResourceError(name, "is a link to another folder", "Change it there")
    return voice
