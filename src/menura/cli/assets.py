"""`menura assets`."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from menura.cli.derive import Group, flag_with, home_option
from menura.cli.terminal import fail, say, say_json, say_lines, table
from menura.voices.assets import AssetStatus, asset_status, cache_folder, fetch_steps, home_folder, needed_by


@click.group(cls=Group)
def assets() -> None:
    """List model weights, import them from Applio or RVC WebUI, clean up."""


@assets.command(name="list")
@click.option("--all", "everything", is_flag=True, help="Also show where to download each missing file.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@home_option
def list_(everything: bool, as_json: bool, home: Path | None) -> None:
    """List model weights: first those that installed voices lack, then the installed ones, then the others."""
    folder = home_folder(home)
    needed = needed_by(folder)
    statuses = asset_status(folder, needed)
    if as_json:
        say_json([asset_document(status, folder) for status in statuses])
        return
    say_lines(asset_lines(statuses, folder, needed, everything=everything))
    if not everything and any(status.path is None for status in statuses):
        say("From Applio or RVC WebUI: menura assets import FOLDER. Addresses: menura assets list --all")


@assets.command(name="import")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@home_option
def import_(folder: Path, home: Path | None) -> None:
    """Import networks, pretrained files and voices from FOLDER, where Applio or RVC WebUI is installed.

    Existing files are kept. Nothing in FOLDER is changed or executed.
    """
    from menura.voices.migration import take_over

    labels = {"imported": "imported", "present": "already there", "failed": "failed", "unknown": "not recognized"}
    outcomes: Counter[str] = Counter()
    for item in take_over(folder, home_folder(home)):
        outcomes[item.outcome] += 1
        if item.outcome == "failed" and item.error is not None:
            fail(f"{labels[item.outcome]:<14}  {item.name}: {item.error.details.text(flag_with)}")
        else:
            say(f"{labels[item.outcome]:<14}  {item.name}")
    say(", ".join(f"{outcomes[key]} {label}" for key, label in labels.items() if outcomes[key]))
    if outcomes["failed"]:
        raise click.exceptions.Exit(1)


@assets.command()
@home_option
def clean(home: Path | None) -> None:
    """Remove caches, which are made again when needed, and what interrupted imports left behind."""
    from menura.voices.install import remove_imports

    folder = home_folder(home)
    remove_imports(folder)
    for cache in cache_folder(folder).glob("*"):
        if cache.is_dir():
            size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
            shutil.rmtree(cache)
            say(f"{size / 1e6:.0f} MB removed from {cache}")


def asset_document(status: AssetStatus, home: Path) -> dict[str, Any]:
    """An asset's state as plain values."""
    asset = status.asset
    return {
        "name": asset.name,
        "purpose": asset.purpose,
        "found": status.path is not None,
        "path": None if status.path is None else str(status.path),
        "note": status.note,
        "missing": [
            {"put_at": str(home / "assets" / file), "fetch": asset.fetch_from(file), "size_bytes": asset.size_bytes}
            for file in status.missing
        ],
        "advice": asset.advice,
    }


def asset_lines(
    statuses: tuple[AssetStatus, ...], home: Path, needed: dict[str, list[str]], *, everything: bool
) -> Iterator[str]:
    """One line for every asset, and what to do for those that voices lack, or for all that are missing."""
    ordered = sorted(statuses, key=lambda s: (s.path is not None or s.asset.name not in needed, s.path is None))
    for status, line in zip(ordered, table(_row(status, needed) for status in ordered), strict=True):
        yield line
        if status.path is None and (everything or status.asset.name in needed):
            steps = [*fetch_steps(status, home), status.asset.advice]
            yield from (f"    {step}" for step in steps if step)


def _row(status: AssetStatus, needed: dict[str, list[str]]) -> tuple[str, str, str]:
    name = status.asset.name
    if status.path is not None:
        return name, "found", f"{status.path} ({status.note})" if status.note else str(status.path)
    who = f"; needed by {', '.join(needed[name])}" if name in needed else ""
    return name, "missing", f"{status.asset.purpose}{who}"
