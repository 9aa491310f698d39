"""SwiftF0 (Nieradzik 2025, arXiv:2508.18440): F0 from three log spectrograms by a few convolutions with 12 channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.models.weights import reading_weights, without_weights

HOP_SAMPLES = 256
REACH_FRAMES = 11
"""A frame depends on no sample farther away: half of the longest window, and seven frames' taps."""
_FFT_SIZES = (1024, 2048, 512)
_BANDS, _CHANNELS, PITCHES = 128, 12, 95
_FIRST_PITCH_HZ, _LAST_PITCH_HZ = 46.875, 2093.75
_BLOCKS = ((7, 3, 1), (7, 1, 17), (5, 1, 27), (3, 1, 40), (3, 1, 48), (7, 3, 2))
"""Of each residual block: taps over bands, taps over frames, and the dilation over bands."""
LAST_BANDS = PITCHES + 1 + 2 * 6
"""The last block's two convolutions reach six bands each, and only its lowest 96 bands count."""
_FLOOR = 1e-8
_SILENT_PEAK = 1e-3
"""Below it a frame is unvoiced: digital silence is nothing the network has learned from."""
_NEIGHBOURS = 3


class SwiftF0(nn.Module):
    """The network; samples in, F0 out, all on the samples' device and without synchronisation."""

    in_band: Tensor
    pitch_hz: Tensor

    def __init__(self) -> None:
        super().__init__()
        for size in _FFT_SIZES:
            self.register_buffer(f"window_{size}", torch.empty(size))
            self.register_buffer(f"bands_{size}", torch.empty(size // 2 + 1, _BANDS))
        self.first = nn.Conv2d(len(_FFT_SIZES), _CHANNELS, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(*block) for block in _BLOCKS))
        self.narrow = nn.Conv2d(_CHANNELS, 4, 3)
        self.pitch = nn.Conv2d(4, 1, 1)
        self.summary = nn.Conv2d(4, 4, (5, 1), padding=(2, 0))
        self.voicing_first = nn.Conv1d(5, 16, 3, padding=1)
        self.voicing_last = nn.Conv1d(16, 1, 1)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], low_hz: float, high_hz: float) -> SwiftF0:
        """A network that finds F0 between two frequencies; raises ValueError where the weights don't fit.

        Each filter bank comes as `places_SIZE` in the flattened bank, and `values_SIZE` there.
        """
        state = dict(tensors)
        with reading_weights():
            for size in _FFT_SIZES:
                bank = torch.zeros((size // 2 + 1) * _BANDS)
                bank[state.pop(f"places_{size}").long()] = state.pop(f"values_{size}")
                state[f"bands_{size}"] = bank.view(-1, _BANDS)
            with without_weights():
                model = cls()
            model.load_state_dict(state, assign=True)
        step = torch.arange(PITCHES, dtype=torch.float64) / (PITCHES - 1)
        pitch_hz = (_FIRST_PITCH_HZ * (_LAST_PITCH_HZ / _FIRST_PITCH_HZ) ** step).float()
        model.register_buffer("pitch_hz", pitch_hz)
        model.register_buffer("in_band", (pitch_hz >= low_hz) & (pitch_hz <= high_hz))
        return model.eval().requires_grad_(False)

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """F0 in Hz, and whether there is voice, both (batch, frames); frame i is centred on sample 256 i.

        Takes (batch, samples) float32 at 16 kHz, and gives a frame for every whole 256 of them, at least one.
        """
        frames = max(1, samples.shape[1] // HOP_SAMPLES)
        spectra = self._spectra(samples, frames)
        scores, summary = self.heard(spectra)
        level = spectra.mean((1, 2)).unsqueeze(1)
        voicing = torch.cat([summary.amax(2), level], dim=1)
        voiced = self.voicing_last(self.voicing_first(voicing).relu_())[:, 0] >= 0
        padded = F.pad(samples, (0, max(0, HOP_SAMPLES - samples.shape[1])))[:, : frames * HOP_SAMPLES]
        loud = padded.abs().view(len(samples), frames, HOP_SAMPLES).amax(2) >= _SILENT_PEAK
        return self._decoded(scores), voiced & loud & self.in_band[scores.argmax(-1)]

    def heard(self, spectra: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (batch, frames, pitches), and what voicing is told by (batch, 4, pitches, frames), of `_spectra`."""
        x = self.first(spectra).relu_()
        x = self.blocks[-1](self.blocks[:-1](x)[:, :, :LAST_BANDS])
        x = self.narrow(F.pad(x[:, :, : PITCHES + 1], (1, 1, 1, 0))).relu_()
        return self.pitch(x)[:, 0].transpose(1, 2), self.summary(x)

    def _spectra(self, samples: Tensor, frames: int) -> Tensor:
        """Log spectrograms (batch, windows, bands, frames)."""
        longest, found = max(_FFT_SIZES) // 2, []
        padded = F.pad(samples, (longest, longest + HOP_SAMPLES))
        for size in _FFT_SIZES:
            pieces = padded[:, longest - size // 2 :].unfold(1, size, HOP_SAMPLES)[:, :frames]
            parts = torch.view_as_real(torch.fft.rfft(pieces * self.get_buffer(f"window_{size}"))).square_()
            found.append((parts[..., 0] + parts[..., 1]).sqrt_() @ self.get_buffer(f"bands_{size}"))
        spectra = torch.stack(found, dim=1).add_(_FLOOR).log_().transpose(2, 3)
        on_cpu = spectra.device.type == "cpu"  # whose convolutions take channels innermost in half the time
        return spectra.contiguous(memory_format=torch.channels_last if on_cpu else torch.contiguous_format)

    def _decoded(self, scores: Tensor) -> Tensor:
        """The mean of the best pitch and its neighbours on a logarithmic scale, (batch, frames) in Hz."""
        scores = scores.masked_fill(~self.in_band, -torch.inf)
        best = scores.argmax(-1, keepdim=True)
        near = best + torch.arange(_NEIGHBOURS, device=best.device)
        weights = F.pad(scores, (1, 1), value=-torch.inf).gather(-1, near).softmax(-1)
        steps = weights[..., 2] - weights[..., 0]
        return self.pitch_hz[best[..., 0]] * (_LAST_PITCH_HZ / _FIRST_PITCH_HZ) ** (steps / (PITCHES - 1))


class Block(nn.Module):
    def __init__(self, bands: int, frames: int, dilation: int) -> None:
        super().__init__()
        shape, padding = (bands, frames), (bands // 2 * dilation, frames // 2)
        self.one = nn.Conv2d(_CHANNELS, _CHANNELS, shape, padding=padding, dilation=(dilation, 1))
        self.other = nn.Conv2d(_CHANNELS, _CHANNELS, shape, padding=padding, dilation=(dilation, 1))

    def forward(self, x: Tensor) -> Tensor:
        return cast("Tensor", self.other(self.one(x).relu_())).add_(x).relu_()
