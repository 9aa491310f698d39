"""A CUDA device pretended on the CPU: its tensors say `cuda:0` and compute real numbers, or shapes only.

Python sees the device, torch's C++ never does: a tensor is a wrapper whose operations run on a CPU tensor inside. So
every decision on `device.type` is taken as on a GPU, all of torch's CPU arithmetic is at hand (half precision and
autograd too), and nothing has to be compiled. What can't be had: the kernels' own faults and limits, times, streams
that overtake each other.

Tensors of two devices don't mix, just as on a GPU. Recorded are synchronisations (where the host waits for the device),
copies, operations, and bytes of memory, which may be limited.

One of Apple's can be pretended as well: it has no double precision, and not all operations.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda:0")
GIB = 1 << 30

_APPLE_LACKS = {"col2im", "stft_backward"}
_APPLE_STEPS = 65_536
"""Of a convolution's result, on macOS before 15.1."""

_TRANSFERS = {Tensor.to, Tensor.cpu, Tensor.cuda}
_FROM_HOST = {torch.tensor, torch.as_tensor, torch.asarray}
_MAY_MIX = {
    Tensor.copy_,
    Tensor.__getitem__,
    Tensor.__setitem__,
    Tensor.type_as,
    torch._has_compatible_shallow_copy_type,
}
_READ = {Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__float__, Tensor.__int__, Tensor.__index__, torch.equal}
_MARKS = {
    torch.ops.aten._conj.default: torch.ops.aten.conj_physical.default,
    torch.ops.aten._neg_view.default: torch.ops.aten.neg.default,
}
"""Views that mark a tensor as conjugate or negative, which a wrapper would hide, and what computes the same."""
_COUNT = {"nonzero", "nonzero_numpy", "masked_select", "unique", "unique_consecutive", "bincount"}
"""Functions whose result's shape depends on values, so that the host has to wait for it."""


@dataclass(frozen=True, slots=True)
class Sync:
    """A place where the host waits for all that the device was given to do."""

    kind: Literal["read", "upload", "count", "wait"]
    """A value or tensor is read; one is copied from memory that isn't pinned, or blocking; a shape depends on values;
    the program waits for an event, a stream or the device."""
    place: str
    """The innermost line of Menura's (else of the test's) that led to it: 'models/layers.py:166 forward'."""


class PretendedTensor(Tensor):
    """A tensor on the pretended device; `inner` is its CPU (or meta) tensor."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendedTensor:
        with torch.inference_mode(False):  # views of tensors that were made outside of it must be like these
            made: PretendedTensor = Tensor._make_wrapper_subclass(
                cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype
            )
        made.inner = inner
        return made

    device = property(lambda self: _active().device)
    is_cuda = property(lambda self: _active().kind == "cuda")
    is_cpu = property(lambda self: False)
    is_meta = property(lambda self: False)
    data = property(lambda self: self.detach())

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _active().run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"PretendedTensor({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = _active().put(self.inner.clone())
        return torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied

    def data_ptr(self) -> int:
        raise AssertionError("the address of memory on the device was asked for")

    def numpy(self, **_: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")


@dataclass
class PretendedGpu:
    """The device; fields may be set and read at any time."""

    kind: Literal["cuda", "mps"] = "cuda"
    total_bytes: int = 8 * GIB
    capability: tuple[int, int] = (8, 6)
    shapes_only: bool = False
    """Compute nothing: what is read from the device is zeros."""
    limit_bytes: int | None = None
    """More than this raises OutOfMemoryError."""
    fails_at: int | None = None
    """So does the allocation of this number, counted by `allocations`."""
    live_bytes: int = 0
    peak_bytes: int = 0
    allocations: int = 0
    syncs: list[Sync] = field(default_factory=list)
    copies: Counter[str] = field(default_factory=Counter)
    """'to device' and 'to host'."""
    copied_bytes: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    """By torch's names; one that consists of others counts once in inference mode."""
    _storages: set[int] = field(default_factory=set)
    _pinned: set[int] = field(default_factory=set)
    _outstanding: list[Callable[[], None]] = field(default_factory=list)
    """What asynchronous copies will have written once they are waited for."""

    @property
    def device(self) -> torch.device:
        return CUDA if self.kind == "cuda" else torch.device(self.kind)

    def reset(self) -> None:
        """Forget what was recorded; memory stays what it is."""
        self.syncs.clear()
        for counter in (self.copies, self.copied_bytes, self.operations):
            counter.clear()
        self.peak_bytes, self.allocations = self.live_bytes, 0

    def places(self, *kinds: str) -> Counter[str]:
        """Where the host waited, and how often; by default for whatever reason."""
        return Counter(sync.place for sync in self.syncs if not kinds or sync.kind in kinds)

    def put(self, value: Any) -> Any:
        """The same on the device: what holds memory is accounted for."""
        if not isinstance(value, Tensor) or isinstance(value, PretendedTensor):
            return value
        if self.kind == "mps" and value.dtype in (torch.float64, torch.complex128):
            raise TypeError(f"Cannot convert a MPS Tensor to {value.dtype} ({_place()})")
        inner = value.to("meta") if self.shapes_only else value
        self._account(inner)
        return PretendedTensor(inner)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """One of torch's operations, on the tensors inside."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, PretendedTensor)]
        self.operations[func.overloadpacket.__name__] += 1
        if torch.Tag.inplace_view in func.tags:
            with no_dispatch():
                func(*args, **kwargs)  # the wrapper's own shape and strides
        args, kwargs = tree_map(self._inner, (args, kwargs))
        result = _MARKS.get(func, func)(*args, **kwargs)
        if self.kind == "mps":
            _check_apple(func.overloadpacket.__name__, args, result)
        same = {id(tensor.inner): tensor for tensor in given}  # operations in place return what they were given
        return tree_map(lambda value: same.get(id(value)) if id(value) in same else self.put(value), result)

    def _inner(self, value: Any) -> Any:
        if isinstance(value, PretendedTensor):
            return value.inner
        return value.to("meta") if self.shapes_only and isinstance(value, Tensor) and value.dim() else value

    def _account(self, inner: Tensor) -> None:
        storage = inner.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        self.allocations += 1
        full = self.limit_bytes is not None and self.live_bytes + size > self.limit_bytes
        if full or self.allocations == self.fails_at:
            raise torch.cuda.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size / 2**20:.2f} MiB.")
        self._storages.add(key)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._storages.discard(key)
        self.live_bytes -= size

    # Copies and waiting

    def sync(self, kind: Literal["read", "upload", "count", "wait"]) -> None:
        self.syncs.append(Sync(kind, _place()))
        self.finish()

    def finish(self, copies: list[Callable[[], None]] | None = None) -> None:
        """What was copied arrives: all of it, or some."""
        for copy in list(self._outstanding) if copies is None else copies:
            if copy in self._outstanding:
                self._outstanding.remove(copy)
                copy()

    def count_copy(self, way: str, tensor: Tensor) -> None:
        self.copies[way] += 1
        self.copied_bytes[way] += tensor.nbytes

    def pin(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._pinned.add(storage._cdata)
        weakref.finalize(storage, self._pinned.discard, storage._cdata)
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        return not isinstance(tensor, PretendedTensor) and tensor.untyped_storage()._cdata in self._pinned

    def upload(self, tensor: Tensor, non_blocking: bool) -> Tensor:
        """A CPU tensor's copy on the device."""
        self.count_copy("to device", tensor)
        if not non_blocking:
            self.sync("upload")
        elif self.is_pinned(tensor):
            self._watch(tensor)
        uploaded: Tensor = self.put(tensor.clone())
        return uploaded

    def _watch(self, tensor: Tensor) -> None:
        """Memory that a copy reads must stay as it is until that is done."""
        before, place = tensor.clone(), _place()

        def check() -> None:
            assert torch.equal(tensor.nan_to_num(), before.nan_to_num()), f"changed while it was copied: {place}"

        self._outstanding.append(check)

    def download(self, source: PretendedTensor, target: Tensor, non_blocking: bool) -> Tensor:
        """Fill a CPU tensor from the device: later, if that is asked for and its memory is pinned."""
        self.count_copy("to host", source)
        values = torch.zeros_like(target) if self.shapes_only else source.inner.clone()
        if non_blocking and self.is_pinned(target):
            with torch.no_grad():
                target.fill_(torch.nan if target.is_floating_point() else 0)
            self._outstanding.append(partial(_fill, target, values))
        else:
            self.sync("read")
            _fill(target, values)
        return target


def _check_apple(name: str, args: Any, result: Any) -> None:
    """Refuse what Apple's GPUs lack in one of the versions of torch and macOS that are supported."""
    product = name in ("mm", "bmm", "matmul", "addmm", "baddbmm")
    if name in _APPLE_LACKS or (product and args[0].is_complex()):
        raise NotImplementedError(f"The operator '{name}' is not implemented for the MPS device ({_place()})")
    if name.startswith("conv") and max(result.shape) > _APPLE_STEPS:
        raise NotImplementedError(f"Output channels > 65536 not supported at the MPS device ({_place()})")


def _fill(target: Tensor, values: Tensor) -> None:
    with torch.inference_mode():  # where the target may have been made
        target.copy_(values)


class _OnTheDevice(TorchFunctionMode):
    """What Python asks torch for, where a device plays a part."""

    def __init__(self, gpu: PretendedGpu) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self.gpu, dict(kwargs or {})
        if func in _TRANSFERS:
            return self._transferred(func, args, kwargs)
        if func in (Tensor.pin_memory, Tensor.is_pinned):
            return gpu.is_pinned(args[0]) if func is Tensor.is_pinned else gpu.pin(args[0].clone())
        self._check(func, args, kwargs)
        if func is Tensor.copy_ and isinstance(args[0], PretendedTensor) != isinstance(args[1], PretendedTensor):
            return self._copied(*args, **kwargs)
        if func in _READ and any(isinstance(arg, PretendedTensor) for arg in args):
            gpu.sync("read")
            return _zero(func, args[0]) if gpu.shapes_only else func(*(gpu._inner(arg) for arg in args), **kwargs)
        pinned, device = kwargs.pop("pin_memory", False), kwargs.pop("device", None)
        if device is None:
            made = func(*args, **kwargs)
        elif torch.device(device).type == gpu.kind:
            made = tree_map(gpu.put, func(*args, **kwargs, device="meta" if gpu.shapes_only else "cpu"))
            if func in _FROM_HOST:
                gpu.count_copy("to device", made)
                gpu.sync("upload")
        else:
            made = func(*tree_map(gpu._inner, args), **kwargs, device=device)
        return gpu.pin(made) if pinned else made

    def _check(self, func: Any, args: Any, kwargs: Any) -> None:
        """Refuse to mix devices; note where the host must know values."""
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        ours = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
        if not ours:
            return
        others = [t for t in tensors if not isinstance(t, PretendedTensor) and (t.dim() or func is torch.stack)]
        if others and func not in _MAY_MIX and kwargs.get("out") is None:
            problem = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
            raise RuntimeError(f"{problem} ({resolve_name(func)}, {_place()})")
        indexing = func in (Tensor.__getitem__, Tensor.__setitem__)
        index = [leaf for leaf in tree_leaves(args[1]) if isinstance(leaf, Tensor)] if indexing else []
        by_mask = any(tensor.dtype in (torch.bool, torch.uint8) for tensor in index)
        counted = getattr(func, "__name__", "") in _COUNT or (func is torch.where and len(args) == 1)
        repeated = func in (Tensor.repeat_interleave, torch.repeat_interleave) and isinstance(args[1], Tensor)
        if counted or by_mask or (repeated and "output_size" not in kwargs):
            self.gpu.sync("count")
        if any(not isinstance(tensor, PretendedTensor) and tensor.dim() for tensor in index):
            self.gpu.sync("upload")

    def _copied(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if not isinstance(target, PretendedTensor):
            assert isinstance(source, PretendedTensor)
            return self.gpu.download(source, target, non_blocking)
        return target.copy_(self.gpu.upload(source, non_blocking)) if source.dim() else target.fill_(source)

    def _transferred(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        gpu, source = self.gpu, args[0]
        if func is Tensor.to:
            others, kwargs, target, non_blocking = _asked(args[1:], kwargs, source.device)
        else:
            others, target = [], torch.device("cpu" if func is Tensor.cpu else "cuda")
            non_blocking = kwargs.pop("non_blocking", False)
        changed = source.to(*others, **kwargs) if others or kwargs else source
        if target.type == source.device.type:
            return changed
        if target.type == gpu.kind:
            return gpu.upload(changed, non_blocking)
        if target.type == "meta":
            return changed.inner.to("meta")
        landing = torch.empty_like(changed.inner, device="cpu")
        return gpu.download(changed, gpu.pin(landing) if non_blocking else landing, non_blocking)


def _asked(args: Any, kwargs: dict[str, Any], here: torch.device) -> tuple[Any, dict[str, Any], torch.device, bool]:
    """What `Tensor.to` was asked for: other arguments, the device, and whether it needn't be waited for."""
    target, kept, positional = kwargs.pop("device", None), [], list(args)
    if positional and isinstance(positional[0], Tensor):
        other = positional.pop(0)
        target, kept = other.device, [other.dtype]
    elif positional and not isinstance(positional[0], torch.dtype):
        target = positional.pop(0)
    if positional and isinstance(positional[0], torch.dtype):
        kept = [positional.pop(0)]
    non_blocking = positional.pop(0) if positional else kwargs.pop("non_blocking", False)
    return kept, kwargs, here if target is None else torch.device(target), non_blocking


def _zero(func: Any, tensor: Any) -> Any:
    return func(torch.zeros(tensor.shape, dtype=tensor.dtype)) if func is not torch.equal else True


def _place() -> str:
    """The innermost frame of Menura's on the stack; else the innermost that is neither torch's nor this file's."""
    frame, fallback = sys._getframe(1), "?"
    while frame is not None:
        path = frame.f_code.co_filename.replace("\\", "/")
        here = f"{path.rpartition('/')[2]}:{frame.f_lineno} {frame.f_code.co_name}"
        if "/src/menura/" in path:
            return f"{path.rpartition('/src/menura/')[2]}:{frame.f_lineno} {frame.f_code.co_name}"
        if fallback == "?" and "/torch/" not in path and path != __file__:
            fallback = here
        frame = frame.f_back
    return fallback


_GROUP = torch._C._group_tensors_by_device_and_dtype
_gpus: list[PretendedGpu] = []


def _active() -> PretendedGpu:
    assert _gpus, "a tensor of the pretended device outlived it"
    return _gpus[-1]


class PretendedStream:
    """Everything is done in the order in which it was given."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.device = CUDA

    def __enter__(self) -> PretendedStream:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def synchronize(self) -> None:
        _active().sync("wait")

    def wait_stream(self, _other: Any) -> None:
        return None

    wait_event = wait_stream

    def query(self) -> bool:
        return not _active()._outstanding

    def record_event(self, event: PretendedEvent | None = None) -> PretendedEvent:
        event = event or PretendedEvent()
        event.record(self)
        return event


class PretendedEvent:
    """Waiting for it lets what was copied before it arrive."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._copies: list[Callable[[], None]] = []

    def record(self, _stream: Any = None) -> None:
        self._copies = list(_active()._outstanding)

    def synchronize(self) -> None:
        _active().syncs.append(Sync("wait", _place()))
        _active().finish(self._copies)

    def wait(self, _stream: Any = None) -> None:
        return None

    def query(self) -> bool:
        """Never at once, so that whoever asks has to be patient."""
        waiting = [copy for copy in self._copies if copy in _active()._outstanding]
        _active().finish(waiting)
        return not waiting

    def elapsed_time(self, _end: PretendedEvent) -> float:
        return 1.0


def _grouped(tensors: Any, *args: Any) -> Any:
    """Optimizers' groups of tensors by device, of which torch asks its C++."""
    groups = _GROUP(tensors, *args).items()
    return {(group[0][0][0].device, dtype): (group, rest) for (_, dtype), (group, rest) in groups}


def _replacements(gpu: PretendedGpu) -> dict[str, Any]:
    """What `torch.cuda` says."""
    if gpu.kind == "mps":
        return {"is_available": lambda: False}
    properties = SimpleNamespace(
        name="Pretended GPU", total_memory=gpu.total_bytes, major=gpu.capability[0], minor=gpu.capability[1]
    )
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *_, **__: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _device: None,
        "device": lambda _device: contextlib.nullcontext(),
        "_lazy_init": lambda: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),  # the CPU's draws
        "set_rng_state": lambda *_: None,
        "manual_seed": lambda _seed: None,
        "manual_seed_all": lambda _seed: None,
        "get_device_name": lambda *_: properties.name,
        "get_device_capability": lambda *_: gpu.capability,
        "get_device_properties": lambda *_: properties,
        "get_arch_list": lambda: [f"sm_{gpu.capability[0]}{gpu.capability[1]}"],
        "mem_get_info": lambda *_: ((gpu.limit_bytes or gpu.total_bytes) - gpu.live_bytes, gpu.total_bytes),
        "memory_allocated": lambda *_: gpu.live_bytes,
        "memory_reserved": lambda *_: gpu.live_bytes,
        "max_memory_allocated": lambda *_: gpu.peak_bytes,
        "max_memory_reserved": lambda *_: gpu.peak_bytes,
        "memory_stats": lambda *_: {"num_ooms": 0},
        "set_per_process_memory_fraction": lambda _share, *_: None,
        "reset_peak_memory_stats": lambda *_: setattr(gpu, "peak_bytes", gpu.live_bytes),
        "empty_cache": lambda: None,
        "synchronize": lambda *_: gpu.sync("wait"),
        "Stream": PretendedStream,
        "Event": PretendedEvent,
        "current_stream": PretendedStream,
        "default_stream": PretendedStream,
        "stream": lambda stream: stream or PretendedStream(),
    }


@contextlib.contextmanager
def pretended_gpu(**fields: Any) -> Iterator[PretendedGpu]:
    """Let torch have the device, in this thread and in those that are started inside the block."""
    gpu, run, autocast = PretendedGpu(**fields), threading.Thread.run, torch.autocast

    def run_on_it(thread: threading.Thread) -> None:
        with _OnTheDevice(gpu):
            run(thread)

    def cast(device_type: str, *args: Any, **kwargs: Any) -> torch.autocast:
        return autocast("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    overwrote = torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _replacements(gpu).items():
            patch.setattr(torch.cuda, name, value)
        if gpu.kind == "mps":
            patch.setattr(torch.backends.mps, "is_available", lambda: True)
            patch.setattr(torch.mps, "empty_cache", lambda: None)
            patch.setattr(torch.mps, "recommended_max_memory", lambda: gpu.total_bytes)
            patch.setattr(torch.mps, "current_allocated_memory", lambda: gpu.live_bytes)
        patch.setattr(torch, "autocast", cast)
        patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", _grouped)
        patch.setattr(torch.backends.cudnn, "is_acceptable", lambda _tensor: False)
        patch.setattr(threading.Thread, "run", run_on_it)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        _gpus.append(gpu)
        try:
            with _OnTheDevice(gpu):
                yield gpu
        finally:
            _gpus.remove(gpu)
            torch.__future__.set_overwrite_module_params_on_conversion(overwrote)
