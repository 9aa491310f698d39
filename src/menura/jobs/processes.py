"""A batch shared by processes of this machine. Loads no torch by itself."""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from menura.audio.remote import size_bytes
from menura.jobs.scheduler import Link, WorkerLostError, convert_shared
from menura.jobs.worker import Message, Task, serve
from menura.loading.request import Asked
from menura.options import BatchOptions, EngineOptions
from menura.system.device import cuda_devices, default_threads
from menura.system.memory import available_memory_bytes
from menura.system.processes import spawn
from menura.types import FileResult, Place, Progress, RunReport

_END_S = 20.0

_CORES_A_PROCESS = 4
"""One process keeps about four busy: its networks' layers are too short for more."""

_STARTER_BYTES, _FULL_SIZE_BYTES = 600 * 10**6, 2 * 10**9
"""Peak memory of a process with a starter voice, and with a voice of RVC's size (docs/performance.md)."""

_SHARE_OF_FREE_MEMORY = 0.5

_INPUT_BYTES_A_PROCESS = 2 * 2**20
"""A process takes seconds to start: 20 s of 16-bit sound at 48 kHz, or two minutes of MP3, for each at least."""


def process_count(sources: Sequence[Place], engine: EngineOptions, batch: BatchOptions, *, builtin: bool) -> int:
    """How many processes share a batch on this machine.

    `workers` where it is given. Else one, with these exceptions: one for each of several CUDA devices, and on a CPU of
    many cores one for every four, as far as half of the free memory holds their networks. A single file has one, so
    have a few seconds of sound, and with `threads` the caller has divided the cores already.

    Args:
        sources: the recordings.
        engine: what each process runs with.
        batch: `workers`.
        builtin: whether the voice is a starter voice, which is small.
    """
    if batch.workers is not None:
        return min(batch.workers, max(1, len(sources)))
    if len(sources) < 2 or engine.threads is not None:
        return 1
    most = min(len(sources), max(1, sum(map(size_bytes, sources)) // _INPUT_BYTES_A_PROCESS))
    gpus = cuda_devices() if engine.device in ("auto", "cuda") else 0
    if gpus > 1:
        return min(gpus, most)
    if gpus or engine.device not in ("auto", "cpu") or (sys.platform, platform.machine()) == ("darwin", "arm64"):
        return 1
    held = int(_SHARE_OF_FREE_MEMORY * available_memory_bytes()) // (_STARTER_BYTES if builtin else _FULL_SIZE_BYTES)
    return max(1, min(most, default_threads() // _CORES_A_PROCESS, held))


def convert_with_workers(
    pairs: Sequence[tuple[Place, Place]],
    request: Asked,
    engine: EngineOptions,
    *,
    workers: int,
    on_progress: Callable[[Progress], None] | None = None,
    on_result: Callable[[int, FileResult], None] | None = None,
) -> RunReport:
    """Convert many files by several processes; one that fails stops nothing, nor does a process that is killed.

    Args:
        pairs: (input, output).
        request: what is asked for, the same for all.
        engine: what each process runs with; without a number of threads the cores are divided among them. Several CUDA
            devices are taken in turn.
        workers: how many processes.
        on_progress: called when a file is begun and after every block.
        on_result: called with an item's place and result when its file is complete.

    Returns:
        The report; loads and peak memory are the sums over the processes.

    Raises:
        MenuraError: the request as a whole can't be carried out.
    """
    threads = engine.threads or max(1, default_threads() // workers)
    backend = Processes(request, dataclasses.replace(engine, threads=threads))
    return convert_shared(pairs, backend, workers=workers, on_progress=on_progress, on_result=on_result)


class _ProcessLink:
    """A process, and the pipe to it."""

    def __init__(self, process: SpawnProcess, pipe: Connection) -> None:
        self.process, self.pipe = process, pipe

    def send(self, task: Task | None) -> None:
        """See Link."""
        try:
            self.pipe.send(task)
        except OSError as error:
            raise WorkerLostError(str(error)) from error

    def receive(self) -> Message:
        """See Link."""
        try:
            message: Message = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            code = self.process.exitcode or 0
            raise WorkerLostError(f"signal {-code}" if code < 0 else f"exit code {code}") from error
        return message


class Processes:
    """Spawned processes; each ends with its parent.

    Args:
        request: what is asked for.
        engine: what each process runs with.
    """

    stays_for_loading = True

    def __init__(self, request: Asked, engine: EngineOptions) -> None:
        self._request, self._engine = request, engine

    def start(self, number: int) -> Link:
        process, pipe = spawn(_work, self._request, self._engine, number, name=f"menura-worker-{number}")
        return _ProcessLink(process, pipe)

    def heard(self, links: Sequence[Link], timeout_s: float | None) -> list[Link]:
        """See Backend."""
        ready = wait([link.pipe for link in _own(links)], timeout_s)
        return [link for link in _own(links) if link.pipe in ready]

    def forget(self, link: Link) -> None:
        """See Backend."""
        for lost in _own([link]):
            lost.process.kill()
            lost.process.join()
            lost.pipe.close()

    def close(self, links: Sequence[Link], *, gently: bool) -> None:
        """See Backend; those that are at work remove what is half-written."""
        for link in _own(links):
            if gently:
                link.process.join(_END_S)
            link.process.terminate()
        for link in _own(links):
            link.process.join(_END_S)
            link.process.kill()
            link.process.join()
            link.pipe.close()
            link.process.close()


def _own(links: Sequence[Link]) -> list[_ProcessLink]:
    return [link for link in links if isinstance(link, _ProcessLink)]


def _work(pipe: Connection, request: Asked, engine: EngineOptions, number: int) -> None:
    serve(pipe, request, dataclasses.replace(engine, device=_device(engine.device, number)))


def _device(name: str, number: int) -> str:
    """Several CUDA devices are taken in turn."""
    if name not in ("auto", "cuda"):
        return name
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{number % count}" if count > 1 else name
