"""Measurements have a process of their own: memory and start are then theirs alone."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TypeVar

from menura.errors import MenuraError, ResourceError

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_LAST_WORDS_BYTES = 2000
_FAREWELL_S = 20.0


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
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, pickle.dumps((task, request))), daemon=True)
    process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        process.join(_FAREWELL_S)
        raise ResourceError(
            f"a measuring process ended with exit code {process.exitcode}: most likely there was not enough memory."
        ) from None
    finally:
        ours.close()
        process.kill()
        process.join()
    if isinstance(answer, _Raised):
        raise answer.error
    result: Answer = answer
    return result


def _serve(pipe: Connection, call: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    threading.Thread(target=_end_with_parent, args=(pipe,), daemon=True).start()
    try:
        task, request = pickle.loads(call)  # only here: it may import torch, which takes seconds
        answer: object = task(request)
    except (MenuraError, OSError, MemoryError) as error:
        answer = _Raised(error=error)
    except Exception as error:  # noqa: BLE001  (the process edge: the parent raises it)
        answer = _Raised(error=RuntimeError(f"{type(error).__name__}: {error}"))
    pipe.send(answer)


def _end_with_parent(pipe: Connection) -> None:
    try:
        pipe.recv()
    except (EOFError, OSError):
        os._exit(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What a program took from its start to its end."""

    wall_s: float
    cpu_s: float
    """Processor time with its own children's; 0 where the system doesn't say."""
    peak_mb: float
    """Largest resident memory, MiB; of its children the largest; 0 where the system doesn't say."""
    exit_code: int
    """Negative: the signal that ended it."""
    last_words: str
    """The last line it wrote on standard error."""


def timed(command: Sequence[str]) -> Timed:
    """Run a program, without a shell, and time it; what it prints is thrown away.

    Raises:
        OSError: it can't be started.
    """
    with tempfile.TemporaryFile() as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        try:
            cpu_s, peak_mb = _waited(process)
            wall_s = time.perf_counter() - begun
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
        lines = errors.read().decode(errors="replace").strip().splitlines()
    return Timed(
        wall_s=wall_s,
        cpu_s=cpu_s,
        peak_mb=peak_mb,
        exit_code=process.returncode,
        last_words=lines[-1].strip() if lines else "",
    )


def _waited(process: subprocess.Popen[bytes]) -> tuple[float, float]:
    """Seconds of processor time and peak memory in MiB of a program, at its end."""
    if not hasattr(os, "wait4"):  # Windows
        process.wait()
        return 0.0, 0.0
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / unit
