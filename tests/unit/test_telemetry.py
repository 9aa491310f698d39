"""No telemetry: neither Menura nor the libraries it loads report their use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

USES = (
    "from menura.system.device import prepare_own_process; prepare_own_process(); import onnxruntime",
    "from menura.cli.main import main; main(['doctor'])",
)


@pytest.mark.parametrize("code", USES)
def test_the_computer_is_not_numbered(tmp_path: Path, code: str) -> None:
    """ONNX Runtime 1.31 would keep a number for it in the user's cache, beside the reports that it sends."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    subprocess.run([sys.executable, "-c", code], env=environment | {"HOME": str(tmp_path)}, check=True, timeout=120)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
