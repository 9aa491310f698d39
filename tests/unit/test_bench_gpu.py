"""The GPU's benchmark, on a CPU: every step runs, and no step that fails takes others with it."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from benchmarks import gpu as program
from benchmarks.gpu import STEPS, Step, Worker, work
from benchmarks.gpu_tools import Bench, Facts
from menura.content import starter
from menura.pipeline import engine
from support.pretended_gpu import PretendedGpu

EQUAL_DB = -300.0


def bench_in(folder: Path) -> Bench:
    return Bench(device="cpu", home=folder, full_voice="bench", quick=True)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_finds_something(name: str, tmp_path: Path) -> None:
    found = dict(STEPS[name].run(bench_in(tmp_path)))
    assert found
    assert not [what for what, figures in found.items() if "error" in figures]
    assert json.loads(json.dumps(found, default=str))
    assert not [what for what, figures in found.items() if figures.get("failed")]
    if name in ("networks", "conversions"):  # the CPU against itself
        assert {figures["db"] for what, figures in found.items() if "among" not in what} == {EQUAL_DB}
    if name == "training":
        assert found["gradients, device and CPU"]["worst_db"] == EQUAL_DB
    if name == "hour":
        assert all(figures["course"] for figures in found.values())


@pytest.mark.parametrize("name", ["facts", "networks", "batch", "survival"])
def test_a_step_knows_a_gpu(name: str, tmp_path: Path, gpu: PretendedGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    pace = dataclasses.replace(engine._PACES["cuda"], company_s=30.0)  # however slowly this machine reads
    monkeypatch.setitem(engine._PACES, "cuda", pace)
    monkeypatch.setattr(starter, "trusted_kernels", lambda: None)  # by torch on both: only the device differs
    found = dict(STEPS[name].run(dataclasses.replace(bench_in(tmp_path), device="cuda")))
    assert not [what for what, figures in found.items() if "error" in figures or figures.get("failed")]
    assert not [what for what, figures in found.items() if figures.get("db", EQUAL_DB) > -110]
    if name == "batch":
        assert found["wren, 4 files, equal lengths"]["passes_by_rows"] == {4: 1}
        assert all(figures["allocated_mb"] > 1 for figures in found.values())


def fails(bench: Bench) -> Facts:
    yield "before", {"number": 1}
    raise RuntimeError("no such thing")


def hangs(bench: Bench) -> Facts:
    yield "before", {"number": 2}
    time.sleep(60)


def dies(bench: Bench) -> Facts:
    os._exit(3)
    yield "never", {}


def process(bench: Bench) -> Facts:
    yield "process", {"number": os.getpid()}


def faulty(pipe: Connection, bench: Bench) -> None:
    steps = (fails, hangs, dies, process)
    work(pipe, bench, {step.__name__: Step(run=step, limit_s=1) for step in steps})


def test_what_fails_hangs_or_dies_is_told_and_the_next_step_has_a_fresh_process(tmp_path: Path) -> None:
    worker = Worker(bench_in(tmp_path), faulty)
    (first,), (again,) = list(worker.run("process", 60)), list(worker.run("process", 60))
    assert first == again
    seen = {first["number"]}
    for name, error in (
        ("fails", "RuntimeError: no such thing"),
        ("hangs", "not finished after 5 s"),
        ("dies", "the process ended with exit code 3"),
    ):
        *before, last = worker.run(name, 5 if name == "hangs" else 60)
        assert last == {"step": name, "error": error}
        assert len(before) == (name != "dies")
        (fresh,) = worker.run("process", 60)
        seen.add(fresh["number"])
    worker.close()
    assert len(seen) == 4


def test_what_is_found_is_logged_at_once_and_written_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    options = ["--device", "cpu", "--quick", "--home", str(tmp_path), "--json", str(path), "--step", "facts"]
    assert program.main(options) == 0
    findings = json.loads(path.read_text(encoding="utf-8"))["findings"]
    assert [json.loads(line) for line in path.with_suffix(".log").read_text(encoding="utf-8").splitlines()] == findings
    assert {finding["step"] for finding in findings} == {"facts"}
