"""Measurements have a process of their own: memory and start are then theirs alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

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
    """Largest resident memory, MiB; of its children the largest; 0 where the system doesn't say."""
    exit_code: int
    """Negative: the signal that ended it."""
    last_line: str
    """Of what it wrote on standard error."""


def timed(command: Sequence[str]) -> Timed:
    """Run a program, without a shell, and time it; what it prints is thrown away.

    Raises:
        OSError: it can't be started.
        ResourceError: the process that measures it was killed.
    """
    with tempfile.TemporaryDirectory(prefix="menura-bench-") as folder:
        answer, errors = Path(folder, "answer"), Path(folder, "errors")
        _launch(command, answer, errors)
        took = json.loads(answer.read_text(encoding="utf-8"))
        if "errno" in took:
            raise OSError(took["errno"], took["error"], command[0])
        return Timed(**took, last_line=_last_line(errors))


def _launch(command: Sequence[str], answer: Path, errors: Path) -> None:
    """Start the command by a small process that writes down what it took."""
    with errors.open("wb") as stream:
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("launcher.py")), str(answer), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,  # so that both can be ended together
        )
        try:
            launcher.wait()
        finally:
            if launcher.returncode is None:
                if hasattr(os, "killpg"):
                    os.killpg(launcher.pid, signal.SIGKILL)
                launcher.kill()
                launcher.wait()
    if launcher.returncode != 0:
        raise ResourceError(
            None, f"the measuring process ended with exit code {launcher.returncode}: {_last_line(errors)}"
        )


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _STDERR_TAIL_BYTES))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else ""
