"""Training on several devices at once, each with a share of every batch. Needs the extra `multi-gpu` (Fabric)."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed
from torch.distributed import distributed_c10d
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from menura.errors import AssetMissingError, MenuraError, OptionError, ResourceError
from menura.train.learning.stepper import Peers

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    from lightning_fabric import Fabric

_ENDING_S = 2.0
"""How long processes may take to end."""


def check_devices(devices: int, device: torch.device, batch_size: int) -> None:
    if batch_size % devices:
        raise OptionError(
            None, f"a batch size of {batch_size} is not divisible by {devices}", "Change {batch_size}", "devices"
        )
    if device.type == "cuda" and torch.cuda.device_count() < devices:
        raise OptionError(None, f"only {torch.cuda.device_count()} available", option="devices")
    if device.type not in ("cuda", "cpu"):
        raise OptionError(None, f"'{device.type}' devices can't train together", "Use one", "devices")
    try:
        import lightning_fabric  # noqa: F401
    except ImportError as error:
        raise AssetMissingError(
            None, "training on several devices needs Lightning Fabric", "pip install 'menura[multi-gpu]'", "devices"
        ) from error


def train_together(
    devices: int, device: torch.device, work: Callable[[Peers, torch.device, Any], None], given: Any
) -> None:
    """Run `work` in a process for each device, after `check_devices`.

    Args:
        devices: how many.
        device: of which kind; CPU processes are for tests only.
        work: a module's function, called with the peers, its own device, and what is given.
        given: what it needs; must be picklable.

    Raises:
        ResourceError: a process was killed, as systems do when memory runs out.
        Exception: what `work` raised first; MenuraError, OSError and MemoryError as they were, others as RuntimeError.
    """
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator=device.type, devices=devices, strategy="ddp_spawn")
    failures: SimpleQueue[Exception] = get_context("spawn").SimpleQueue()
    others = set(multiprocessing.active_children())
    try:
        fabric.launch(partial(_begin, work=work, given=given, failures=failures))
    except (ProcessRaisedException, ProcessExitedException) as error:
        if isinstance(error, ProcessExitedException) and failures.empty():
            raise ResourceError(
                None,
                f"a training process died ({error}), perhaps out of memory",
                "Free memory or lower {batch_size}: the same command resumes from the last checkpoint",
            ) from error
        raise (error if failures.empty() else failures.get()) from error
    finally:
        # Ctrl-C at a terminal comes to all; another interruption to this process only.
        _end([process for process in multiprocessing.active_children() if process not in others])


@contextlib.contextmanager
def events_of_processes(on_event: Callable[[Any], None]) -> Iterator[SimpleQueue[Any]]:
    """A queue for the processes of this block; what they put there comes to `on_event`, in a thread."""
    queue: SimpleQueue[Any] = get_context("spawn").SimpleQueue()

    def hear() -> None:
        while (event := queue.get()) is not None:
            on_event(event)

    thread = threading.Thread(target=hear, name="training events")
    thread.start()
    try:
        yield queue
    finally:
        queue.put(None)
        thread.join()


def _end(processes: Sequence[BaseProcess]) -> None:
    """Wait for processes that are about to end; interrupt the others, which puts them in order; kill what is left."""
    for act, patience_s in ((None, _ENDING_S), (_interrupt, 5 * _ENDING_S), (BaseProcess.kill, None)):
        until_s = time.monotonic() + (patience_s or 0.0)
        for process in [process for process in processes if process.is_alive()]:
            if act is not None:
                act(process)
        for process in processes:
            process.join(None if patience_s is None else max(0.0, until_s - time.monotonic()))


def _interrupt(process: BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)


def _begin(
    fabric: Fabric,
    *,
    work: Callable[[Peers, torch.device, Any], None],
    given: Any,
    failures: SimpleQueue[Exception],
) -> None:
    def average(tensor: Tensor) -> Tensor:
        mean = fabric.all_reduce(tensor, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    peers = Peers(rank=fabric.global_rank, world=fabric.world_size, average=average)
    try:
        work(peers, fabric.device, given)
    except BaseException as error:
        # Told before the group goes: then the others fail too, for want of this one.
        if isinstance(error, Exception):
            failures.put(_portable(error))
        with contextlib.suppress(RuntimeError):  # of a group that is broken already; it would hide the error
            _leave(failed=True)
        raise
    _leave(failed=False)


def _leave(*, failed: bool) -> None:
    """Take this process's part of the group down. Left to the interpreter's end, gloo's threads at times abort it.

    No barrier: nothing is exchanged after the last step, and one who has failed never comes to it.
    """
    if not distributed.is_initialized():
        return
    if failed and distributed.get_backend() == "nccl":
        # To destroy it is for all to do at once, and the others wait for this one's gradients.
        distributed_c10d._abort_process_group()
    else:
        distributed.destroy_process_group()


def _portable(error: Exception) -> Exception:
    """The error, if it can surely be sent to another process, or one that says the same."""
    if isinstance(error, (MenuraError, OSError, MemoryError)):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
