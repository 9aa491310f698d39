"""Nothing heavy is imported before it is needed."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

HEAVY = ("torch", "numpy", "scipy", "soundfile", "soxr", "faiss", "onnxruntime", "safetensors", "av")
LOADED = f"import sys; print(sorted(set(sys.modules) & set({HEAVY!r})))"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=60)


@pytest.mark.parametrize(
    "module", ["menura", "menura.options", "menura.types", "menura.system.device", "menura.cli.main"]
)
def test_import_loads_nothing_heavy(module: str) -> None:
    assert run("-c", f"import {module}; {LOADED}").stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments", ["['--help']", "['--version']", "['convert', '--help']", "['bench', '--help']", "['voices', 'list']"]
)
def test_light_commands_load_nothing_heavy(arguments: str) -> None:
    code = f"from menura.cli.main import run; assert run({arguments}) == 0; {LOADED}"
    assert run("-c", code).stdout.splitlines()[-1] == "[]"


def test_converting_loads_only_what_it_needs() -> None:
    """scipy is not used at all; an index, another F0 method's runtime and PyAV are loaded when they are asked for."""
    code = f"import menura.converter, menura.content.starter; {LOADED}"
    assert run("-c", code).stdout.strip() == str(["numpy", "safetensors", "soundfile", "soxr", "torch"])


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        run("-m", "menura", "--help")
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5, seconds
