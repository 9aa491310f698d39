"""Training on several devices at once, each with a share of every batch. Needs the extra `multi-gpu` (Fabric)."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, distributed
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from menura.errors import AssetMissingError, MenuraError, OptionError, ResourceError
from menura.train.events import OnEvent, ignore
from menura.train.learning.stepper import Peers

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_Work: TypeAlias = Callable[[Peers, torch.device, Any], None]
_ENDING_S = 2.0
"""How long processes may take to end."""


def check_devices(devices: int, device: torch.device, batch_size: int) -> None:
    if batch_size % devices:
        problem = f"a batch size of {batch_size} is not divisible by {devices}"
        raise OptionError(None, problem, "Change {batch_size}", "devices")
    if device.type == "cuda" and torch.cuda.device_count() < devices:
        raise OptionError(None, f"only {torch.cuda.device_count()} available", option="devices")
    if device.type not in ("cuda", "cpu"):
        raise OptionError(None, f"'{device.type}' devices can't train together", "Use one", "devices")
    if find_spec("lightning_fabric") is None:
        problem = "training on several devices needs Lightning Fabric"
        raise AssetMissingError(None, problem, "pip install 'menura[multi-gpu]'", "devices")


def train_together(devices: int, device: torch.device, work: _Work, given: Any, on_event: OnEvent = ignore) -> None:
    """Run `work`, a module's function, in a process for each device; raise what it raised first, in any of them.

    `given` must be picklable. What the leading process tells comes to `on_event`, in a thread.
    """
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator=device.type, devices=devices, strategy="ddp_spawn")
    told: SimpleQueue[Any] = get_context("spawn").SimpleQueue()
    failures: list[Exception] = []

    def hear() -> None:
        while (event := told.get()) is not None:
            failures.append(event) if isinstance(event, Exception) else on_event(event)

    thread = threading.Thread(target=hear, name="training events")
    others = set(multiprocessing.active_children())
    thread.start()
    try:
        with contextlib.ExitStack() as ending:  # the last one first, whatever happens
            ending.callback(thread.join)
            ending.callback(told.put, None)
            ending.callback(_end, others)
            fabric.launch(partial(_begin, work=work, given=given, told=told))
    except (ProcessRaisedException, ProcessExitedException) as error:
        if failures or isinstance(error, ProcessRaisedException):
            raise (failures[0] if failures else error) from error
        advice = "Free memory or lower {batch_size}: the same command resumes from the last checkpoint"
        raise ResourceError(None, f"a training process died ({error}), perhaps out of memory", advice) from error


def _end(others: set[BaseProcess]) -> None:
    """Wait for processes that are about to end; interrupt the rest, which puts them in order; kill what is left."""
    # Ctrl-C at a terminal comes to all; another interruption to this process only.
    processes = [process for process in multiprocessing.active_children() if process not in others]
    for act, patience_s in ((None, _ENDING_S), (_interrupt, 5 * _ENDING_S), (BaseProcess.kill, None)):
        until_s = time.monotonic() + (patience_s or 0.0)
        for process in processes:
            if act is not None and process.is_alive():
                act(process)
        for process in processes:
            process.join(None if patience_s is None else max(0.0, until_s - time.monotonic()))


def _interrupt(process: BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)


def _begin(fabric: Fabric, *, work: _Work, given: Any, told: SimpleQueue[Any]) -> None:
    def average(tensor: Tensor) -> Tensor:
        mean = fabric.all_reduce(tensor, reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    rank = fabric.global_rank
    peers = Peers(rank=rank, world=fabric.world_size, average=average, tell=ignore if rank else told.put)
    try:
        work(peers, fabric.device, given)
    except BaseException as error:
        # Told before the group goes: then the others fail too, for want of this one.
        if isinstance(error, (MenuraError, OSError, MemoryError)):
            told.put(error)
        elif isinstance(error, Exception):  # which might not be sent to another process
            told.put(RuntimeError(f"{type(error).__name__}: {error}"))
        with contextlib.suppress(RuntimeError):  # of a group that is broken already; it would hide the error
            _leave(failed=True)
        raise
    _leave(failed=False)


def _leave(*, failed: bool) -> None:
    """Take this process's part of the group down. Left to the interpreter's end, gloo's threads at times abort it."""
    if not distributed.is_initialized():
        return  # no barrier before: one who has failed never comes to it
    if failed and distributed.get_backend() == "nccl":
        # To destroy it is for all to do at once, and the others wait for this one's gradients.
        distributed.distributed_c10d._abort_process_group()
    else:
        distributed.destroy_process_group()
