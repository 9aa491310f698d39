"""Running out of memory: less at a time, the same result; what can't be had alone fails alone."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from menura.errors import DeviceError, ResourceError
from menura.pipeline import execute
from menura.pipeline.analysis import analyse_clips
from menura.pipeline.execute import Executor, FrameBudget, NetworkRequest, WindowRequest
from menura.pipeline.progress import StageClock
from menura.pipeline.recording import ArrayRecording
from menura.pipeline.windows import machine_of
from menura.system import gpu
from menura.system.memory import available_memory_bytes, free_bytes, is_out_of_memory, trim_heap
from support.gpus import GIB, fake_memory
from support.tiny import FakeEncoder, FakeF0, converted_together, tiny_models, tiny_request

if TYPE_CHECKING:
    from menura.loading.loader import VoiceModels
    from menura.types import FloatArray

FAILURES = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("not enough memory: you tried to allocate 4096 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


def noise(seconds: float, seed: int) -> FloatArray:
    return (0.2 * np.random.default_rng(seed).standard_normal(round(16_000 * seconds))).astype(np.float32)


def results(models: VoiceModels, lengths_s: list[float]) -> list[FloatArray | Exception]:
    """Convert recordings together; for each its sound, or what ended it."""
    recordings = [ArrayRecording(noise(s, k), 16_000) for k, s in enumerate(lengths_s)]
    return converted_together(recordings, tiny_request(), models)


class Limited:
    """Calls a function only while what it is given is small enough."""

    def __init__(self, call: Callable[..., Any], size: Callable[..., int], limit: int, failure: Exception) -> None:
        self.call, self.size, self.limit, self.failure = call, size, limit, failure
        self.failures = 0

    def __call__(self, *given: Any) -> Any:
        if self.size(*given) > self.limit:
            self.failures += 1
            raise self.failure
        return self.call(*given)


@pytest.mark.parametrize("failure", FAILURES, ids=lambda e: str(e)[:30] or "MemoryError")
def test_the_decoder_gets_less_at_a_time_and_the_result_is_unchanged(
    failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tiny_models()
    expected = results(models, [45.0])
    net = models.synthesizer
    limited = Limited(net.decode_tiled, lambda z, g, source, core: z.shape[0] * (core[1] - core[0]), 300, failure)
    monkeypatch.setattr(net, "decode_tiled", limited)
    (found,) = results(models, [45.0])
    np.testing.assert_allclose(found, expected[0], atol=1e-5)
    assert limited.failures == 3  # 2000, 1000, 500 frames; 250 fit from then on


def test_batches_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips, as an engine's recordings come together or not, depending on how fast they are read."""
    encoder, f0 = FakeEncoder(), FakeF0()
    clips = [noise(3.0, k) for k in range(6)]
    expected = analyse_clips(clips, encoder, f0, torch.device("cpu"))
    failure = MemoryError()
    rows = Limited(encoder.encode, lambda samples, statistics: len(samples), 2, failure)
    f0_rows = Limited(f0.estimate, len, 1, failure)
    monkeypatch.setattr(encoder, "encode", rows)
    monkeypatch.setattr(f0, "estimate", f0_rows)
    for found, wanted in zip(analyse_clips(clips, encoder, f0, torch.device("cpu")), expected, strict=True):
        np.testing.assert_allclose(found.content, wanted.content, atol=1e-5)
        np.testing.assert_allclose(found.f0_hz, wanted.f0_hz, atol=1e-5)
    assert rows.failures == 2  # 6 and 3 rows
    assert f0_rows.failures == 2


def test_a_failure_that_passes_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = FakeEncoder()
    models = dataclasses.replace(tiny_models(), encoder=encoder)
    expected = results(models, [3.0])
    count = iter(range(1000))
    monkeypatch.setattr(encoder, "encode", Limited(encoder.encode, lambda *_: next(count) == 0, 0, MemoryError()))
    (found,) = results(models, [3.0])
    np.testing.assert_array_equal(found, expected[0])


def test_what_does_not_fit_alone_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = FakeEncoder()
    models = dataclasses.replace(tiny_models(), encoder=encoder)
    expected = results(models, [3.0, 5.0, 3.0])
    limited = Limited(encoder.encode, lambda samples, _: samples.shape[1], 5 * 16_000, MemoryError())
    monkeypatch.setattr(encoder, "encode", limited)
    found = results(models, [3.0, 5.0, 3.0])
    assert isinstance(found[1], ResourceError)
    assert "5.0 s" not in found[1].problem
    assert "strategy" not in str(found[1].advice)  # it was converted in segments already
    for k in (0, 2):
        np.testing.assert_allclose(found[k], expected[k], atol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "cuFFT error: CUFFT_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "miopenStatusAllocFailed",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR",
        "GET was unable to find an engine to execute this computation",
        "FIND was unable to find an engine to execute this computation",
        "HIP out of memory. Tried to allocate 2.00 GiB.",
        "rocBLAS error: rocblas_status_memory_error",
        "unable to mmap 21089400 bytes from file <voice.safetensors>: Cannot allocate memory (12)",
        "could not create a primitive",
        "std::bad_alloc",
        "MPS backend out of memory (MPS allocated: 1 MB)",
    ],
)
def test_what_libraries_say_when_memory_runs_out(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))


def test_other_errors_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_out_of_memory(RuntimeError("could not create a primitive descriptor for a convolution"))
    assert not is_out_of_memory(RuntimeError("shapes can't be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
    models = tiny_models()
    monkeypatch.setattr(models.encoder, "encode", Limited(len, lambda *_: 1, 0, RuntimeError("a fault")))
    with pytest.raises(RuntimeError, match="a fault"):
        results(models, [3.0])


def on_a_gpu(patch: pytest.MonkeyPatch, failure_of: str = "") -> Executor:
    """An executor that takes the CPU for a GPU."""
    executor = Executor(torch.device("cpu"))
    patch.setattr(execute, "device_errors", lambda _device: gpu.device_errors(torch.device("cuda")))
    patch.setattr(gpu, "failure_of", lambda _device: failure_of)
    return executor


def asked(encoder: FakeEncoder, lengths_s: list[float]) -> list[NetworkRequest]:
    clock = StageClock()
    return [
        WindowRequest(stage="content", network=encoder, samples=noise(s, k), clock=clock)
        for k, s in enumerate(lengths_s)
    ]


UNSUPPORTED = RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in ...")


def test_what_a_gpu_fails_at_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, executor = FakeEncoder(), on_a_gpu(monkeypatch)
    requests = asked(encoder, [1.0, 1.0, 2.0, 1.0])
    expected = executor.execute(requests)
    bad = float(requests[1].samples[0])  # type: ignore[union-attr]
    failing = Limited(encoder.encode, lambda samples, _: int(bad in samples[:, 0]), 0, UNSUPPORTED)
    monkeypatch.setattr(encoder, "encode", failing)
    flight = executor.begin(requests)
    found = dict(zip(flight.places, flight.collect(), strict=True))
    error = found.pop(1)
    assert isinstance(error, ResourceError)
    assert "CUDNN_STATUS_NOT_SUPPORTED" in error.problem
    assert error.__cause__ is error.__traceback__ is None  # which would keep what was allocated
    assert failing.failures == 2  # of three together, then of it alone
    found[2] = executor.execute(requests[2:3])[0]
    for k in (0, 2, 3):
        np.testing.assert_allclose(found[k], expected[k], atol=1e-6)
    with pytest.raises(ResourceError, match="CUDNN_STATUS_NOT_SUPPORTED"):
        executor.execute(requests)


@pytest.mark.parametrize(
    ("failure", "after"),
    [(RuntimeError("CUDA error: an illegal memory access was encountered"), ""), (UNSUPPORTED, "CUDA error: lost")],
)
def test_a_gpu_that_stops_working_ends_the_run(
    failure: RuntimeError, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, executor = FakeEncoder(), on_a_gpu(monkeypatch, after)
    failing = Limited(encoder.encode, lambda *_: 1, 0, failure)
    monkeypatch.setattr(encoder, "encode", failing)
    with pytest.raises(DeviceError, match="stopped working"):
        executor.execute(asked(encoder, [1.0, 2.0]))
    assert failing.failures == 1


def test_free_memory_counts_what_torch_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_memory(monkeypatch, free=1, reserved=6, allocated=2)
    assert free_bytes(torch.device("cuda")) == 5 * GIB
    assert machine_of(torch.device("cuda")).free_bytes == 5 * GIB
    assert machine_of(torch.device("cpu")).free_bytes == pytest.approx(available_memory_bytes(), rel=0.2)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 3 * GIB)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 2 * GIB)
    assert free_bytes(torch.device("mps")) <= GIB


def test_budget() -> None:
    budget = FrameBudget(50)
    assert budget.rows(7, 1000) == 7
    assert budget.halve(7000)
    assert (budget.frames, budget.rows(7, 1000), budget.rows(7, 9000)) == (3500, 3, 1)
    assert budget.halve(9000)
    assert budget.frames == 1750
    assert not budget.halve(50)
    assert budget.halve(60)
    assert budget.frames == 50


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) / 256


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux keeps what is freed")
def test_freed_memory_is_given_back() -> None:
    blocks = [torch.ones(20_000) for _ in range(2500)]  # 80 kB each: from the heap, not mapped
    del blocks[:-1]  # the last one holds the heap's end
    before = _resident_mb()
    trim_heap()
    assert _resident_mb() < before - 100
