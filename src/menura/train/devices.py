"""Training on several devices at once, each with a share of every batch. Needs the extra `multi-gpu` (Fabric)."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import distributed_c10d
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from menura.errors import AssetMissingError, MenuraError, OptionError, ResourceError

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

    from lightning_fabric import Fabric

    from menura.models.synthesizer import TrainingBatch
    from menura.train.dataset import Example

_ENDING_S = 2.0
"""For processes that have heard of the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """The processes that train together, as one of them sees them."""

    rank: int = 0
    world: int = 1
    average: Callable[[Tensor], Tensor] | None = None
    """The mean of a tensor over all processes; None where there is one."""

    @property
    def leads(self) -> bool:
        """Whether this one writes checkpoints and logs."""
        return self.rank == 0

    def share(self, example: Example) -> Example:
        """Every `world`-th row of a batch."""
        if self.world == 1:
            return example
        rows = slice(self.rank, None, self.world)
        return type(example)(batch=_rows(example.batch, rows), audio=example.audio[rows])

    def average_gradients(self, model: nn.Module) -> None:
        """Give all processes the gradients of the whole batch.

        By hand rather than by a wrapped module: the trainer calls parts of the networks, which wrappers don't see.
        """
        if self.average is None:
            return
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        flat = self.average(torch.cat([gradient.flatten() for gradient in gradients]))
        means = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))


def _rows(batch: TrainingBatch, rows: slice) -> TrainingBatch:
    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    taken: dict[str, Any] = {name: None if value is None else value[rows] for name, value in fields.items()}
    return dataclasses.replace(batch, **taken)


def check_devices(devices: int, device: torch.device, batch_size: int) -> None:
    """Raise what `train_together` would, of what can be known before anything long is begun.

    Raises:
        OptionError: there are fewer devices, or the batch can't be shared evenly.
        AssetMissingError: Fabric is not installed.
    """
    if batch_size % devices:
        raise OptionError(f"devices: {batch_size} rows can't be shared by {devices}; change --batch-size.")
    if device.type == "cuda" and torch.cuda.device_count() < devices:
        raise OptionError(f"devices: there are {torch.cuda.device_count()}; ask for no more.")
    if device.type not in ("cuda", "cpu"):
        raise OptionError(f"devices: several of kind '{device.type}' can't train together; take one.")
    try:
        import lightning_fabric  # noqa: F401
    except ImportError as error:
        raise AssetMissingError(
            "training on several devices needs Lightning Fabric, which is not installed: "
            "pip install 'menura[multi-gpu]'."
        ) from error


def train_together(
    devices: int, device: torch.device, batch_size: int, work: Callable[[Peers, torch.device, Any], None], given: Any
) -> None:
    """Run `work` in a process for each device.

    Args:
        devices: how many.
        device: of which kind; processors can be shared too, which helps tests only.
        batch_size: rows that are shared out.
        work: a module's function, called with the peers, its own device, and what is given.
        given: what it needs; must be picklable.

    Raises:
        OptionError: there are fewer devices, or the batch can't be shared evenly.
        AssetMissingError: Fabric is not installed.
        ResourceError: a process was killed, as systems do when memory runs out.
        Exception: what `work` raised first; MenuraError, OSError and MemoryError as they were, others as RuntimeError.
    """
    check_devices(devices, device, batch_size)
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator=device.type, devices=devices, strategy="ddp_spawn")
    failures: SimpleQueue[Exception] = get_context("spawn").SimpleQueue()
    others = set(multiprocessing.active_children())
    try:
        fabric.launch(partial(_begin, work=work, given=given, failures=failures))
    except (ProcessRaisedException, ProcessExitedException) as error:
        if isinstance(error, ProcessExitedException) and failures.empty():
            raise ResourceError(
                f"a training process died ({error}), perhaps for want of memory; nothing that was saved is lost. Free "
                "memory or take a smaller --batch-size: the same command goes on from the last checkpoint."
            ) from error
        raise (error if failures.empty() else failures.get()) from error
    finally:
        # Ctrl-C at a terminal comes to all; another interruption to this process only.
        _end([process for process in multiprocessing.active_children() if process not in others])


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
