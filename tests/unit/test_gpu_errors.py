"""What goes wrong on a GPU, pretended on the CPU: which recordings it costs, and what is said."""

from __future__ import annotations

from collections import deque
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import soundfile
import torch

from menura import ConversionOptions, Converter, DeviceError, EngineOptions, ResourceError
from menura.jobs import processes
from menura.jobs.scheduler import Lost, Ready
from menura.pipeline.engine import Engine
from menura.pipeline.output import FileSink
from menura.pipeline.recording import FileRecording
from menura.types import FileResult, Item, State, failed_result
from support.gpus import fake_gpus
from support.pretended_gpu import pretended_gpu
from support.speech import RATE, speech

if TYPE_CHECKING:
    from menura.loading.loader import VoiceModels

WREN, HERON = ConversionOptions(voice="wren"), ConversionOptions(voice="heron")
ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"


@pytest.fixture
def on_the_gpu(gpu: object, tmp_path: Path) -> Converter:
    return Converter(EngineOptions(device="auto", home=tmp_path))


def recordings(folder: Path, lengths_s: list[float]) -> list[tuple[Path, Path]]:
    pairs = []
    for number, length_s in enumerate(lengths_s):
        path = folder / f"{number}.wav"
        soundfile.write(path, speech(length_s), RATE)
        pairs.append((path, folder / f"{number}.out.wav"))
    return pairs


def failing_at(models: VoiceModels, seconds: float, error: Exception, patch: pytest.MonkeyPatch) -> None:
    """The content encoder fails at windows of this length."""
    encode = models.encoder.encode

    def fragile(samples: torch.Tensor, *others: Any) -> torch.Tensor:
        if abs(samples.shape[-1] / 16_000 - seconds) < 0.5:
            raise error
        return encode(samples, *others)

    patch.setattr(models.encoder, "encode", fragile)


def test_what_fails_on_the_gpu_fails_its_file(
    on_the_gpu: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = on_the_gpu.networks.load(on_the_gpu.resolve(WREN))
    failing_at(models, 5.0, RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), monkeypatch)
    report = on_the_gpu.convert_files(recordings(tmp_path, [1.0, 3.0, 1.0]), WREN)
    assert [result.state for result in report.files] == [State.DONE, State.FAILED, State.DONE]
    error = report.files[1].error
    assert error is not None
    assert (error.kind, "CUDNN_STATUS_NOT_SUPPORTED" in error.problem) == ("resource", True)


def test_a_gpu_that_stops_working_ends_the_run_and_leaves_nothing_half_written(
    on_the_gpu: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = on_the_gpu.networks.load(on_the_gpu.resolve(WREN))
    failing_at(models, 5.0, RuntimeError(ILLEGAL), monkeypatch)
    ended: list[FileResult] = []
    pairs = recordings(tmp_path, [1.0, 3.0, 3.0, 3.0])
    with pytest.raises(DeviceError, match="an illegal memory access") as told:
        on_the_gpu.convert_files(pairs, WREN, on_result=lambda _, result: ended.append(result))
    assert "\n" not in str(told.value)
    written = [output for _, output in pairs if output.exists()]
    assert [result.output for result in ended] == written
    assert {path.name for path in tmp_path.glob("*.wav")} == {f"{n}.wav" for n in range(4)} | {p.name for p in written}


def test_an_error_that_comes_late_ends_the_run_as_well(
    on_the_gpu: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA tells of it at any later call, here where free memory is asked for."""
    on_the_gpu.preload(WREN)

    def lost(*_: object) -> tuple[int, int]:
        raise RuntimeError(ILLEGAL)

    monkeypatch.setattr(torch.cuda, "mem_get_info", lost)
    with pytest.raises(DeviceError, match="an illegal memory access"):
        on_the_gpu.convert_files(recordings(tmp_path, [1.0]), WREN)


def test_so_does_one_that_comes_with_the_answers(
    on_the_gpu: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise RuntimeError(ILLEGAL)

    monkeypatch.setattr(torch.cuda.Event, "synchronize", lost)
    with pytest.raises(DeviceError, match="an illegal memory access"):
        on_the_gpu.convert_files(recordings(tmp_path, [1.0]), WREN)


def test_the_last_pass_under_way_has_its_recording_too(
    on_the_gpu: Converter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected: list[object] = []
    synchronize = torch.cuda.Event.synchronize

    def lost_at_last(event: torch.cuda.Event) -> None:
        collected.append(event)
        if len(collected) == 6:  # two recordings of different lengths: F0, content and synthesis of each
            raise RuntimeError(ILLEGAL)
        synchronize(event)

    monkeypatch.setattr(torch.cuda.Event, "synchronize", lost_at_last)
    request = on_the_gpu.resolve(WREN)
    with Engine(on_the_gpu.networks) as engine:
        files = [(FileRecording(path), FileSink(output)) for path, output in recordings(tmp_path, [1.0, 4.0])]
        tickets = [engine.submit(recording, request, sink) for recording, sink in files]
        with pytest.raises(DeviceError):
            deque(iter(engine.step, None), maxlen=0)
        assert engine.computing == (tickets[1],)


def test_loading_survives_running_out_of_memory_at_any_allocation(tmp_path: Path) -> None:
    with pretended_gpu() as gpu, Converter(EngineOptions(device="cuda", home=tmp_path)) as converter:
        before = gpu.allocations
        converter.preload(HERON)
        count, at = gpu.allocations - before, 1
        while at <= count:
            converter.close()
            gpu.allocations, gpu.fails_at = 0, at
            converter.preload(HERON)
            assert gpu.allocations > at
            at += max(1, count // 3)


def test_a_voice_that_finds_no_memory_has_the_others_leave(tmp_path: Path) -> None:
    with pretended_gpu() as gpu, Converter(EngineOptions(device="cuda", home=tmp_path)) as converter:
        converter.preload(WREN)
        one = gpu.live_bytes
        gpu.limit_bytes = one + 4 * 2**20
        converter.preload(HERON)
        assert gpu.live_bytes < gpu.limit_bytes
        assert any("heron" in name for name in converter.stats().model_loads)
        gpu.limit_bytes = one // 2
        with pytest.raises(ResourceError, match="not enough memory"):
            converter.preload(WREN)
        report = converter.convert_files(recordings(tmp_path, [1.0]), WREN)
        assert [result.error and result.error.kind for result in report.files] == ["resource"]
        gpu.limit_bytes = None
        converter.preload(WREN)


def test_the_pool_holds_what_the_gpu_can(tmp_path: Path) -> None:
    with pretended_gpu(total_bytes=2**30), Converter(EngineOptions(device="cuda", home=tmp_path)) as converter:
        assert converter.networks.pool.budget_bytes == pytest.approx(2**29, rel=0.01)


def test_a_gpu_without_kernels_leaves_the_work_to_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernel(*_: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    from menura.system import device

    with pretended_gpu():
        device._works.cache_clear()
        monkeypatch.setattr(torch, "conv1d", no_kernel)
        assert Converter(EngineOptions(home=tmp_path)).device.type == "cpu"
    device._works.cache_clear()


class FragileWorker:
    def __init__(self, *_: object) -> None:
        pass

    def do(self, item: Item, _tell: object) -> FileResult:
        if item.source.name == "poison":
            raise DeviceError(None, "the GPU has stopped working")
        return failed_result(item.source, None)  # type: ignore[arg-type]


def test_a_worker_whose_gpu_stops_working_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "Worker", FragileWorker)
    ours, theirs = Pipe()
    for name in ("good", "poison", "never"):
        ours.send(Item(source=Path(name), output=Path("out")))
    processes._work(theirs, WREN, EngineOptions(device="cpu"), 0)
    messages = [ours.recv() for _ in range(3)]
    assert [type(message) for message in messages] == [Ready, FileResult, Lost]
    assert messages[2].how == "the GPU has stopped working"
    ours.close()
    theirs.close()


@pytest.mark.parametrize(
    ("asked", "failure", "taken"),
    [
        ("auto", "", "cuda:1"),
        ("auto", "no kernel image", "auto"),
        ("cuda", "no kernel image", "cuda"),
        ("cuda:0", "", "cuda:0"),
    ],
)
def test_several_gpus_are_taken_in_turn_where_they_work(
    asked: str, failure: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_gpus(monkeypatch, 2, failure)
    monkeypatch.setattr(processes, "cuda_devices", lambda: 2)
    devices: list[str] = []

    class Noting(FragileWorker):
        def __init__(self, _asked: object, engine: EngineOptions) -> None:
            devices.append(engine.device)

        def stats(self) -> None:
            return None

    monkeypatch.setattr(processes, "Worker", Noting)
    ours, theirs = Pipe()
    ours.send(None)
    processes._work(theirs, WREN, EngineOptions(device=asked), 3)
    assert devices == [taken]
    ours.close()
    theirs.close()
