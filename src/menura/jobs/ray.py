"""A batch shared by actors of a Ray cluster, each with networks that stay loaded. Ray is the extra `ray`.

The scheduler stays in this process and is the only one that writes the journal. Actors need Menura, the recordings, the
output folder and the voice's files at the same paths.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import queue
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from menura.errors import OptionError, ResourceError
from menura.jobs.scheduler import Link, WorkerLostError, convert_shared
from menura.jobs.worker import Farewell, Finished, Message, Ready, Refused, Task, serve
from menura.loading.request import Asked, Request
from menura.options import ConversionOptions, EngineOptions
from menura.system.device import physical_cores
from menura.types import FileResult, Place, Progress, RunReport
from menura.voices.assets import HOME_VARIABLE
from menura.voices.library import VOICE_SUFFIXES

_MOST_THREADS = 4
"""Of an actor by default: more of them gain less than a second actor does."""

_OBJECT_STORE_BYTES = 80 * 2**20
"""Nearly the least that Ray takes; sound doesn't travel through it."""

_END_S = 20.0
_ANSWER_S = 5.0
_SLICE_S = 0.5
"""Of waiting, between looks at whether SIGTERM came."""


def convert_on_cluster(
    pairs: Sequence[tuple[Place, Place]],
    asked: Asked,
    engine: EngineOptions,
    *,
    address: str,
    workers: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_result: Callable[[int, FileResult], None] | None = None,
) -> RunReport:
    """Convert many files by actors of a Ray cluster; one that fails stops nothing, nor does an actor that dies.

    Args:
        pairs: (input, output), reachable from all machines.
        asked: what is asked for, the same for all; each machine resolves the options in its own data folder.
        engine: what each actor runs with.
        address: HOST:PORT, `local` (a cluster of its own on this machine), or `auto` ($RAY_ADDRESS, else `local`).
        workers: how many actors; by default as many as the cluster has room for.
        on_progress: called when a file is begun and after every block.
        on_result: called with an item's place and result when its file is complete.

    Returns:
        The report; loads and peak memory are the sums over the actors.

    Raises:
        OptionError: Ray isn't installed, no cluster answers there, or it can't hold such a worker.
        MenuraError: the request as a whole can't be carried out.
    """
    with connected(address) as cluster:
        nodes = [
            Node(cpus=int(node["Resources"].get("CPU", 0)), gpus=int(node["Resources"].get("GPU", 0)))
            for node in cluster.ray.nodes()
            if node["Alive"]
        ]
        share = share_cluster(nodes, engine, workers)
        engine = dataclasses.replace(engine, device=share.device, threads=share.threads, home=_home(engine))
        options = _absolute(asked.options if isinstance(asked, Request) else asked)
        backend = Actors(cluster, options, engine, gpus=share.gpus)
        return convert_shared(pairs, backend, workers=share.workers, on_progress=on_progress, on_result=on_result)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of a cluster."""

    cpus: int
    gpus: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """How a cluster is divided among workers."""

    workers: int
    threads: int
    """Of each, and the CPUs that it claims."""
    gpus: int
    """That each claims: 0 or 1."""
    device: str


def share_cluster(nodes: Sequence[Node], engine: EngineOptions, workers: int | None) -> Share:
    """Divide a cluster: a worker for each GPU, or for every few CPUs.

    Args:
        nodes: the machines.
        engine: asked for; `threads` are each worker's.
        workers: asked for, None for as many as there is room for.

    Raises:
        OptionError: no machine can hold such a worker.
    """
    kind = engine.device.partition(":")[0]
    with_gpu = [node for node in nodes if node.gpus]
    if kind == "cuda" and not with_gpu:
        raise OptionError(f"device: '{engine.device}' is asked for, and no machine of the cluster offers Ray a GPU.")
    if with_gpu and kind in ("auto", "cuda"):
        fair = min(node.cpus // node.gpus for node in with_gpu)
        threads = engine.threads or max(1, min(_MOST_THREADS, fair))
        room = sum(min(node.gpus, node.cpus // threads) for node in with_gpu)
        share = Share(workers=workers or room, threads=threads, gpus=1, device="cuda")
    else:
        widest, total = max((node.cpus for node in nodes), default=0), sum(node.cpus for node in nodes)
        fair = min(widest, total // workers) if workers else min(widest, _MOST_THREADS)
        threads = engine.threads or max(1, fair)
        room = sum(node.cpus // threads for node in nodes)
        device = "cpu" if kind == "auto" else engine.device
        share = Share(workers=workers or room, threads=threads, gpus=0, device=device)
    if not room:
        raise OptionError(
            f"threads: no machine of the cluster has {share.threads} CPUs{' and a GPU' if share.gpus else ''} for one "
            f"worker; give fewer --threads."
        )
    return share


class _Inbox:
    """The actor's channel: what comes in and goes out between its threads."""

    def __init__(self) -> None:
        self.tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()

    def send(self, message: Message, /) -> None:
        """See Channel."""
        self.messages.put(message)

    def recv(self) -> Task | None:
        """See Channel."""
        return self.tasks.get()


class MenuraWorker:
    """What runs in an actor: a thread converts, so that the actor can listen and tell meanwhile.

    Args:
        options: what is asked for.
        engine: what the process runs with.
    """

    def __init__(self, options: ConversionOptions, engine: EngineOptions) -> None:
        self._inbox = _Inbox()
        threading.Thread(target=self._work, args=(options, engine), name="menura-convert", daemon=True).start()

    def give(self, task: Task | None) -> None:
        """A file to convert; None for no more."""
        self._inbox.tasks.put(task)

    def listen(self) -> list[Message]:
        """What there is to tell; waits until there is something."""
        messages = [self._inbox.messages.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._inbox.messages.get_nowait())
        return messages

    def _work(self, options: ConversionOptions, engine: EngineOptions) -> None:
        try:
            serve(self._inbox, options, engine)
        except BaseException:  # noqa: BLE001  (the process edge: the actor must not live on without its worker)
            traceback.print_exc()
            os._exit(1)


class _ActorLink:
    """An actor, and what is expected of it."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self._told: collections.deque[Message] = collections.deque()
        self._where = "before it was ready"
        self.task: Task | None = None
        """What it was given last."""
        self.process: int | None = None
        self.listening: Any = actor.listen.remote()
        """Ray's reference to what will be heard next."""

    @property
    def has_news(self) -> bool:
        """Whether something was heard that wasn't received yet."""
        return bool(self._told)

    def send(self, task: Task | None) -> None:
        """See Link."""
        self.task = task
        local = task and dataclasses.replace(task, source=_anywhere(task.source), output=_anywhere(task.output))
        self._actor.give.remote(local)

    def receive(self) -> Message:
        """See Link."""
        if not self._told:
            try:
                self._told += self._ray.get(self.listening)
            except self._ray.exceptions.RayError as error:
                raise WorkerLostError(self._how(error)) from error
            if not isinstance(self._told[-1], (Farewell, Refused)):
                self.listening = self._actor.listen.remote()
        message = self._told.popleft()
        if isinstance(message, Ready):
            self.process, self._where = message.process, f"process {message.process} on {message.host}"
        if isinstance(message, Finished) and self.task is not None:
            return Finished(result=_as_given(message.result, self.task))
        return message

    def kill(self) -> None:
        """End the actor's process at once."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(self._actor, no_restart=True)

    def await_end(self, deadline_s: float) -> None:
        """Wait until a killed actor answers no more."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            while (left_s := deadline_s - time.monotonic()) > 0:
                self._ray.get(self._actor.give.remote(None), timeout=left_s)

    def _how(self, error: Exception) -> str:
        lines = str(error).strip().splitlines()
        if "creation task" in str(error):  # Menura can't be imported there, for one
            return f"Ray: {lines[-1].strip()}"
        return f"Ray's actor, {self._where}"


class Actors:
    """Actors of a connected cluster.

    Args:
        cluster: where they run.
        options: what is asked for, with paths that hold anywhere.
        engine: what each actor runs with; its threads are the CPUs that it claims.
        gpus: that each claims.
    """

    stays_for_loading = False  # it may be waiting for room in the cluster

    def __init__(self, cluster: Cluster, options: ConversionOptions, engine: EngineOptions, *, gpus: int = 0) -> None:
        self._ray, self._termination = cluster.ray, cluster.termination
        self._options, self._engine = options, engine
        # Ray restarts nothing: the scheduler starts another worker, and gives it the file.
        self._actor = self._ray.remote(MenuraWorker).options(
            num_cpus=engine.threads or 1, num_gpus=gpus, max_concurrency=2, max_restarts=0, max_task_retries=0
        )

    def start(self, number: int) -> Link:
        """See Backend."""
        return _ActorLink(self._ray, self._actor.remote(self._options, self._engine))

    def heard(self, links: Sequence[Link], timeout_s: float | None) -> list[Link]:
        """See Backend."""
        news: list[Link] = [link for link in _own(links) if link.has_news]
        if news:
            return news
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = _SLICE_S if deadline_s is None else min(_SLICE_S, max(0.0, deadline_s - time.monotonic()))
            ready, _ = self._ray.wait([link.listening for link in _own(links)], num_returns=1, timeout=left_s)
            self._termination.check()
            if ready or (deadline_s is not None and time.monotonic() >= deadline_s):
                return [link for link in _own(links) if link.listening in ready]

    def forget(self, link: Link) -> None:
        """See Backend."""
        for lost in _own([link]):
            lost.kill()
            lost.await_end(time.monotonic() + _END_S)

    def close(self, links: Sequence[Link], *, gently: bool) -> None:
        """See Backend. Actors hold nothing that is worth a gentle end; the scheduler removes what is half-written."""
        for link in _own(links):
            link.kill()
        deadline = time.monotonic() + _END_S
        for link in _own(links):
            link.await_end(deadline)


def _own(links: Sequence[Link]) -> list[_ActorLink]:
    return [link for link in links if isinstance(link, _ActorLink)]


class Termination:
    """SIGTERM during a run: Ray's waiting calls make a mess of exceptions that its handler raises, so it waits too."""

    def __init__(self) -> None:
        self._previous: Any = None
        self._number: int | None = None

    def defer(self, previous: Any) -> None:
        """Take SIGTERM over from a handler; the system's own stays."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._previous = previous
        signal.signal(signal.SIGTERM, self._note if callable(previous) else previous)

    def check(self) -> None:
        """Call the handler now, if the signal came."""
        number, self._number = self._number, None
        if number is not None:
            self._previous(number, None)

    def give_back(self) -> None:
        """Put the handler back."""
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _note(self, number: int, _frame: object) -> None:
        self._number = number


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A connected cluster."""

    ray: Any
    """The module."""
    termination: Termination


@contextlib.contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Ray, connected; a connection that is there already is used and left."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "local")
    _check_answers(address)
    # Read by Ray when it is imported. It reports to its makers unless told not to, listens on all of the machine's
    # addresses, and tells on standard output, which is a document's with --json, when a worker dies.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    if address == "local":
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    try:
        import ray
    except ImportError as error:
        raise OptionError("ray: needs Ray: pip install 'menura[ray]', or share the files with --workers.") from error
    termination = Termination()
    if ray.is_initialized():
        yield Cluster(ray=ray, termination=termination)
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _initialise(ray, address)
        termination.defer(handler)  # Ray has taken it for itself
        yield Cluster(ray=ray, termination=termination)
    finally:
        ray.shutdown()
        termination.give_back()


def _initialise(ray: Any, address: str) -> None:
    own = {"num_cpus": physical_cores(), "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **(own if address == "local" else {}))
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        if address == "local":
            why = " ".join(str(error).split()) or type(error).__name__
            raise ResourceError(f"Ray can't start on this machine: {why}. Use --workers instead.") from error
        raise _silent(address, error) from error


def _check_answers(address: str) -> None:
    """Fail at once where nobody listens; Ray itself tries for minutes."""
    host, colon, port = address.rpartition(":")
    if not (colon and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise _silent(address, error) from error


def _silent(address: str, error: Exception) -> OptionError:
    why = " ".join(str(error).split()) or type(error).__name__
    return OptionError(
        f"ray: no cluster answers at {address}: {why}. Start one with 'ray start --head', or give another address."
    )


def _home(engine: EngineOptions) -> Path | None:
    """The data folder where it was named; else it is each machine's own."""
    named = engine.home or os.environ.get(HOME_VARIABLE)
    return Path(named).expanduser().absolute() if named else None


def _absolute(options: ConversionOptions) -> ConversionOptions:
    """The request with paths that don't depend on the working folder."""
    voice = Path(options.voice).expanduser()
    return dataclasses.replace(
        options,
        voice=str(voice.absolute()) if voice.suffix.lower() in VOICE_SUFFIXES else options.voice,
        index=options.index and options.index.absolute(),
        f0_file=options.f0_file and options.f0_file.absolute(),
    )


def _anywhere(place: Place) -> Place:
    return place.absolute() if isinstance(place, Path) else place


def _as_given(result: FileResult, task: Task) -> FileResult:
    """A result in the paths that the user gave."""
    given = {str(_anywhere(place)): str(place) for place in (task.source, task.output)}
    error = result.error and result.error.about(given)
    output = None if result.output is None else task.output
    return dataclasses.replace(result, input=str(task.source), output=output, error=error)
