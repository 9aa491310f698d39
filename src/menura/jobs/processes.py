"""Workers that are processes of this machine, and how many. Loads no torch by itself."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from menura.audio.places import size_bytes
from menura.errors import DeviceError, MenuraError, OptionError
from menura.jobs.parts import Unit
from menura.jobs.scheduler import END_S, Lost, Message, Ready, Worker, task_count
from menura.loading.request import Asked, Request
from menura.options import BatchOptions, EngineOptions
from menura.system.device import default_threads, resolve_device
from menura.system.gpu import cuda_devices
from menura.system.memory import available_memory_bytes
from menura.system.processes import spawn
from menura.types import Item

_CORES_A_PROCESS = 4
"""One process keeps about four busy: its networks' layers are too short for more."""
_STARTER_BYTES, _FULL_SIZE_BYTES = 600 * 10**6, 2 * 10**9
"""Peak memory of a process with a starter voice, and with a voice of RVC's size (docs/performance.md)."""
_SHARE_OF_FREE_MEMORY = 0.5
_INPUT_BYTES_A_PROCESS = 2 * 2**20
"""A process takes seconds to start: 20 s of 16-bit sound at 48 kHz, or two minutes of MP3, for each at least."""


def process_count(items: Sequence[Item], engine: EngineOptions, batch: BatchOptions, request: Request) -> int:
    """How many processes share a batch on this machine.

    `workers` where it is given, if there are so many files, or parts of them. Else one, with these exceptions: one for
    each of several CUDA devices, and on a CPU of many cores one for every four, as far as half of the free memory holds
    their networks (a starter voice's are small). A single file has one, so have a few seconds of sound, and with
    `threads` the caller has divided the cores already.
    """
    if batch.workers is not None:
        return max(1, task_count(items, request, batch.workers))
    if len(items) < 2 or engine.threads is not None:
        return 1
    input_bytes = sum(size_bytes(item.source) for item in items)
    most = min(len(items), max(1, input_bytes // _INPUT_BYTES_A_PROCESS))
    gpus = cuda_devices() if engine.device in ("auto", "cuda") else 0
    if gpus > 1:
        return min(gpus, most)
    if gpus or engine.device not in ("auto", "cpu") or (sys.platform, platform.machine()) == ("darwin", "arm64"):
        return 1
    held = int(_SHARE_OF_FREE_MEMORY * available_memory_bytes()) // (
        _STARTER_BYTES if request.voice.builtin else _FULL_SIZE_BYTES
    )
    return max(1, min(most, default_threads() // _CORES_A_PROCESS, held))


@dataclass(frozen=True, slots=True, eq=False)
class _Process:
    """A worker process, and the pipe to it."""

    process: SpawnProcess
    pipe: Connection

    def send(self, task: Item | Unit | None) -> bool:
        with contextlib.suppress(OSError):  # receive() tells it
            self.pipe.send(task)
        return True

    def receive(self) -> Message:
        try:
            message: Message = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            return Lost(f"signal {-code}" if code < 0 else f"exit code {code}")
        return message


class Processes:
    """The scheduler's backend of so many processes, which end with this one.

    Without `threads` in `engine` the cores are divided among them; several CUDA devices are taken in turn.
    """

    def __init__(self, asked: Asked, engine: EngineOptions, workers: int) -> None:
        threads = engine.threads or max(1, default_threads() // workers)
        self._asked, self._engine = asked, dataclasses.replace(engine, threads=threads)

    def start(self, number: int) -> _Process:
        return _Process(*spawn(_work, self._asked, self._engine, number, name=f"menura-worker-{number}"))

    def wait(self, links: Sequence[_Process], timeout_s: float) -> list[_Process]:
        ready = wait([link.pipe for link in links], timeout_s)
        return [link for link in links if link.pipe in ready]

    def close(self, links: Sequence[_Process], *, gently: bool) -> None:
        """End them; those that are converting remove their partial outputs."""
        for link in links:
            if gently:
                link.process.join(END_S)
            link.process.terminate()
        for link in links:
            link.process.join(END_S)
            link.process.kill()
            link.process.join()
            link.pipe.close()
            link.process.close()


def _work(pipe: Connection, asked: Asked, engine: EngineOptions, number: int) -> None:
    """Convert what comes until there is nothing more; several CUDA devices are taken in turn."""
    count = cuda_devices() if engine.device in ("auto", "cuda") else 0
    device = engine.device
    if count > 1:
        with contextlib.suppress(OptionError):  # one that doesn't work: what "auto" comes to
            device = str(resolve_device(f"cuda:{number % count}"))
    try:
        worker = Worker(asked, dataclasses.replace(engine, device=device))
    except MenuraError as error:
        pipe.send(error)
        return
    pipe.send(Ready())
    try:
        while (task := pipe.recv()) is not None:
            pipe.send(worker.do(task, pipe.send))
    except DeviceError as error:  # another process can use the GPU again
        pipe.send(Lost(error.problem))
    else:
        pipe.send(worker.stats())
