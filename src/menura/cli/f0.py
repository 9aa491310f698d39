"""`menura f0`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from menura.cli.derive import GroupedCommand, grouped_option, home_option, option_of, values_of
from menura.cli.terminal import say_lines, table, warn
from menura.errors import AssetMissingError, OptionError
from menura.options import F0_METHODS, ConversionOptions, EngineOptions
from menura.system.device import resolve_device
from menura.system.interrupts import check_interrupts

if TYPE_CHECKING:
    from menura.f0.registry import Refinement
    from menura.types import FloatArray

_FILE = click.Path(path_type=Path)


@click.command(cls=GroupedCommand)
@click.argument("file", type=_FILE)
@grouped_option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice((*F0_METHODS, "all")),
    default=("auto",),
    group="pitch",
    help="Pitch (F0) estimator; repeatable. all takes those that are installed.  [default: auto]",
)
@option_of(ConversionOptions, "f0_repair")
@option_of(ConversionOptions, "f0_ceiling")
@option_of(ConversionOptions, "f0_smoothing")
@grouped_option(
    "-o",
    "--out",
    type=_FILE,
    group="output",
    help="Write the curve to a CSV file that --f0-file takes; of several methods to NAME-METHOD.csv.",
)
@grouped_option("--plot", type=_FILE, group="output", help="Draw all curves to a PNG file (extra 'plots').")
@option_of(EngineOptions, "device")
@home_option
def f0(file: Path, methods: tuple[str, ...], out: Path | None, plot: Path | None, **given: Any) -> None:
    """Estimate the pitch of a recording, FILE, by one method or several; write the curves, draw them."""
    from menura.f0.registry import Refinement
    from menura.plots import draw_contours, need_matplotlib
    from menura.system.files import write_whole

    if plot is not None:
        need_matplotlib()
    engine, refinement = values_of(EngineOptions, given), Refinement.of(values_of(ConversionOptions, given))
    found = _found(methods, engine.home)
    name = "{0.stem}-{1}{0.suffix}" if len(found) > 1 else "{0.name}"
    places = {} if out is None else {method: out.parent / name.format(out, method) for method in found}
    for path in filter(None, (plot, out, *places.values())):
        if path.is_dir() or (path.exists() and file.exists() and path.samefile(file)):
            raise OptionError(path, "is a folder, or the recording itself", "Name another file")
    if "pm" in found and refinement.repair != "off":
        raise OptionError(None, "pm takes noise at half speed for notes", "Leave out pm, or {f0_repair}", "f0_repair")
    warnings: dict[str, None] = {}
    curves = _estimated(file, found, engine.device, refinement, warnings.setdefault)
    say_lines(table(_rows(curves), numbers=True))
    for warning in warnings:
        warn(f"{file}: {warning}")
    for method, path in places.items():
        lines = (f"{frame / 100:.2f},{hz:.9g}\n" for frame, hz in enumerate(curves[method].tolist()))
        write_whole(path, ("seconds,hz\n" + "".join(lines)).encode())
    if plot is not None:
        write_whole(plot, draw_contours(file.name, curves))
    if warnings:
        raise click.exceptions.Exit(1)


def _found(methods: tuple[str, ...], home: Path | None) -> dict[str, Path]:
    """The methods asked for, each once, and their weights."""
    from menura.f0.registry import method_path, resolve_method

    if "all" not in methods:
        return {method: method_path(method, home) for method in (resolve_method(each, home) for each in methods)}
    found: dict[str, Path] = {}
    for method in F0_METHODS[1:]:
        with suppress(AssetMissingError):
            found[method] = method_path(method, home)
    return found


def _estimated(
    file: Path, methods: Mapping[str, Path], device: str, refinement: Refinement, tell: Callable[[str], None]
) -> dict[str, FloatArray]:
    from menura.f0.refined import RefinedEstimator
    from menura.f0.registry import load_estimator
    from menura.pipeline.contours import estimated_contour
    from menura.pipeline.recording import FileRecording

    place, curves = resolve_device(device), {}
    for method, weights in methods.items():
        estimator = RefinedEstimator(load_estimator(method, weights, place), refinement)
        curves[method] = estimated_contour(FileRecording(file), estimator, place, check_interrupts, tell)
    return curves


def _rows(curves: Mapping[str, FloatArray]) -> Iterator[tuple[str, ...]]:
    """What there is to say of each curve, and of how it compares with the first."""
    import numpy as np

    yield "method", "voiced", "median", "5 %", "95 %", "other than the first's"
    first = next(iter(curves.values()))
    for method, curve in curves.items():
        voiced, both = curve > 0, (curve > 0) & (first > 0)
        low, median, high = np.percentile(curve[voiced], (5, 50, 95)) if voiced.any() else (0.0, 0.0, 0.0)
        apart = np.abs(12 * np.log2(curve[both] / first[both])) > 0.5
        other = f"{100 * apart.mean():.1f} %" if both.any() and curve is not first else "-"
        yield method, f"{100 * voiced.mean():.1f} %", *(f"{hz:.1f} Hz" for hz in (median, low, high)), other
