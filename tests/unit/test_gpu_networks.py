"""Every network on GPUs, pretended on the CPU: the same numbers, and a CUDA device isn't waited for inside."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from menura.content.contentvec import ContentVec, MomentCollector
from menura.f0.networks import FcpeEstimator, RmvpeEstimator
from menura.models.config import HIFI_GAN, MRF_HIFI_GAN, REFINE_GAN, SOURCE_FILTER, SynthesizerConfig, small_config
from menura.models.fcpe import Fcpe, FcpeConfig
from menura.models.hubert import Hubert
from menura.models.rmvpe import Rmvpe, log_mel, mel_filters
from menura.models.synthesizer import Synthesizer
from support.pretended_gpu import PretendedGpu, pretended_gpu
from support.speech import speech
from support.tiny import tiny_config, tiny_voice
from support.tiny_hubert import CONFIG, tiny_weights
from support.tiny_rmvpe import TINY_RMVPE, rmvpe_weights

CPU = torch.device("cpu")
FRAMES = 60


@pytest.fixture(params=["cuda", "mps"])
def gpu(request: pytest.FixtureRequest) -> Iterator[PretendedGpu]:
    with pretended_gpu(kind=request.param) as gpu:
        yield gpu


def config_of(vocoder: str) -> SynthesizerConfig:
    if vocoder == "no F0":
        return tiny_config(has_f0=False)
    if vocoder == SOURCE_FILTER:
        small = small_config(8000, 2)
        return dataclasses.replace(
            small, inter_channels=8, hidden_channels=8, filter_channels=16, n_layers=1, gin_channels=8, content_dim=8
        )
    return dataclasses.replace(
        tiny_config(), vocoder=vocoder, upsample_initial_channel=64 if vocoder == REFINE_GAN else 16
    )


def voice_of(vocoder: str) -> Synthesizer:
    net = tiny_voice(config_of(vocoder))
    if vocoder == REFINE_GAN:  # so wide a one would be at its limits
        for parameter in net.dec.parameters():
            parameter.data *= 0.35
    return net


@dataclass
class Score:
    """What a voice is asked to make: two rows, of which the second may be shorter."""

    content: Tensor
    f0_hz: Tensor
    noise: Tensor
    speakers: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, config: SynthesizerConfig) -> Score:
        random = torch.Generator().manual_seed(2)
        return cls(
            content=torch.randn(2, FRAMES, config.content_dim, generator=random),
            f0_hz=torch.linspace(90, 250, 2 * FRAMES).view(2, -1),
            noise=torch.randn(2, FRAMES * config.frame_samples, generator=random),
            speakers=torch.tensor([0, 1]),
            lengths=torch.tensor([FRAMES, FRAMES - 9]),
        )

    def to(self, device: torch.device) -> Score:
        return Score(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))

    @torch.inference_mode()
    def sung(self, net: Synthesizer, *, short: bool) -> Tensor:
        pitched = net.config.has_f0
        g, phases = net.condition(self.speakers), torch.tensor([0.1, 0.7], dtype=torch.float64)
        source = net.source(self.f0_hz, phases, self.noise, 1.0) if pitched else None
        coarse = self.f0_hz.long() if pitched else None
        prior = net.encode(self.content, coarse, self.lengths if short else None, 20)
        z = net.reverse_flow(prior.mean + prior.log_scale.exp(), prior.mask, g)
        return net.decode_tiled(z, g, source, (0, FRAMES), 25)


@pytest.mark.parametrize("vocoder", [HIFI_GAN, "no F0", MRF_HIFI_GAN, REFINE_GAN, SOURCE_FILTER])
@pytest.mark.parametrize("short", [False, True])
def test_voices(gpu: PretendedGpu, vocoder: str, short: bool) -> None:
    net = voice_of(vocoder)
    score = Score.of(net.config)
    expected = score.sung(net, short=short)
    net, score = net.to(gpu.device), score.to(gpu.device)
    gpu.reset()
    found = score.sung(net, short=short)
    assert gpu.kind == "mps" or not gpu.syncs
    torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("vocoder", [HIFI_GAN, MRF_HIFI_GAN])
@torch.inference_mode()
def test_tiles_at_48_khz_are_as_long_as_a_gpu_takes(gpu: PretendedGpu, vocoder: str) -> None:
    net = tiny_voice(dataclasses.replace(tiny_config(rates=(12, 10, 2, 2)), vocoder=vocoder))
    random = torch.Generator().manual_seed(5)
    z, g = torch.randn(1, 4, 420, generator=random), torch.randn(1, 4, 1, generator=random)
    source = torch.randn(1, 1, 420 * 480, generator=random)
    expected = net.decode_tiled(z, g, source, (10, 410))
    found = net.to(gpu.device).decode_tiled(z.to(gpu.device), g.to(gpu.device), source.to(gpu.device), (10, 410))
    torch.testing.assert_close(found.cpu(), expected, atol=1e-5, rtol=0)


def decibels(error: Tensor, of: Tensor) -> float:
    return float(20 * torch.log10(error.norm() / of.norm()))


@pytest.mark.parametrize("vocoder", [HIFI_GAN, "no F0", MRF_HIFI_GAN, REFINE_GAN, SOURCE_FILTER])
@pytest.mark.parametrize("short", [False, True])
def test_voices_in_half_precision(gpu: PretendedGpu, vocoder: str, short: bool) -> None:
    net = voice_of(vocoder)
    score = Score.of(net.config)
    expected = score.sung(net, short=short)
    net.use_half()
    net, score = net.to(gpu.device), score.to(gpu.device)
    gpu.reset()
    found = score.sung(net, short=short)
    assert gpu.kind == "mps" or not gpu.syncs
    assert found.dtype == (torch.float32 if vocoder == SOURCE_FILTER else torch.float16)
    # As in a full-size voice, where it is -53 dB; a source-filter decoder stays in single precision.
    assert decibels(found.cpu().float() - expected, expected) < (-40 if vocoder == REFINE_GAN else -50)


def fcpe() -> Fcpe:
    torch.manual_seed(4)
    net = Fcpe(FcpeConfig(hidden_dims=8, n_layers=2, out_dims=360)).eval()
    net.cents = torch.linspace(2051.15, 9151.15, 360)
    return net


@pytest.mark.parametrize("method", ["rmvpe", "fcpe"])
def test_f0(gpu: PretendedGpu, method: str) -> None:
    def estimator(device: torch.device) -> RmvpeEstimator | FcpeEstimator:
        if method == "fcpe":
            return FcpeEstimator(fcpe(), device=device)
        return RmvpeEstimator(Rmvpe.from_tensors(rmvpe_weights(), TINY_RMVPE), device=device)

    samples = torch.from_numpy(speech(4.0)).view(2, -1)
    expected = estimator(CPU).estimate(samples)
    there, samples = estimator(gpu.device), samples.to(gpu.device)
    gpu.reset()
    found = there.estimate(samples)
    assert gpu.kind == "mps" or not gpu.syncs
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=0)


def test_rmvpe_in_half_precision(gpu: PretendedGpu) -> None:
    mel = log_mel(torch.from_numpy(speech(4.0)).view(2, -1), mel_filters())
    # Images whose numbers stay within what the real network's do.
    weights = {name: weight * (0.25 if weight.dim() == 4 else 1) for name, weight in rmvpe_weights().items()}
    net = Rmvpe.from_tensors(weights, TINY_RMVPE)
    with torch.inference_mode():
        expected = net(mel)
        net.use_half()
        found = net.to(gpu.device)(mel.to(gpu.device))
    assert (found.dtype, net.input_scale.dtype) == (torch.float16, torch.float32)
    assert decibels(found.cpu().float() - expected, expected) < -45


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_content(gpu: PretendedGpu, known: bool, half: bool) -> None:
    rows = speech(4.0).reshape(2, -1)
    collector = MomentCollector()
    collector.push(rows.ravel())
    statistics = [collector.finish()] * 2 if known else None

    net = Hubert.from_tensors(tiny_weights(), CONFIG)
    expected = ContentVec(net, device=CPU, projection="last").encode(torch.from_numpy(rows), statistics)
    if half:
        net.use_half()
    there, samples = ContentVec(net, device=gpu.device, projection="last"), torch.from_numpy(rows).to(gpu.device)
    gpu.reset()
    found = there.encode(samples, statistics)
    assert gpu.kind == "mps" or not gpu.syncs
    assert found.dtype == torch.float32
    assert decibels(found.cpu() - expected, expected) < (-50 if half else -100)
