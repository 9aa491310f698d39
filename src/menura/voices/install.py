"""Installs a voice from a weights file, a folder or a zip archive, as community voices are passed on.

Nothing of an archive is unpacked under a name of its own: the two members wanted are copied into new files, with their
bytes counted. Weights are read without running code and stored as safetensors.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from menura.errors import CheckpointError, MenuraError, OptionError, ResourceError
from menura.voices.library import (
    CARD_NAME,
    VOICE_SUFFIXES,
    WEIGHTS_NAME,
    VoiceEntry,
    check_name,
    find_voice,
    list_voices,
    read_card,
)

if TYPE_CHECKING:
    from menura.checkpoints.voice import LoadedVoice

MAX_ARCHIVE_ENTRIES = 10_000
MAX_MEMBER_BYTES = 4 * 2**30
_COPY_BYTES = 1 << 20


def import_voice(
    source: Path,
    home: Path,
    *,
    name: str | None = None,
    index: Path | None = None,
    check_index: Callable[[Path, int], None] | None = None,
) -> VoiceEntry:
    """Install a voice, completely or not at all.

    Args:
        source: a .pth or .safetensors file, a folder with one, or a .zip with one.
        home: Menura's data folder; the voice goes to its `voices/<name>`.
        name: what to call it; by default as the file is called.
        index: its retrieval index; by default the one found in the folder or archive.
        check_index: called with the index and the voice's content dimension before anything is installed; raises
            MenuraError for an index that can't serve the voice.

    Raises:
        OptionError: the name can't be used, is taken, or the source is missing or ambiguous.
        CheckpointError: the file is no voice, carries code, or the archive isn't safe.
        MenuraError: what check_index raised.
        ResourceError: the data folder can't be written.
    """
    from menura.checkpoints.rvc import load_voice

    if not source.exists():
        raise OptionError(f"{source}: no such file; give a voice's .pth, .safetensors, .zip, or a folder with one.")
    if source.is_file():
        try:
            source.open("rb").close()
        except OSError as error:
            raise CheckpointError(f"{source}: can't be read ({error.strerror}).") from error
    if index is not None and not index.is_file():
        raise OptionError(f"{index}: no such index; check the path.")
    try:
        (home / "voices").mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix=".import-", dir=home / "voices") as temporary,
            _gathered(source, Path(temporary)) as (weights, label, found_index),
        ):
            name = _free_name(name or label, home)
            index = index or found_index
            try:
                voice = load_voice(weights)
                if index is not None and check_index is not None:
                    check_index(index, voice.config.content_dim)
            except MenuraError as error:  # name what the user gave, not our copy of an archive's member
                raise error.about({str(path): str(source) for path in (weights, found_index)}) from error
            return _install(voice, index, home, name, source)
    except OSError as error:
        raise ResourceError(
            f"{home / 'voices'}: the voice can't be stored ({error.strerror or error}); free space or set MENURA_HOME."
        ) from error


def _free_name(name: str, home: Path) -> str:
    taken = {voice.name.casefold() for voice in list_voices(home)}
    if check_name(name).casefold() in taken or (home / "voices" / name).exists():
        raise OptionError(f"name: a voice named '{name}' is there already; give another --name, or remove it first.")
    return name


def _install(voice: LoadedVoice, index: Path | None, home: Path, name: str, source: Path) -> VoiceEntry:
    from menura.checkpoints.rvc import save_safetensors

    folder = Path(tempfile.mkdtemp(prefix=".import-", dir=home / "voices"))
    try:
        save_safetensors(folder / WEIGHTS_NAME, voice, dtype=_lossless_dtype(voice))
        if index is not None:
            shutil.copyfile(index, folder / f"{name}.index")
        known = read_card(source) if source.is_dir() else {}
        card = {**known, "name": name, "source": known.get("source") or source.name}
        (folder / CARD_NAME).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        folder.chmod(0o755)  # temporary folders are private
        os.replace(folder, home / "voices" / name)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return find_voice(name, home)


def _lossless_dtype(voice: LoadedVoice) -> str:
    """RVC stores float16; files with finer weights keep them."""
    halves = all(bool((tensor.half().float() == tensor).all()) for tensor in voice.state.values())
    return "float16" if halves else "float32"


@contextlib.contextmanager
def _gathered(source: Path, temporary: Path) -> Iterator[tuple[Path, str, Path | None]]:
    """The weights file, the voice's proposed name and its index, wherever they are taken from."""
    if source.is_dir():
        files = [path for path in sorted(source.rglob("*")) if path.is_file()]
        names = [path.relative_to(source).as_posix() for path in files]
        weights, index = _pick(names, source)
        yield source / weights, PurePosixPath(weights).stem, source / index if index else None
    elif source.suffix.lower() not in VOICE_SUFFIXES and zipfile.is_zipfile(source):
        yield _extract(source, temporary)
    elif source.suffix.lower() in VOICE_SUFFIXES:
        yield source, source.stem, None
    else:
        raise CheckpointError(f"{source}: is no voice; give a .pth, .safetensors or .zip file, or a folder with one.")


def _extract(source: Path, temporary: Path) -> tuple[Path, str, Path | None]:
    try:
        with zipfile.ZipFile(source) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > MAX_ARCHIVE_ENTRIES:
                raise CheckpointError(f"{source}: {len(entries)} files are no voice; unpack it and give the .pth file.")
            names = [entry.filename for entry in entries]
            for name in names:
                _check_member(name, source)
            weights, index = _pick(names, source)
            weights_path = temporary / f"voice{PurePosixPath(weights).suffix.lower()}"
            _copy(archive, weights, weights_path, source)
            index_path = None
            if index is not None:
                index_path = temporary / "voice.index"
                _copy(archive, index, index_path, source)
            return weights_path, PurePosixPath(weights).stem, index_path
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise CheckpointError(
            f"{source}: the archive is damaged or encrypted; unpack it and give the .pth file."
        ) from error


def _check_member(name: str, source: Path) -> None:
    """Refuse archives that try to write elsewhere; what makes them is not to be trusted with the rest either."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and path.parts[0].endswith(":")):
        raise CheckpointError(f"{source}: names a file outside itself ('{name}'), which isn't safe; get it elsewhere.")


def _copy(archive: zipfile.ZipFile, member: str, target: Path, source: Path) -> None:
    """Copy a member, counting its bytes: what its header says of its size need not be true."""
    with archive.open(member) as packed, target.open("wb") as unpacked:
        if not _copy_bounded(packed, unpacked, MAX_MEMBER_BYTES):
            raise CheckpointError(f"{source}: '{member}' is larger than any voice; get it elsewhere.")


def _copy_bounded(packed: IO[bytes], unpacked: IO[bytes], limit: int) -> bool:
    copied = 0
    while block := packed.read(_COPY_BYTES):
        copied += len(block)
        if copied > limit:
            return False
        unpacked.write(block)
    return True


def _pick(names: Sequence[str], source: Path) -> tuple[str, str | None]:
    """The weights and the index among the files of a folder or archive."""
    own = [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)]
    voices = [
        name
        for name in own
        # G_*.pth and D_*.pth are training states, not voices.
        if name.lower().endswith(VOICE_SUFFIXES) and not PurePosixPath(name).name.startswith(("G_", "D_"))
    ]
    if not voices:
        raise CheckpointError(f"{source}: holds no voice (.pth or .safetensors).")
    if len({PurePosixPath(name).with_suffix("") for name in voices}) == 1:  # one voice in both forms
        voices.sort(key=lambda name: VOICE_SUFFIXES.index(PurePosixPath(name).suffix.lower()))
    elif len(voices) > 1:
        listed = ", ".join(sorted(voices)[:5])
        raise OptionError(f"{source}: holds {len(voices)} voices ({listed}); unpack it and import one of them.")
    indexes = [name for name in own if name.lower().endswith(".index")]
    indexes = [name for name in indexes if not PurePosixPath(name).name.startswith("trained_")]
    added = [name for name in indexes if PurePosixPath(name).name.startswith("added_")]
    return voices[0], next(iter(sorted(added) or sorted(indexes)), None)
