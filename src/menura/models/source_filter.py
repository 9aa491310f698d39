"""Menura's own vocoder for small budgets: pulses and noise, shaped by filters that a network draws for every 5 ms.

    z ──▶ ConvNeXt blocks (100/s) ──▶ twice as often ──▶ blocks (200/s) ──▶ filters
    F0 ──▶ pulses, noise, noise in step with the pulses ──STFT──▶ × filters ──iSTFT──▶ sound

As a learned vocoder see DDSP (Engel et al., 2020); blocks and inverse transform are those of Vocos (Siuzdak, 2023).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.models.config import SynthesizerConfig
from menura.models.layers import Span, samples_of
from menura.models.source import sample_phases
from menura.units import ceil_div

EXCITATIONS = 3
"""Pulses, noise, noise in step with the pulses."""
WINDOW_HOPS = 4
"""A window's length in hops: its square then adds up to a constant."""
FINE_BLOCKS = 2
FINE_STEPS = 2
"""Steps in a frame at which filters are drawn."""
WIDENING = 4
KERNEL = 7
LOUDEST = 4.0
"""Bound of a filter's logarithm, about 35 dB."""
_LEVEL = -3.5
"""Initial value of a filter's logarithm: about the level of speech."""


class PulseSource(nn.Module):
    """Band-limited pulses at F0, and noise; it has no weights."""

    def __init__(self, sample_rate: int, frame_samples: int) -> None:
        super().__init__()
        self.sample_rate, self.frame_samples = sample_rate, frame_samples

    def forward(self, f0_hz: Tensor, phase_cycles: Tensor, noise: Tensor | None, noise_scale: float) -> Tensor:
        """The excitations (batch, 3, samples), each of unit power where it sounds; arguments as SineSource's.

        Without noise only what is periodic is left. Its scale is ignored: it is the sound of consonants, no variation.
        """
        phases = sample_phases(phase_cycles, f0_hz, self.frame_samples, self.sample_rate)
        return self.excitations(phases.float().to(f0_hz.device), f0_hz, noise)

    def excitations(self, cycles: Tensor, f0_hz: Tensor, noise: Tensor | None) -> Tensor:
        """As `forward`, from the phase (batch, samples), in cycles of a sine, at every sample."""
        held = f0_hz.repeat_interleave(self.frame_samples, dim=1)
        voiced = (held > 0).to(cycles.dtype)
        harmonics = torch.floor(0.5 * self.sample_rate / held.clamp(min=1.0))
        # A pulse where the sine has its maximum; in (-1/2, 1/2] so that float32 is exact enough.
        turn = cycles - 0.25
        turn = turn - turn.round()
        pulses = voiced * cosine_sum(turn, harmonics) * torch.sqrt(2 / harmonics.clamp(min=1.0))
        if noise is None:
            noise = torch.zeros_like(pulses)
        in_step = voiced * noise * (1 + torch.cos(2 * math.pi * turn)) * math.sqrt(2 / 3)
        return torch.stack([pulses, noise, in_step], dim=1)


def cosine_sum(turn: Tensor, harmonics: Tensor) -> Tensor:
    """The sum of cos(2 pi k turn) for k from 1 to `harmonics`, turn in (-1/2, 1/2] (Dirichlet's kernel)."""
    below = torch.sin(math.pi * turn)
    near = below.abs() < 1e-5
    ratio = torch.sin((2 * harmonics + 1) * math.pi * turn) / torch.where(near, torch.ones_like(below), below)
    return (torch.where(near, 2 * harmonics + 1, ratio) - 1) / 2


def added_up(windows: Tensor, hop: int) -> Tensor:
    """Windows (batch, count, samples) of whole hops, each a hop later than the one before it, as one signal."""
    batch, count, samples = windows.shape
    hops = samples // hop
    parts = windows.view(batch, count, hops, hop)
    total = windows.new_zeros(batch, count + hops - 1, hop)
    for number in range(hops):
        total[:, number : number + count] += parts[:, :, number]
    return total.flatten(1)


class ConvNextBlock(nn.Module):
    """Depthwise convolution over time, then a wide layer for every step (Liu et al., 2022; in one dimension)."""

    def __init__(self, channels: int, kernel: int, share: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, WIDENING * channels)
        self.pwconv2 = nn.Linear(WIDENING * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), share))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, steps, channels) to the same shape."""
        y = self.norm(self.dwconv(x.transpose(1, 2)).transpose(1, 2))
        out: Tensor = x + self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return out


class SourceFilter(nn.Module):
    """The vocoder; it always has F0.

    `upsample_rates` are (2, hop), `upsample_kernel_sizes` (4, window), `upsample_initial_channel` is the width and
    `resblock_kernel_sizes` are the kernels of the blocks at the latent's rate.
    """

    tile_method = "filters"

    def __init__(self, config: SynthesizerConfig, *, training: bool) -> None:
        super().__init__()
        width = config.upsample_initial_channel
        self.frame_samples = config.frame_samples
        self.hop = self.frame_samples // FINE_STEPS
        self.window_samples = WINDOW_HOPS * self.hop
        self.bins = self.window_samples // 2 + 1
        self.m_source = PulseSource(config.sample_rate, config.frame_samples)
        self.conv_pre = nn.Conv1d(config.inter_channels, width, KERNEL, padding=KERNEL // 2)
        self.cond = nn.Conv1d(config.gin_channels, width, 1)
        share = 1 / (len(config.resblock_kernel_sizes) + FINE_BLOCKS)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.blocks = nn.ModuleList(ConvNextBlock(width, k, share) for k in config.resblock_kernel_sizes)
        self.fine_blocks = nn.ModuleList(ConvNextBlock(width, KERNEL, share) for _ in range(FINE_BLOCKS))
        self.norm_post = nn.LayerNorm(width, eps=1e-6)
        self.conv_post = nn.Linear(width, (EXCITATIONS + 1) * self.bins)
        fine, coarse = FINE_BLOCKS * (KERNEL // 2), sum(kernel // 2 for kernel in config.resblock_kernel_sizes)
        # One more: filters are interpolated between frames.
        self.context_frames = ceil_div(fine + WINDOW_HOPS // 2, FINE_STEPS) + coarse + KERNEL // 2 + 1
        """Latent (and source) frames on each side that the samples of a frame depend on."""
        with torch.no_grad():
            # Phases begin near zero; what the latent says of magnitudes has to be heard from the first step.
            self.conv_post.weight[EXCITATIONS * self.bins :].mul_(0.1)
            self.conv_post.bias.zero_()
            self.conv_post.bias[: EXCITATIONS * self.bins] = _LEVEL

    def forward(self, z: Tensor, g: Tensor, source: Tensor | None) -> Tensor:
        """Latent (batch, inter_channels, frames) and source (batch, 3, samples) to sound (batch, 1, samples)."""
        assert source is not None, "this vocoder needs F0"
        return self._shaped(source.float(), self.filters(z, g))

    def filters(self, z: Tensor, g: Tensor) -> Tensor:
        """(batch, 2 frames, 4 bins): logarithms of three filters' magnitudes, and the first one's phase."""
        x = self.norm((self.conv_pre(z) + self.cond(g)).transpose(1, 2))
        for block in self.blocks:
            x = block(x)
        x = F.interpolate(x.transpose(1, 2), scale_factor=float(FINE_STEPS), mode="linear").transpose(1, 2)
        for block in self.fine_blocks:
            x = block(x)
        drawn: Tensor = self.conv_post(self.norm_post(x))
        return drawn

    def _shaped(self, source: Tensor, filters: Tensor) -> Tensor:
        *magnitudes, phase = torch.split(filters.float(), self.bins, dim=2)
        window = torch.hann_window(self.window_samples, device=source.device).sqrt()
        around = (self.window_samples - self.hop) // 2
        spectra = torch.fft.rfft(F.pad(source, (around, around)).unfold(2, self.window_samples, self.hop) * window)
        first, *others = (torch.exp(part.clamp(max=LOUDEST)) for part in magnitudes)
        shaped = spectra[:, 0] * torch.complex(first * torch.cos(phase), first * torch.sin(phase))
        for number, gain in enumerate(others, start=1):
            shaped = shaped + spectra[:, number] * gain
        frames = torch.fft.irfft(shaped, self.window_samples) * (window * (2 / WINDOW_HOPS))
        return added_up(frames, self.hop)[:, None, around : around + source.shape[-1]]

    def tiled(self, z: Tensor, g: Tensor, source: Tensor | None, core: Span, tile_frames: int) -> Tensor:
        """Sound of a stretch of a latent, equal to that part of `forward`; as HifiGan's."""
        window = core.widened(self.context_frames, z.shape[-1])
        part: Tensor = self(z[..., window.slice], g, samples_of(source, window, self.frame_samples))
        return part[..., core.shifted(-window.start).scaled(self.frame_samples).slice]
