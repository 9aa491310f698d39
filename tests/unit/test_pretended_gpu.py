"""The pretended GPU refuses, waits and runs out of memory as a GPU does, and computes what the CPU computes."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from support.pretended_gpu import PretendedGpu, pretended_gpu


def test_devices_do_not_mix(gpu: PretendedGpu) -> None:
    here = torch.ones(3, device="cuda")
    assert (here.device.type, here.is_cuda, (here * 2).device) == ("cuda", True, torch.device("cuda:0"))
    there = torch.ones(3)
    for mixed in (lambda: here + there, lambda: torch.cat([there, here]), lambda: here.add_(here.cpu())):
        with pytest.raises(RuntimeError, match="at least two devices, cuda:0 and cpu"):
            mixed()
    with pytest.raises(TypeError, match="cuda:0 device type tensor"):
        here.numpy()
    assert (here * torch.tensor(2.0)).tolist() == [2.0] * 3  # single numbers may


@pytest.mark.parametrize("inference", [False, True])
def test_networks_compute_what_the_cpu_does(gpu: PretendedGpu, inference: bool) -> None:
    torch.manual_seed(1)
    layers = nn.ModuleList([nn.Conv1d(3, 4, 3, padding=1), nn.GRU(4, 3, batch_first=True, bidirectional=True)])
    x = torch.randn(2, 3, 400)

    def through(x: torch.Tensor) -> torch.Tensor:
        y = layers[1](layers[0](x).transpose(1, 2))[0]
        y = nn.functional.scaled_dot_product_attention(y, y, y)
        y[:, 2:9, ::2] += 1.0
        window = torch.hann_window(64, device=x.device)
        return torch.stft(y[..., 0], 64, 16, window=window, center=False, return_complex=True).abs()

    with torch.inference_mode(inference):
        expected = through(x).detach()
        layers.to("cuda")
        found = through(x.to("cuda"))
        assert (found.device.type, found.shape) == ("cuda", expected.shape)
        torch.testing.assert_close(found.cpu().detach(), expected)


def test_gradients(gpu: PretendedGpu) -> None:
    net = nn.Linear(4, 1).to("cuda")
    net(torch.ones(2, 4, device="cuda")).sum().backward()
    assert net.weight.grad is not None
    assert net.weight.grad.device.type == "cuda"
    assert net.weight.grad.tolist() == [[2.0] * 4]


def test_where_the_host_waits(gpu: PretendedGpu) -> None:
    x = torch.arange(4, device="cuda")
    y = x[1:] * 2 + x.sum()
    assert not gpu.syncs
    y.tolist()
    bool((y > 0).all())
    y[y > 3]
    y.nonzero()
    y.to("cpu")
    torch.ones(2).to("cuda")
    torch.tensor([1], device="cuda")
    torch.cuda.synchronize()
    kinds = ["read", "read", "count", "count", "read", "upload", "upload", "wait"]
    assert [sync.kind for sync in gpu.syncs] == kinds
    assert all(sync.place.endswith("test_where_the_host_waits") for sync in gpu.syncs)
    assert gpu.copies == {"to host": 1, "to device": 2}


def test_asynchronous_copies_arrive_when_they_are_waited_for(gpu: PretendedGpu) -> None:
    landing, event = torch.zeros(3, pin_memory=True), torch.cuda.Event()
    landing.copy_(torch.ones(3, device="cuda"), non_blocking=True)
    event.record()
    assert landing.isnan().all()
    assert not gpu.syncs
    event.synchronize()
    assert landing.tolist() == [1.0] * 3
    later = torch.ones(2, device="cuda").to("cpu", non_blocking=True)
    torch.cuda.current_stream().synchronize()
    assert later.tolist() == [1.0] * 2
    assert {sync.kind for sync in gpu.syncs} == {"wait"}


def test_memory_that_is_being_copied_must_stay_as_it_is(gpu: PretendedGpu) -> None:
    landing = torch.zeros(3).pin_memory()
    landing.to("cuda", non_blocking=True)
    torch.cuda.synchronize()
    landing.to("cuda", non_blocking=True)
    landing.add_(1)
    with pytest.raises(AssertionError, match="changed while it was copied"):
        torch.cuda.synchronize()


def test_memory_is_counted_and_runs_out(gpu: PretendedGpu) -> None:
    x = torch.zeros(256, device="cuda")
    view = x[3:]
    y = x + 1
    assert (gpu.live_bytes, gpu.allocations) == (2048, 2)
    del x, y
    assert (gpu.live_bytes, gpu.peak_bytes) == (1024, 2048)  # the view holds all of it
    gpu.limit_bytes = 2000
    with pytest.raises(torch.cuda.OutOfMemoryError):
        view + 1
    gpu.limit_bytes, gpu.fails_at = None, gpu.allocations + 2
    z = view + 1
    with pytest.raises(torch.cuda.OutOfMemoryError):
        view + 1
    assert gpu.live_bytes == 1024 + z.nbytes


def test_threads_have_it_too(gpu: PretendedGpu) -> None:
    made: list[str] = []
    thread = threading.Thread(target=lambda: made.append(str(torch.zeros(2).to("cuda").device)))
    thread.start()
    thread.join()
    assert made == ["cuda:0"]


def test_shapes_only() -> None:
    with pretended_gpu(shapes_only=True) as gpu:
        huge = torch.zeros(1 << 20, 1 << 10, device="cuda")
        assert gpu.live_bytes == 4 << 30
        assert (huge @ huge.T[:, :3]).cpu().shape == (1 << 20, 3)
    assert not torch.cuda.is_available()
