"""Memory that passes of the networks free is kept for the next ones."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")

FAULTS = """
import resource, threading
import numpy as np
from menura.system.device import prepare_own_process

prepare_own_process()

def work():
    for _ in range(20):
        np.ones(5_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(5_000_000)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def page_faults(**variables: str) -> int:
    """In a thread that asks for 40 MB twenty times, once it has done so before."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    code = [sys.executable, "-c", FAULTS]
    return int(subprocess.run(code, env=environment | variables, check=True, capture_output=True, timeout=60).stdout)


def test_what_a_thread_frees_is_kept_for_it_unless_the_user_set_something() -> None:
    assert page_faults() * 3 < page_faults(MALLOC_ARENA_MAX="2")
