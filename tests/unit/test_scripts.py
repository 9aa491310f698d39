"""The checkers find what they are for."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def breaches_of(script: str) -> Callable[[Path], Iterator[str]]:
    spec = importlib.util.spec_from_file_location(script, ROOT / "scripts" / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    breaches: Callable[[Path], Iterator[str]] = module.breaches
    return breaches


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f():\n" + "    pass\n" * 59, []),
        ("def f():\n" + "    pass\n" * 60, ["f: 61 lines"]),
        ("class A:\n    def f(self, a, b, c, d, e, f, g, *, h):\n        pass\n", []),
        ("def f(a, b, c, d, e, f, g, h, *i):\n    pass\n", ["f: 9 parameters"]),
        ("async def f(a, b, c, d, e, f, g, h, **i):\n    pass\n", ["f: 9 parameters"]),
        ("#\n" * 599, []),
        ("#\n" * 600, ["600 lines"]),
    ],
)
def test_size_caps(tmp_path: Path, source: str, found: list[str]) -> None:
    path = tmp_path / "module.py"
    path.write_text(source)
    lines = list(breaches_of("size_caps")(path))
    assert len(lines) == len(found)
    assert all(part in line for part, line in zip(found, lines, strict=True))


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("see https://github.com/x/y", False),
        ("see https:/" + "/somewhere.example/x", True),
        ("in /" + "root/things", True),
        ("in /" + "home/me/things", True),
        ("$HOME/wo" + "rk/x and a/wo" + "rk/b", False),
        ("beside ../" + "shared/x", True),
        ("TO" + "DO: later", True),
    ],
)
def test_wording(tmp_path: Path, line: str, bad: bool) -> None:
    path = tmp_path / "document.md"
    path.write_text(f"first\n{line}\n")
    assert bool(list(breaches_of("wording")(path))) == bad
