"""Measurements have a process of their own: memory and start are then theirs alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeVar

from menura.errors import ResourceError
from menura.system.processes import spawn

Answer = TypeVar("Answer")

_END_S = 20.0


def in_fresh_process(task: Callable[..., Answer], *arguments: object) -> Answer:
    """Call a module's function in a new interpreter and give what it gives; all of it can be pickled.

    Raises:
        Exception: what the task raised.
        ResourceError: the process was killed.
    """
    process, pipe = spawn(_answer, task, arguments, name="menura-bench")
    try:
        answer: Answer | Exception = pipe.recv()
    except EOFError:
        process.join(_END_S)
        problem = f"the measuring process ended with exit code {process.exitcode}"
        raise ResourceError(None, problem, "Most likely memory ran out") from None
    finally:
        pipe.close()
        process.kill()
        process.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer(pipe: Connection, task: Callable[..., object], arguments: tuple[object, ...]) -> None:
    try:
        answer = task(*arguments)
    except Exception as error:  # noqa: BLE001  (the process edge: the parent raises it)
        answer = error
    pipe.send(answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What a program took from its start to its end."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    """Largest resident memory, MiB, of itself or a child; on Linux at least that of this process, which is small as
    long as nothing here imports torch. 0, as cpu_s, where the system doesn't say."""
    exit_code: int
    """Negative: the signal that ended it."""
    last_line: str
    """Of what it wrote on standard error."""


def timed(command: Sequence[str]) -> Timed:
    """Run a program, without a shell, and time it; what it prints is thrown away. Raises OSError if it can't start."""
    quiet, cpu_s, peak_mb = subprocess.DEVNULL, 0.0, 0.0
    with tempfile.TemporaryFile() as errors:
        start_s = time.perf_counter()
        # In a session of its own, so that it can be ended with its children.
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=errors, start_new_session=True)
        try:
            if hasattr(os, "wait4"):
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
                cpu_s = usage.ru_utime + usage.ru_stime
                peak_mb = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
            else:  # Windows
                process.wait()
        finally:
            if process.returncode is None:
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                process.wait()
        wall_s = time.perf_counter() - start_s
        errors.seek(0)
        *_, last_line = ("", *errors.read().decode(errors="replace").strip().splitlines())
    return Timed(wall_s=wall_s, cpu_s=cpu_s, peak_mb=peak_mb, exit_code=process.returncode, last_line=last_line.strip())
