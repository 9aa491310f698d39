"""Caps on size: functions of 60 lines and 8 parameters, modules of 600 lines; the house, and each wing."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FUNCTION_LINES = 60
PARAMETERS = 8
MODULE_LINES = 600
PACKAGE = Path("src/menura")
HOUSE_LINES = 25_974
"""Of all its modules together: engine, training, measuring, command line."""
WING_LINES = {
    "server": 5_406,
    "effects": 1_160,
    "evaluate": 810,
    "export": 290,
    "kernels/starter.py": 240,
    "spans.py": 285,
    "pipeline/dialogue.py": 468,
    "f0/shift.py": 180,
    "train/clone.py": 218,
    "train/sharpness.py": 51,
    "cli/clone.py": 52,
}
"""Of what stands beside the house, in folders or files of its own."""
FOLDERS = ("src", "tests", "scripts", "recipes", "benchmarks")


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Parameters a caller can give, without self and cls."""
    args = function.args
    names = [a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg) if a]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def breaches(path: Path) -> Iterator[str]:
    """What in a file is too large, one line each."""
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    if lines >= MODULE_LINES:
        yield f"{path}: {lines} lines (cap: below {MODULE_LINES})"
    # Tests may take many fixtures, so only their length is capped.
    capped_parameters = path.parts[0] != "tests"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        place = f"{path}:{node.lineno} {node.name}"
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > FUNCTION_LINES:
            yield f"{place}: {length} lines (cap: {FUNCTION_LINES})"
        if capped_parameters and parameters(node) > PARAMETERS:
            yield f"{place}: {parameters(node)} parameters (cap: {PARAMETERS})"


def package_breaches(files: list[Path]) -> Iterator[str]:
    """Which parts of the package are too large together, one line each."""
    caps = {PACKAGE / wing: lines for wing, lines in WING_LINES.items()} | {PACKAGE: HOUSE_LINES}
    totals = dict.fromkeys(caps, 0)
    for path in files:
        part = next(part for part in caps if path.is_relative_to(part))
        totals[part] += path.read_text(encoding="utf-8").count("\n")
    for part, lines in totals.items():
        if lines > caps[part]:
            yield f"{part}: {lines} lines of Python (cap: {caps[part]})"


def main() -> int:
    """Print every breach; 1 if there is one."""
    files = [path for folder in FOLDERS for path in sorted(Path(folder).rglob("*.py"))]
    found = [line for path in files for line in breaches(path)]
    found += package_breaches([path for path in files if path.is_relative_to(PACKAGE)])
    print("\n".join(found) if found else f"Size caps: {len(files)} files within bounds.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
