"""What `menura bench` tells people: tables of its JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_ABOUT, _KERNELS = "about", "kernels"
_RUN_HEADER = ("", "files", "audio s", "wall s", "RTF", "cost", "target", "busy cores", "peak MB")


def tables(document: Mapping[str, Any]) -> Iterator[str]:
    """All lines."""
    yield from _about(document[_ABOUT])
    suites = {name: made for name, made in document.items() if name not in (_ABOUT, _KERNELS)}
    if suites:
        yield ""
        yield from _aligned([_RUN_HEADER, *(row for name, made in suites.items() for row in _runs(name, made))])
        yield from _stages(suites)
        yield from _comparisons(suites)
    if _KERNELS in document:
        yield from _decoder(document[_KERNELS])
        yield from _networks(document[_KERNELS]["networks"])


def problems(document: Mapping[str, Any]) -> list[str]:
    """One line for every start of the other program that gave nothing."""
    suites = [made for name, made in document.items() if name not in (_ABOUT, _KERNELS)]
    failures = [f for suite in suites for made in suite.get("compare", ()) for f in made["failures"]]
    return [f"{f['input']}: the other program ended with exit code {f['exit_code']}: {f['error']}" for f in failures]


def _about(about: Mapping[str, Any]) -> Iterator[str]:
    commit = f" ({about['commit'][:12]})" if about["commit"] else ""
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    yield f"menura {about['menura']}{commit}, Python {about['python']}, {packages}"
    memory = f", {about['memory_gb']:g} GB" if about["memory_gb"] else ""
    yield f"{about['processor']}, {about['physical_cores']} cores{memory}; {about['system']}"
    yield f"device {about['device']}, {_threads(about['threads'])}; convolution kernels: {about['kernels']}"
    yield f"linear layers: {about['linear']}"
    yield f"voice {about['voice']}" + ("; quick: these are no figures to compare" if about["quick"] else "")


def _runs(name: str, made: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    if "lengths" in made:
        for length in made["lengths"]:
            yield _run(f"{name}, {length['audio_s']:.0f} s", length)
        return
    if "cold" in made:
        yield _run(f"{name}, from process start", made["cold"])
    if "cold_one" in made:
        yield _run(f"{name}, one file, from process start", made["cold_one"])
    yield _run(f"{name}, networks loaded", made)
    if "again" in made:
        yield _run(f"{name}, one file again, warm", made["again"])


def _run(title: str, run: Mapping[str, Any]) -> Sequence[str]:
    target = f"{run['target_cost']:.0f}" if "target_cost" in run else ""
    return (
        title,
        str(run["files"]),
        f"{run['audio_s']:.1f}",
        f"{run['wall_s']:.2f}",
        f"{run['real_time_factor']:.3f}",
        f"{run['cost']:.1f}",
        target,
        f"{run['busy_cores']:.2f}",
        f"{run['peak_mb']:.0f}",
    )


def _stages(suites: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    rows: list[Sequence[str]] = []
    for name, made in suites.items():
        stages = made.get("stages", {})
        if not rows:
            rows.append(("by stage", *stages))
        rows.append((f"{name}, seconds", *(f"{value:.2f}" for value in stages.values())))
        scale = made["cost"] / made["wall_s"]
        rows.append((f"{name}, cost", *(f"{value * scale:.1f}" for value in stages.values())))
    yield ""
    yield from _aligned(rows)


def _comparisons(suites: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    rows = [
        (
            f"{name}, {each['starts']} starts",
            f"{each['audio_s']:.1f}",
            f"{each['wall_s']:.2f}",
            f"{each['menura_wall_s']:.2f}",
            "" if each["times_menura"] is None else f"{each['times_menura']:.2f}",
            f"{each['peak_mb']:.0f}",
            f"{each['menura_peak_mb']:.0f}",
            str(len(each["failures"])),
        )
        for name, made in suites.items()
        for each in made.get("compare", ())
    ]
    if rows:
        header = ("in turn", "audio s", "other, s", "menura, s", "times", "other, MB", "menura, MB", "failed")
        yield ""
        yield from _aligned([header, *rows])


def _decoder(kernels: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"decoder of {kernels['decoder_of']}; {kernels['seconds']:g} s, best of {kernels['rounds']}"
    speeds = ", ".join(
        f"{speed:.0f} with {threads} thread{'s' * (int(threads) > 1)}"
        for threads, speed in kernels["sgemm_gflops"].items()
    )
    yield f"sgemm GFLOP/s: {speeds}"
    for line in kernels["missing"]:
        yield f"not measured: {line}"
    yield ""
    header = ("variant", "threads", "best ms per s", "median", "times eager", "busy cores", "largest error")
    yield from _aligned([header, *(_decoder_row(row) for row in kernels["decoder"])])
    layers = kernels["layers"]
    if layers:
        variants = list(layers[0]["best_ms"])
        yield ""
        header = ("layer, ms per audio s", "threads", "GFLOP", *variants)
        yield from _aligned([header, *(_layer_row(row) for row in layers)])


def _decoder_row(row: Mapping[str, Any]) -> Sequence[str]:
    return (
        row["variant"],
        str(row["threads"]),
        f"{row['best_ms']:.1f}",
        f"{row['median_ms']:.1f}",
        f"{row['times_eager']:.2f}",
        f"{row['busy_cores']:.2f}",
        f"{row['largest_error']:.1e}",
    )


def _layer_row(row: Mapping[str, Any]) -> Sequence[str]:
    eager = next(iter(row["best_ms"].values()))
    times = [f"{ms:.2f} ({eager / ms:.1f}x)" for ms in row["best_ms"].values()]
    return (row["layer"], str(row["threads"]), f"{row['gflop']:.2f}", *times)


def _networks(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield ""
    header = ("network", "variant", "threads", "best ms per s", "of torch's", "largest difference")
    yield from _aligned([header, *(_network_row(row) for row in rows)])


def _network_row(row: Mapping[str, Any]) -> Sequence[str]:
    return (
        row["network"],
        row["variant"],
        str(row["threads"]),
        f"{row['best_ms']:.2f}",
        f"{row['of_torch']:.2f}",
        f"{row['largest_difference']:.1e}",
    )


def _threads(count: int) -> str:
    return f"{count} thread" if int(count) == 1 else f"{count} threads"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """The first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([f"{first:<{widths[0]}}", *cells]).rstrip()
