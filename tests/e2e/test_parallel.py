"""Ctrl-C while processes share preparing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = """
import sys, time
from menura.system.processes import run_all

if __name__ == "__main__":
    print("begun", flush=True)
    try:
        for _ in run_all(time.sleep, [0.0, 0.0, 0.0] + [60.0] * 5, workers=2):
            print("done", flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.parametrize(("finished", "delay_s"), [(0, 0.15), (0, 0.6), (3, 0.1)])
def test_ctrl_c_ends_workers_at_once_and_quietly(finished: int, delay_s: float) -> None:
    """While they start, load, and work."""
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    for _ in range(finished):
        assert process.stdout.readline() == b"done\n"
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=40)
    assert (process.returncode, told) == (130, b"")


@pytest.mark.parametrize(("finished", "delay_s"), [(0, 0.6), (3, 0.1)])
def test_workers_end_with_a_killed_parent(finished: int, delay_s: float) -> None:
    """Also while they start."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    for _ in range(finished):
        assert process.stdout.readline() == b"done\n"
    time.sleep(delay_s)
    process.kill()
    process.communicate(timeout=40)  # until nobody holds the pipes
