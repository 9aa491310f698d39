"""The compiled library: found, described, chosen."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

import pytest
import torch

from menura.kernels import library
from support.kernels import paths


def test_structures_are_those_of_the_header() -> None:
    header = (Path(library.__file__).parent / "cpp" / "menura_kernels.h").read_text(encoding="utf-8")
    header = re.sub(r"//.*", "", header)
    sizes = {"int32_t": 4, "int64_t": 8, "float": 4}
    found = re.findall(r"typedef struct \{([^}]*)\} (\w+);", header)
    structures = {
        kind.__name__: kind for kind in ctypes.Structure.__subclasses__() if kind.__module__ == library.__name__
    }
    assert len(found) == 12
    for body, name in found:
        fields = []
        for line in filter(str.strip, body.split(";")):
            kind, names = re.fullmatch(r"\s*(?:const )?(\w+)([\s\S]*)", line).groups()
            fields += [(part.strip(" *\n"), 8 if "*" in names else sizes[kind]) for part in names.split(",")]
        ours = [
            (field, ctypes.sizeof(kind))
            for field, kind in structures["".join(map(str.title, name.split("_")[1:])) + "Arguments"]._fields_
        ]
        assert ours == fields, name


def test_the_runtime_is_found_where_the_system_does_not_say_what_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on macOS, whose torch brings lib/libomp.dylib."""
    function, loaded = library._parallel_function(), library._RUNTIME.findall(Path("/proc/self/maps").read_text())
    assert function is not None
    (runtime,) = {name for name in loaded if name.startswith(str(Path(torch.__file__).parent))}
    monkeypatch.setattr(library, "system_text", lambda _: "")
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "__init__.py"))
    assert library._parallel_function() is None
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libomp.dylib").symlink_to(runtime)
    assert library._parallel_function() == function


def test_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.SWITCH, "off")
    assert library.kernel_status().library is None
    monkeypatch.setenv(library.SWITCH, "sse9")
    assert "one of off, avx2, avx512, neon" in library.kernel_status().reason
    monkeypatch.setenv(library.SWITCH, paths()[0])
    assert library.kernel_status().library is not None
    assert os.environ[library.SWITCH] == paths()[0]
