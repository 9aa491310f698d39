"""Measurements have a process of their own: memory and start are then theirs alone."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

from menura.errors import MenuraError, ResourceError
from menura.system.processes import deaf_to_interrupts

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
    with deaf_to_interrupts():
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
        ResourceError: the process that measures it was killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        told, errors = Path(folder, "told"), Path(folder, "errors")
        _launched(command, told, errors)
        took = json.loads(told.read_text(encoding="utf-8"))
        if "errno" in took:
            raise OSError(took["errno"], took["error"], command[0])
        return Timed(**took, last_words=_last_line(errors))


def _launched(command: Sequence[str], told: Path, errors: Path) -> None:
    """The command, started by a small process that tells what it took."""
    with errors.open("wb") as stream:
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("launcher.py")), str(told), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,  # so that both can be ended together
        )
        try:
            launcher.wait()
        finally:
            if launcher.returncode is None:
                _end(launcher)
    if launcher.returncode != 0:
        raise ResourceError(f"the measuring process ended with exit code {launcher.returncode}: {_last_line(errors)}")


def _end(launcher: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(launcher.pid, signal.SIGKILL)
    else:  # Windows
        launcher.kill()
    launcher.wait()


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_WORDS_BYTES))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
