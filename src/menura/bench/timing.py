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
from typing import IO, TypeVar

from menura.errors import MenuraError, ResourceError
from menura.system.processes import spawn

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_STDERR_TAIL_BYTES = 2000
_END_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Raised:
    error: Exception


def in_fresh_process(task: Callable[[Request], Answer], request: Request) -> Answer:
    """Call a function in a new interpreter and give what it gives.

    Args:
        task: a module's function.
        request: its one argument; like the answer something that can be pickled.

    Raises:
        Exception: what the task raised.
        ResourceError: the process was killed.
    """
    process, pipe = spawn(_answer, task, request, name="menura-bench")
    try:
        answer = pipe.recv()
    except EOFError:
        process.join(_END_S)
        raise ResourceError(
            None, f"the measuring process ended with exit code {process.exitcode}", "Most likely memory ran out"
        ) from None
    finally:
        pipe.close()
        process.kill()
        process.join()
    if isinstance(answer, _Raised):
        raise answer.error
    result: Answer = answer
    return result


def _answer(pipe: Connection, task: Callable[[Request], Answer], request: Request) -> None:
    try:
        answer: object = task(request)
    except (MenuraError, OSError, MemoryError) as error:
        answer = _Raised(error=error)
    except Exception as error:  # noqa: BLE001  (the process edge: the parent raises it)
        answer = _Raised(error=RuntimeError(f"{type(error).__name__}: {error}"))
    pipe.send(answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What a program took from its start to its end."""

    wall_s: float
    cpu_s: float
    """CPU time with its own children's; 0 where the system doesn't say."""
    peak_mb: float
    """Largest resident memory, MiB; of its children the largest; 0 where the system doesn't say.

    On Linux at least that of this process, which is small as long as nothing here imports torch.
    """
    exit_code: int
    """Negative: the signal that ended it."""
    last_line: str
    """Of what it wrote on standard error."""


def timed(command: Sequence[str]) -> Timed:
    """Run a program, without a shell, and time it; what it prints is thrown away. Raises OSError if it can't start."""
    with tempfile.TemporaryFile() as errors:
        start_s = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # so that it can be ended with its children
        )
        try:
            cpu_s, peak_mb = _wait(process)
        finally:
            if process.returncode is None:
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                process.wait()
        return Timed(
            wall_s=time.perf_counter() - start_s,
            cpu_s=cpu_s,
            peak_mb=peak_mb,
            exit_code=process.returncode,
            last_line=_last_line(errors),
        )


def _wait(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """CPU seconds, and the largest memory in MiB."""
    if not hasattr(os, "wait4"):  # Windows
        process.wait()
        return 0.0, 0.0
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - _STDERR_TAIL_BYTES))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
