"""`menura bench`'s JSON document as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from menura.cli.terminal import table

_ABOUT = "about"
_RUN_HEADER = ("", "files", "audio s", "wall s", "RTF", "cost", "busy cores", "peak MB")


def tables(document: Mapping[str, Any]) -> Iterator[str]:
    about = document[_ABOUT]
    yield from about_lines(about)
    yield f"voice {about['voice']}" + ("; quick: not comparable" if about["quick"] else "")
    suites = {name: figures for name, figures in document.items() if name != _ABOUT}
    yield ""
    rows = (row for name, figures in suites.items() for row in _runs(name, figures))
    yield from table([_RUN_HEADER, *rows], numbers=True)
    yield from _stages(suites)


def about_lines(about: Mapping[str, Any]) -> Iterator[str]:
    """Where something was measured."""
    commit = f" ({about['commit'][:12]})" if about["commit"] else ""
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    yield f"menura {about['menura']}{commit}, Python {about['python']}, {packages}"
    memory = f", {about['memory_gb']:g} GB" if about["memory_gb"] else ""
    yield f"{about['processor']}, {about['physical_cores']} cores{memory}; {about['system']}"
    threads = f"{about['threads']} thread{'' if about['threads'] == 1 else 's'}"
    yield f"device {about['device']}, {threads}; convolution kernels: {about['kernels']}"


def _runs(name: str, figures: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    if "lengths" in figures:
        for length in figures["lengths"]:
            yield _run(f"{name}, {length['audio_s']:.0f} s", length)
        return
    for title, run in (
        ("from process start", figures.get("cold")),
        ("one file, from process start", figures.get("cold_one")),
        ("networks loaded", figures),
        ("one file again, warm", figures.get("again")),
    ):
        if run is not None:
            yield _run(f"{name}, {title}", run)


def _run(title: str, run: Mapping[str, Any]) -> Sequence[str]:
    return (
        title,
        str(run["files"]),
        f"{run['audio_s']:.1f}",
        f"{run['wall_s']:.2f}",
        f"{run['real_time_factor']:.3f}",
        f"{run['cost']:.1f}",
        f"{run['busy_cores']:.2f}",
        f"{run['peak_mb']:.0f}",
    )


def _stages(suites: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    rows: list[Sequence[str]] = []
    for name, figures in suites.items():
        stages = figures.get("stages", {})
        if not rows:
            rows.append(("by stage", *stages))
        rows.append((f"{name}, seconds", *(f"{value:.2f}" for value in stages.values())))
        scale = figures["cost"] / figures["wall_s"]
        rows.append((f"{name}, cost", *(f"{value * scale:.1f}" for value in stages.values())))
    yield ""
    yield from table(rows, numbers=True)
