"""A batch shared by actors of a Ray cluster, each with networks that stay loaded. Ray is the extra `ray`.

The scheduler stays in this process and is the only one that writes the journal. Actors need Menura, the recordings, the
output folder and the voice's files at the same paths.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from menura import __version__
from menura.errors import MenuraError, OptionError, ResourceError
from menura.jobs.parts import Finished, Unit
from menura.jobs.scheduler import END_S, Hooks, Lost, Message, Ready, Task, Worker, share, with_names
from menura.loading.request import Asked, Request
from menura.options import ConversionOptions, EngineOptions
from menura.pipeline.progress import Worked
from menura.system.device import physical_cores
from menura.types import FileResult, Item, Progress, RunReport
from menura.voices.assets import HOME_VARIABLE
from menura.voices.library import VOICE_SUFFIXES

_MOST_THREADS = 4
"""Of an actor by default: more of them gain less than a second actor does."""
_OBJECT_STORE_BYTES = 80 * 2**20
"""Nearly the least that Ray takes; sound doesn't travel through it."""
_ANSWER_S = 5.0


def convert_on_cluster(
    items: Sequence[Item], request: Request, engine: EngineOptions, *, address: str, workers: int | None, hooks: Hooks
) -> RunReport:
    """Convert many files by so many actors of a Ray cluster, by default as many as it has room for.

    The `address` is HOST:PORT, `local` (a cluster of its own on this machine), or `auto` ($RAY_ADDRESS, else `local`).
    Each machine resolves the request's options in its own data folder. Raises MenuraError, as `share`.
    """
    asked = replace(request.portable, options=_absolute(request.options))
    with actors_of(address, asked, engine, workers) as (actors, workers):
        return share(items, actors, workers=workers, request=request, hooks=hooks)


@contextlib.contextmanager
def actors_of(
    address: str, options: Asked | None, engine: EngineOptions, workers: int | None
) -> Iterator[tuple[Actors, int]]:
    """A cluster's actors, with these options or else for tasks, and how many there are to be. Raises MenuraError."""
    with connected(address) as ray:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [Node(cpus=int(has.get("CPU", 0)), gpus=int(has.get("GPU", 0))) for has in machines]
        workers, threads, gpus, device = divide_cluster(nodes, engine, workers)
        named = engine.home or os.environ.get(HOME_VARIABLE)  # else it is each machine's own
        home = Path(named).expanduser().absolute() if named else None
        yield Actors(ray, options, replace(engine, device=device, threads=threads, home=home), gpus=gpus), workers


class Node(NamedTuple):
    """A machine of a cluster."""

    cpus: int
    gpus: int


def divide_cluster(nodes: Sequence[Node], engine: EngineOptions, workers: int | None) -> tuple[int, int, int, str]:
    """A worker for each GPU, or for every few CPUs: how many, and the CPUs (its threads), GPUs and device of each."""
    kind = engine.device.partition(":")[0]
    with_gpu = [node for node in nodes if node.gpus]
    if kind == "cuda" and not with_gpu:
        raise OptionError(None, "no machine of the cluster offers Ray a GPU", "Use {device=cpu}", option="device")
    gpus = 1 if with_gpu and kind in ("auto", "cuda") else 0
    if gpus:
        fair = min(_MOST_THREADS, *(node.cpus // node.gpus for node in with_gpu))
    else:
        widest, total = max((node.cpus for node in nodes), default=0), sum(node.cpus for node in nodes)
        fair = min(widest, total // workers if workers else _MOST_THREADS)
    threads = engine.threads or max(1, fair)
    room = sum(min(node.gpus, node.cpus // threads) if gpus else node.cpus // threads for node in nodes)
    if not room:
        problem = f"no machine of the cluster has {threads} CPUs{' and a GPU' if gpus else ''} for a worker"
        raise OptionError(None, problem, "Use fewer {threads}", option="threads")
    return workers or room, threads, gpus, "cuda" if gpus else "cpu" if kind == "auto" else engine.device


class ClusterWorker:
    """What runs in an actor; its methods are Ray's streaming generators of messages."""

    def __init__(self, options: Asked | None, engine: EngineOptions) -> None:
        self._options, self._engine = options, engine
        self._cancels: dict[int, threading.Event] = {}

    def load(self) -> Iterator[Message]:
        try:
            self._worker = Worker(self._options, self._engine)
        except MenuraError as error:
            yield error
        else:
            yield Ready()

    def do(self, task: Item | Unit) -> Iterator[Message]:
        yield from _told(partial(self._worker.do, task))

    def carry_out(self, number: int, task: Task) -> Iterator[Message]:
        """Convert for a task, until `cancel` is called with its number."""
        cancel = self._cancels.setdefault(number, threading.Event())
        for other in set(self._cancels) - {number}:
            del self._cancels[other]
        yield from _told(partial(self._worker.carry_out, task, cancel))

    def cancel(self, number: int) -> None:
        """Also before the task comes; it does nothing when that has ended."""
        self._cancels.setdefault(number, threading.Event()).set()

    def stats(self) -> Iterator[Message]:
        yield self._worker.stats()


def _told(convert: Callable[[Callable[[Progress | Worked], None]], FileResult | Finished]) -> Iterator[Message]:
    """Progress as it comes, then the end. A thread converts, as progress comes by callback."""
    messages = queue.SimpleQueue[Message | None]()
    with ThreadPoolExecutor(1, thread_name_prefix="menura-convert") as pool:
        done = pool.submit(convert, messages.put)
        done.add_done_callback(lambda _: messages.put(None))
        while (message := messages.get()) is not None:
            yield message
        yield done.result()


class Actor:
    """An actor, and what it was asked last."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self.actor = ray, actor
        self._where: str | None = None
        self.process: int | None = None
        self.item: Item | None = None
        """Of which it does something."""
        self.answer: Any = self.ask("load")
        """Ray's generator of messages; None while it is idle."""

    def ask(self, method: str, *arguments: Any) -> Any:
        return getattr(self.actor, method).options(num_returns="streaming").remote(*arguments)

    def send(self, task: Item | Unit | None) -> bool:
        if self._where is None:  # waiting for room in the cluster, for all that is known
            return False
        self.item = task.item if isinstance(task, Unit) else task
        if isinstance(task, Unit):
            self.begin("do", task._replace(item=_anywhere(task.item)))
        else:
            self.begin("stats") if task is None else self.begin("do", _anywhere(task))
        return True

    def begin(self, method: str, *arguments: Any) -> None:
        """Have `receive` give the messages of a method."""
        self.answer = self.ask(method, *arguments)

    def receive(self) -> Message:
        try:
            message: Message = self._ray.get(next(self.answer))
        except self._ray.exceptions.RayError as error:
            if self._where is None or "creation task" in str(error):  # Menura can't be imported there, for one
                return Lost(f"Ray: {(str(error).strip().splitlines() or [type(error).__name__])[-1].strip()}")
            return Lost(f"Ray's actor, {self._where}")
        if isinstance(message, Ready):
            if message.version != __version__:
                problem = f"has Menura {message.version}, this is {__version__}"
                raise ResourceError(message.host, problem, "Install the same version on all machines")
            self._where, self.process = f"process {message.process} on {message.host}", message.process
        if not isinstance(message, (Progress, Worked)):
            self.answer = None
        if isinstance(message, FileResult) and self.item is not None:
            return with_names(message, self.item, _anywhere(self.item))
        return message


class Actors:
    """The scheduler's backend of actors, whose `engine.threads` are the CPUs that each claims."""

    def __init__(self, ray: Any, options: Asked | None, engine: EngineOptions, *, gpus: int) -> None:
        self._ray, self._arguments = ray, (options, engine)
        # Ray restarts nothing: the scheduler starts another worker, and gives it the file.
        self._worker = ray.remote(ClusterWorker).options(
            num_cpus=engine.threads, num_gpus=gpus, max_restarts=0, max_concurrency=2 if options is None else 1
        )

    def start(self, number: int) -> Actor:
        return Actor(self._ray, self._worker.remote(*self._arguments))

    def wait(self, links: Sequence[Actor], timeout_s: float) -> list[Actor]:
        asked = [link for link in links if link.answer is not None]
        if not asked:
            time.sleep(timeout_s)
        answered, _ = self._ray.wait([link.answer for link in asked], timeout=timeout_s)
        return [link for link in asked if link.answer in answered]

    def reachable(self) -> bool:
        """Whether the cluster is still there: its head answers, and this machine belongs to it."""
        context = self._ray.get_runtime_context()
        try:
            _listens(*context.gcs_address.rsplit(":", 1))
            alive = {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        except (OSError, RuntimeError, self._ray.exceptions.RayError):
            return False
        return context.get_node_id() in alive

    def close(self, links: Sequence[Actor], *, gently: bool) -> None:
        """End all at once, as they hold nothing, and wait until they answer no more."""
        for link in links:
            self._ray.kill(link.actor)
        deadline_s = time.monotonic() + END_S
        for link in links:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.get(next(link.ask("stats")), timeout=max(0.0, deadline_s - time.monotonic()))


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module ray, connected; a connection that is there already is used and left. Raises MenuraError."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "local")
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():  # at once where nobody listens: Ray itself tries for minutes
        try:
            _listens(host, port)
        except OSError as error:
            raise _no_answer(address, error) from error
    ray = _imported(address)
    if ray.is_initialized():
        yield ray
        return
    try:
        _initialise(ray, address)
        yield ray
    finally:
        ray.shutdown()


def _listens(host: str, port: str) -> None:
    socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()


def _imported(address: str) -> Any:
    # Read by Ray when it is imported. It reports to its makers unless told not to, listens on all of the machine's
    # addresses, and tells on standard output, which is a document's with --json, when a worker dies.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    if address == "local":
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise OptionError(None, "Ray is not installed", "Run pip install 'menura[ray]'", option="ray") from error
    return ray


def _initialise(ray: Any, address: str) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    own = {"num_cpus": physical_cores(), "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **(own if address == "local" else {}))
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise _no_answer(address, error) from error
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)  # Ray has taken it for itself


def _no_answer(address: str, error: Exception) -> MenuraError:
    why = " ".join(str(error).split()) or type(error).__name__
    if address == "local":
        return ResourceError(None, f"Ray can't start on this machine: {why}", "Do without {ray}")
    advice = "Start one with 'ray start --head', or give another address"
    return OptionError(None, f"no cluster answers at {address}: {why}", advice, option="ray")


def _absolute(options: ConversionOptions) -> ConversionOptions:
    """The options with paths that don't depend on the working folder."""
    voice = Path(options.voice).expanduser()
    return replace(
        options,
        voice=str(voice.absolute()) if voice.suffix.lower() in VOICE_SUFFIXES else options.voice,
        index=options.index and options.index.absolute(),
        f0_file=options.f0_file and options.f0_file.absolute(),
    )


def _anywhere(item: Item) -> Item:
    """The same with paths that don't depend on the working folder."""
    return Item(source=item.source.absolute(), output=item.output.absolute())
