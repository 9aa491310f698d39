"""A voice's files for other programs. Loads no torch by itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from menura.errors import OptionError
from menura.models.config import SOURCE_FILTER
from menura.system.files import replacing, write_whole, writing
from menura.voices.library import CARD_NAME, VoiceEntry, card_of, read_card

FORMATS = ("pth", "safetensors", "onnx")


def export_voice(voice: VoiceEntry, form: str, folder: Path) -> tuple[Path, ...]:
    """Write a voice for other programs into a folder, in one of FORMATS, with its index by RVC's name, and its card.

    Raises:
        OptionError: other programs can't run it in that form, or a package is missing.
        EncodeError, ResourceError: a file can't be written.
    """
    from menura.checkpoints.voice import load_voice, save_voice
    from menura.export.onnx import export_onnx

    loaded = load_voice(voice.path)
    if form == "pth" and loaded.config.vocoder == SOURCE_FILTER:
        problem = "other programs can't run this voice's vocoder"
        raise OptionError(voice.name, problem, "Export it as safetensors for Menura, or as onnx")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if form == "onnx":
        made = export_onnx(loaded, folder, voice.name)
    else:
        made = (folder / f"{voice.name}.{form}",)
        save_voice(made[0], loaded, dtype="exact")
    if voice.index_path is not None:
        made += (_export_index(voice.name, voice.index_path, loaded.config.version, folder),)
    card = folder / CARD_NAME
    if (fields := card_of(voice).fields) and (not card.exists() or read_card(card).name == voice.name):
        write_whole(card, (json.dumps({**fields, "name": voice.name}, indent=2, ensure_ascii=False) + "\n").encode())
        made += (card,)
    return made


def _export_index(name: str, index: Path, version: str, folder: Path) -> Path:
    from menura.retrieval.faiss_index import FaissIndex, index_name

    centres = FaissIndex.load(index).cells().centres
    target = folder / index_name(1 if centres is None else len(centres), name, version)
    with replacing(target) as partial:
        shutil.copyfile(index, partial)
    return target
