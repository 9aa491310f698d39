"""`menura assets`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from menura.cli.derive import home_option
from menura.cli.terminal import say_json
from menura.voices.assets import AssetStatus, asset_status, bench_folder, home_folder, packing_folder


@click.group()
def assets() -> None:
    """List the networks' weights: found, missing, where from. Remove what can be made again."""


@assets.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
@home_option
def list_(as_json: bool, home: Path | None) -> None:
    """List the weights that RVC voices may need, and where to get those that are missing."""
    folder = home_folder(home)
    statuses = asset_status(folder)
    if as_json:
        say_json([asset_document(status, folder) for status in statuses])
        return
    for line in asset_lines(statuses, folder):
        click.echo(line)


@assets.command()
@home_option
def clean(home: Path | None) -> None:
    """Remove what Menura makes again when it needs it: packed weights and what `menura bench` made."""
    from menura.kernels.cache import PackingCache

    folder = packing_folder(home_folder(home))
    click.echo(f"{PackingCache(folder).clean() / 1e6:.0f} MB removed from {folder}")
    folder = bench_folder(home_folder(home))
    if folder.is_dir():
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder)
        click.echo(f"{size / 1e6:.0f} MB removed from {folder}")


def asset_document(status: AssetStatus, home: Path) -> dict[str, Any]:
    """An asset's state as plain values."""
    asset = status.asset
    wanted = {home / "assets" / file.path: file for file in asset.files}
    return {
        "name": asset.name,
        "purpose": asset.purpose,
        "found": status.path is not None,
        "path": None if status.path is None else str(status.path),
        "note": status.note,
        "missing": [
            {"put_at": str(path), "fetch": wanted[path].url, "size_bytes": wanted[path].size_bytes}
            for path in status.missing
        ],
        "advice": asset.advice,
    }


def asset_lines(statuses: tuple[AssetStatus, ...], home: Path) -> list[str]:
    """One line for every asset, and under those that are missing what to do."""
    lines = []
    width = max(len(status.asset.name) for status in statuses)
    for status in statuses:
        name = f"{status.asset.name:<{width}}"
        if status.path is not None:
            note = f" ({status.note})" if status.note else ""
            lines.append(f"{name}  found    {status.path}{note}")
            continue
        lines.append(f"{name}  missing  {status.asset.purpose}")
        for missing in asset_document(status, home)["missing"]:
            fetch = f"fetch {missing['fetch']}, " if missing["fetch"] else ""
            lines.append(f"{'':<{width}}           {fetch}put it at {missing['put_at']}")
        if status.asset.advice:
            lines.append(f"{'':<{width}}           {status.asset.advice}")
    return lines
