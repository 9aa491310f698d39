"""`menura bench` with a starter voice: a short suite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from menura.cli.main import run


@pytest.mark.slow
def test_a_quick_suite_as_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MENURA_HOME", str(tmp_path))
    arguments = ["bench", "--quick", "--suite", "batch12", "--threads", "1", "--json"]
    # In a process of its own: what it starts has at least its memory.
    bench = subprocess.run(
        [sys.executable, "-m", "menura", *arguments], stdout=subprocess.PIPE, check=True, timeout=300
    )
    document = json.loads(bench.stdout)
    assert set(document) == {"batch12", "about"}
    suite, about = document["batch12"], document["about"]
    for figures, files, audio_s in (
        (suite, 3, 6),
        (suite["cold"], 3, 6),
        (suite["cold_one"], 1, 2),
        (suite["again"], 1, 2),
    ):
        assert (figures["files"], figures["audio_s"]) == (files, audio_s)
        expected = figures["wall_s"] * figures["sgemm_gflops"] / audio_s
        assert figures["cost"] == pytest.approx(expected, rel=1e-2)
        assert 100 < figures["peak_mb"] < 1500
    assert suite["cold"]["wall_s"] > suite["wall_s"]
    assert sum(suite["stages"].values()) > 0
    assert (about["voice"], about["quick"], about["threads"]) == ("wren", True, 1)
    assert about["packages"]["torch"]
    assert about["kernels"]

    assert len(list((tmp_path / "cache" / "bench" / "inputs" / "3x2s").glob("*.wav"))) == 3
    assert run(["assets", "clean"]) == 0
    assert not (tmp_path / "cache" / "bench").exists()
