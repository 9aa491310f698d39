"""Processes that leave Ctrl-C to their parent, and end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection

import pytest

from menura.system.processes import spawn

PARENT = """
import sys, time
from multiprocessing.connection import Connection
from menura.system.processes import spawn

if __name__ == "__main__":
    process, pipe = spawn(Connection.poll, 60.0, name="child")
    time.sleep(float(sys.argv[1]))
    print(process.pid, flush=True)
    time.sleep(60)
"""


def test_no_interrupt_reaches_a_process_that_starts() -> None:
    started = []
    for number, delay_s in enumerate((0.0, 0.02, 0.05, 0.1, 0.3)):
        process, pipe = spawn(Connection.poll, 60.0, name=f"child-{number}")
        started.append((process, pipe))
        time.sleep(delay_s)
        os.kill(process.pid or 0, signal.SIGINT)
    time.sleep(0.5)
    assert [process.is_alive() for process, _ in started] == [True] * 5
    for process, pipe in started:
        pipe.close()
        process.join(20)
        assert process.exitcode == 0
        process.close()
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())  # and this one hears it again


def test_terminated_processes_clean_up_and_are_quiet() -> None:
    process, pipe = spawn(Connection.poll, 60.0, name="child")
    assert not pipe.poll(0.5)
    process.terminate()
    process.join(20)
    assert process.exitcode in (0, -signal.SIGTERM)  # before it has a handler of its own
    pipe.close()
    process.close()


@pytest.mark.parametrize("delay_s", ["0", "0.5"])
def test_a_process_ends_with_its_killed_parent(delay_s: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, delay_s], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert parent.stdout is not None
    assert int(parent.stdout.readline())
    parent.kill()
    assert parent.communicate(timeout=20) == (b"", b"")  # until nobody holds the pipes
