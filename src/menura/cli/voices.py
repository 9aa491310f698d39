"""`menura voices`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from menura.cli.derive import Group, flag_with, home_option
from menura.cli.terminal import fail, say, say_json, say_lines, table
from menura.errors import VoiceExistsError
from menura.voices.assets import home_folder
from menura.voices.library import CARD_NAME, VoiceEntry, find_voice, list_voices, read_card, remove_voice

_PATH = click.Path(path_type=Path)


@click.group(cls=Group)
def voices() -> None:
    """List, describe, import and remove voices."""


@voices.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of name, builtin and source.")
@home_option
def list_(as_json: bool, home: Path | None) -> None:
    """List the voices that --voice knows by name."""
    entries = list_voices(home_folder(home))
    if as_json:
        say_json([{"name": e.name, "builtin": e.builtin, "source": e.source} for e in entries])
        return
    say_lines(voice_lines(entries))


@voices.command()
@click.argument("voice")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@home_option
def info(voice: str, as_json: bool, home: Path | None) -> None:
    """Describe a VOICE: a name, or a .pth or .safetensors file."""
    facts = _facts(find_voice(voice, home_folder(home)))
    if as_json:
        say_json(facts)
        return
    say_lines(table(_rows(facts | facts.pop("card"))))


def _rows(facts: Mapping[str, Any], indent: str = "") -> Iterator[tuple[str, str]]:
    """A voice's facts, lists and what has parts below their name."""
    for name, value in facts.items():
        label = indent + name.replace("_", " ")
        if isinstance(value, dict):
            yield label, ""
            yield from _rows(value, indent + "  ")
        elif isinstance(value, (list, tuple)):
            yield from ((label if number == 0 else "", str(item)) for number, item in enumerate(value))
        elif isinstance(value, bool):
            yield label, "yes" if value else "no"
        elif value not in (None, ""):
            yield label, str(value)


@voices.command(name="import")
@click.argument("path", type=_PATH)
@click.option("--name", help="Name of the voice; by default its file's name.")
@click.option("--index", type=_PATH, help="Its retrieval index; by default the one found beside it.")
@click.option("--all", "every_epoch", is_flag=True, help="Import every epoch of a voice, not only the newest.")
@home_option
def import_(path: Path, name: str | None, index: Path | None, every_epoch: bool, home: Path | None) -> None:
    """Install voices from PATH: a .pth or .safetensors file, or a folder or .zip with voices.

    Weights are read without running any code that a file may carry.
    """
    from menura.voices.install import ImportRequest, import_voices

    request = ImportRequest(source=path, home=home_folder(home), name=name, index=index, every_epoch=every_epoch)
    results = list(import_voices(request))
    if len(results) == 1 and results[0].error is not None:
        raise results[0].error
    failed = False
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
            failed = True
            fail(result.error.details.text(flag_with))
    if failed:
        raise click.exceptions.Exit(1)


@voices.command()
@click.argument("name")
@home_option
def remove(name: str, home: Path | None) -> None:
    """Delete the installed voice NAME with its index."""
    entry = remove_voice(name, home_folder(home))
    say(f"removed '{entry.name}'")


def voice_lines(entries: Iterable[VoiceEntry]) -> Iterator[str]:
    """Where voices come from, a line for each."""
    return table(
        (e.name, "built in" if e.builtin else "installed", f"{e.source}{', with index' if e.index_path else ''}")
        for e in entries
    )


def _facts(entry: VoiceEntry) -> dict[str, Any]:
    """What is known of a voice, from its files and its card."""
    from menura.checkpoints.rvc import load_voice

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
        "speaker_names": list(metadata.speaker_names),
        "vocoder": config.vocoder,
        "content_encoder": config.content_encoder,
        "parameters": sum(tensor.numel() for tensor in voice.state.values()),
        "author": metadata.author,
        "info": metadata.info,
        "epoch": metadata.epoch,
        "licence": metadata.licence,
    }
    own = entry.builtin or entry.path.parent.name == entry.name
    card = read_card(entry.path.parent / CARD_NAME).fields if own else {}
    facts["card"] = {key: value for key, value in card.items() if key not in facts}
    return facts
