"""HuBERT base (Hsu et al. 2021, arXiv:2106.07447) and ContentVec (Qian et al. 2022, arXiv:2204.09224), for inference.

Keys follow the files that transformers' HubertModel writes, with RVC's `final_proj` beside them. For speed the first
layer's group norm is folded into its convolution, and those over time are matrix products, in tiles that stay in cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from menura.models.source import wide
from menura.models.weights import State, classic, reading_weights, without_weights
from menura.units import ceil_div


@dataclass(frozen=True, slots=True, kw_only=True)
class HubertConfig:
    """Sizes of a HuBERT with group norm and post-norm layers ("base"), by the names of its config.json."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    layer_norm_eps: float = 1e-5
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    classifier_proj_size: int = 256
    """Width of `final_proj`."""

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> HubertConfig:
        """Read a config.json's fields. Raises ValueError if they describe another architecture."""
        expected = {"feat_extract_norm": "group", "feat_extract_activation": "gelu", "hidden_act": "gelu"}
        switches = {"conv_bias": False, "do_stable_layer_norm": False, "conv_pos_batch_norm": False}
        for name, value in {**expected, **switches, "feat_proj_layer_norm": True}.items():
            if fields.get(name, value) != value:
                raise ValueError(f"has {name} = {fields[name]!r}, HuBERT base has {value!r}")
        known = {name: fields[name] for name in cls.__slots__ if name in fields}
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        for name, value in known.items():
            items = value if isinstance(value, tuple) else (value,)
            if not items or not all(isinstance(v, (int, float)) and v > 0 for v in items):
                raise ValueError(f"has {name} = {value!r}, which isn't a size")
        config = cls(**known)  # type: ignore[arg-type]
        if not len(config.conv_dim) == len(config.conv_kernel) == len(config.conv_stride):
            raise ValueError("has convolution lists of unequal length")
        if any(not stride <= kernel <= 2 * stride for kernel, stride in config.convolutions[1:]):
            raise ValueError("has convolutions that HuBERT base doesn't have")
        return config

    @property
    def convolutions(self) -> list[tuple[int, int]]:
        """Kernel and stride of each."""
        return list(zip(self.conv_kernel, self.conv_stride, strict=True))

    def frame_count(self, length_samples: int) -> int:
        """Frames that a window of that many 16 kHz samples gives."""
        for kernel, stride in self.convolutions:
            length_samples = max(0, (length_samples - kernel) // stride + 1)
        return length_samples

    def samples_for(self, frames: int) -> int:
        """Samples that `frames` (at least one) frames need."""
        for kernel, stride in reversed(self.convolutions):
            frames = (frames - 1) * stride + kernel
        return frames


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStatistics:
    """Mean and (biased) variance of the first convolution's channels over time, (batch, channels) float64 each."""

    mean: Tensor
    variance: Tensor


class FeatureExtractor(nn.Module):
    """The strided convolutions from samples to (batch, frames, channels)."""

    tile_frames = 256
    """Content frames a tile gives on a CPU: its widest layer is then 16 k x 512 floats."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.conv_dim
        self.first = nn.Parameter(torch.empty(channels[0], config.conv_kernel[0]))
        self.norm_weight, self.norm_bias = (nn.Parameter(torch.empty(channels[0])) for _ in range(2))
        # Each later kernel k of stride s is split into its first s taps, which read a plain reshape of the
        # input, and the k - s taps after them, which read the next group of s: two products, no copies.
        self.near, self.far = nn.ParameterList(), nn.ParameterList()
        for (inputs, outputs), (kernel, stride) in zip(pairwise(channels), config.convolutions[1:], strict=True):
            self.near.append(torch.empty(outputs, stride * inputs))
            self.far.append(torch.empty(outputs, (kernel - stride) * inputs))

    def forward(self, samples: Tensor, statistics: ChannelStatistics) -> Tensor:
        """(batch, samples) to (batch, frames, channels)."""
        first, norm_weight, norm_bias = (
            wide(p).to(statistics.mean.device) for p in (self.first, self.norm_weight, self.norm_bias)
        )
        scale = norm_weight * (statistics.variance + 1e-5).rsqrt()
        bias = (norm_bias - statistics.mean * scale).float().to(samples)
        weight = (first * scale.unsqueeze(-1)).float().to(samples)
        frames = self.config.frame_count(samples.shape[-1])
        out = samples.new_empty(samples.shape[0], frames, self.config.conv_dim[-1])
        hop = math.prod(self.config.conv_stride)
        step = self.tile_frames if samples.device.type == "cpu" else max(1, frames)
        for row in range(samples.shape[0]):
            for start in range(0, frames, step):
                stop = min(start + step, frames)
                tile = samples[row, start * hop : start * hop + self.config.samples_for(stop - start)]
                out[row, start:stop] = self.tile(tile, weight[row], bias[row])
        return out

    def tile(self, samples: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(samples,) to (frames, channels); weight (channels, taps) and bias are the first layer's with its norm."""
        x = samples.unfold(0, self.config.conv_kernel[0], self.config.conv_stride[0])
        x = F.gelu(torch.addmm(bias, x, weight.T))
        for near, far, (kernel, stride) in zip(self.near, self.far, self.config.convolutions[1:], strict=True):
            frames = (x.shape[0] - kernel) // stride + 1
            y = x[: frames * stride].reshape(frames, -1) @ near.T
            for tap in range(kernel - stride):
                taps = slice(tap * x.shape[1], (tap + 1) * x.shape[1])
                y.addmm_(x[stride + tap :: stride][:frames], far[:, taps].T)
            x = F.gelu(y)
        return x


def complex_product(a: Tensor, b: Tensor) -> Tensor:
    """torch.bmm of complex matrices."""
    return _product_of_parts(a, b) if a.device.type == "mps" else torch.bmm(a, b)


def _product_of_parts(a: Tensor, b: Tensor) -> Tensor:
    """The same by real products: torch 2.4 has no others on Apple's GPUs."""
    real = torch.bmm(a.real, b.real) - torch.bmm(a.imag, b.imag)
    return torch.complex(real, torch.bmm(a.real, b.imag) + torch.bmm(a.imag, b.real))


class _PositionalConvolution(nn.Module):
    """A grouped convolution of 128 taps over time, by FFT in blocks (a ninth of HuBERT's time if done directly)."""

    spectrum: Tensor

    def __init__(self, channels: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.kernel, self.groups, self.block = kernel, groups, 2 * kernel
        width = channels // groups
        self.bias = nn.Parameter(torch.empty(channels))
        shape = (kernel + 1, groups, width, width)
        self.register_buffer("spectrum", torch.empty(shape, dtype=torch.complex64), persistent=False)

    def set_weight(self, weight: Tensor) -> None:
        """Take the folded weight (channels, channels / groups, kernel); a convolution layer correlates: conjugate."""
        spectrum = torch.fft.rfft(weight.to(torch.float64), n=self.block).conj()
        grouped = spectrum.unflatten(0, (self.groups, -1))  # (groups, out, in, bins)
        self.spectrum = grouped.permute(3, 0, 2, 1).to(torch.complex64).contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, channels) to the same shape, after GELU."""
        batch, frames, channels = x.shape
        step = self.block - self.kernel + 1
        blocks = ceil_div(frames, step)
        # transformers pads by kernel // 2 on both sides and drops the last frame of an even kernel.
        left = self.kernel // 2
        padded = F.pad(x, (0, 0, left, (blocks - 1) * step + self.block - left - frames))
        windows = torch.fft.rfft(padded.unfold(1, self.block, step))  # (batch, blocks, channels, bins)
        bins = windows.shape[-1]
        rows = windows.permute(3, 2, 0, 1).reshape(bins * self.groups, -1, batch * blocks).transpose(1, 2)
        product = complex_product(rows, self.spectrum.flatten(0, 1))
        product = product.view(bins, self.groups, batch, blocks, -1).permute(2, 3, 1, 4, 0)
        y = torch.fft.irfft(product, n=self.block)[..., :step]  # (batch, blocks, groups, width, step)
        y = y.flatten(2, 3).transpose(2, 3).reshape(batch, blocks * step, channels)
        return F.gelu(y[:, :frames] + self.bias)


class SelfAttention(nn.Module):
    """Multi-head attention up to where the heads are joined."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads, self.head_width = config.num_attention_heads, width // config.num_attention_heads
        # Not joined: joined ones would be a copy beside the file's, which are only mapped, and gain nothing.
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, channels) to the same shape."""
        ways = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (way(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for way in ways)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class Layer(nn.Module):
    """A transformer layer with its norms after the residual sums."""

    def __init__(self, config: HubertConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.attention: nn.Module = SelfAttention(config)
        self.out_proj = nn.Linear(width, width)
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate_dense = nn.Linear(width, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, width)
        self.final_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, frames, channels) to the same shape."""
        x = self.layer_norm(x + self.out_proj(self.attention(x)))
        widened = self.output_dense(F.gelu(self.intermediate_dense(x)))
        result: Tensor = self.final_layer_norm(x + widened)
        return result


class Hubert(nn.Module):
    """Samples at 16 kHz to hidden states at 50 a second."""

    def __init__(self, config: HubertConfig, *, with_projection: bool) -> None:
        super().__init__()
        self.config = config
        channels, width = config.conv_dim[-1], config.hidden_size
        self.feature_extractor = FeatureExtractor(config)
        self.projection_norm = nn.LayerNorm(channels, eps=config.layer_norm_eps)
        self.projection = nn.Linear(channels, width)
        self.pos_conv = _PositionalConvolution(
            width, config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
        )
        self.layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.final_proj = nn.Linear(width, config.classifier_proj_size) if with_projection else None

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: HubertConfig) -> Hubert:
        """The network in float32 from a checkpoint's tensors. Raises ValueError if one is missing or misshapen."""
        with without_weights():
            model = cls(config, with_projection="final_proj.weight" in tensors)
        with reading_weights():
            model.load_state_dict(_state(tensors, config), assign=True)
            model.pos_conv.set_weight(_positional_weight(classic(tensors)))
        return model.eval().requires_grad_(False)

    def use_half(self) -> None:
        """Compute the transformer's layers in half precision from now on."""
        self.layers.half()

    def window_statistics(self, samples: Tensor) -> ChannelStatistics:
        """The first layer's statistics over each row of (batch, samples), as a plain group norm would take them."""
        frames = wide(samples).unfold(-1, self.config.conv_kernel[0], self.config.conv_stride[0])
        return self.channel_statistics(frames.mean(dim=1), frames.transpose(1, 2) @ frames / frames.shape[1])

    def channel_statistics(self, first: Tensor, second: Tensor) -> ChannelStatistics:
        """The first layer's statistics from its inputs' mean vector and mean outer product, float64.

        Frame t of the first convolution sees samples [stride t, stride t + kernel): the moments (batch, kernel) and
        (batch, kernel, kernel) of that vector give every channel's mean w·μ and mean square wᵀRw exactly.
        """
        weight = wide(self.feature_extractor.first).to(first.device)
        mean = first @ weight.T
        square = torch.einsum("ci,bij,cj->bc", weight, second, weight)
        return ChannelStatistics(mean=mean, variance=(square - mean.square()).clamp(min=0.0))

    def features(self, samples: Tensor, statistics: ChannelStatistics | None = None) -> Tensor:
        """(batch, samples) to the convolutions' (batch, frames, channels); statistics by default each row's own."""
        features: Tensor = self.feature_extractor(samples, statistics or self.window_statistics(samples))
        return features

    def forward(
        self, samples: Tensor, *, layers: Sequence[int], statistics: ChannelStatistics | None = None
    ) -> list[Tensor]:
        """Hidden states (batch, frames, hidden_size) after each of `layers`, counted from 1; else as `features`."""
        x = self.projection(self.projection_norm(self.features(samples, statistics)))
        x = self.layer_norm(x + self.pos_conv(x)).to(next(self.layers.parameters()).dtype)
        outputs: dict[int, Tensor] = {}
        for number, layer in enumerate(self.layers[: max(layers)], start=1):
            x = layer(x)
            if number in layers:
                outputs[number] = x.to(samples.dtype)
        return [outputs[number] for number in layers]


def _state(tensors: Mapping[str, Tensor], config: HubertConfig) -> State:
    """A checkpoint's tensors under this module's names, those of the convolutions reshaped."""
    names = {
        "projection_norm": "feature_projection.layer_norm",
        "projection": "feature_projection.projection",
        "layer_norm": "encoder.layer_norm",
    }
    parts = {f"attention.{part}_proj": f"attention.{part}_proj" for part in "qkv"} | {
        "out_proj": "attention.out_proj",
        "layer_norm": "layer_norm",
        "intermediate_dense": "feed_forward.intermediate_dense",
        "output_dense": "feed_forward.output_dense",
        "final_layer_norm": "final_layer_norm",
    }
    for n in range(config.num_hidden_layers):
        names |= {f"layers.{n}.{ours}": f"encoder.layers.{n}.{theirs}" for ours, theirs in parts.items()}
    if "final_proj.weight" in tensors:
        names["final_proj"] = "final_proj"
    base = "feature_extractor.conv_layers"
    copied = {
        "pos_conv.bias": "encoder.pos_conv_embed.conv.bias",
        "feature_extractor.first": f"{base}.0.conv.weight",
        "feature_extractor.norm_weight": f"{base}.0.layer_norm.weight",
        "feature_extractor.norm_bias": f"{base}.0.layer_norm.bias",
    } | {f"{ours}.{kind}": f"{theirs}.{kind}" for ours, theirs in names.items() for kind in ("weight", "bias")}
    state = {ours: tensors[theirs].to(torch.float32) for ours, theirs in copied.items()}
    state["feature_extractor.first"] = state["feature_extractor.first"].flatten(1)
    for number, (_, stride) in enumerate(config.convolutions[1:]):
        weight = tensors[f"{base}.{number + 1}.conv.weight"].to(torch.float32).transpose(1, 2)  # (out, taps, in)
        state[f"feature_extractor.near.{number}"] = weight[:, :stride].flatten(1)
        state[f"feature_extractor.far.{number}"] = weight[:, stride:].flatten(1)
    return state


def _positional_weight(tensors: Mapping[str, Tensor]) -> Tensor:
    """The weight-normed positional kernel, folded."""
    base = "encoder.pos_conv_embed.conv"
    if f"{base}.weight" in tensors:
        return tensors[f"{base}.weight"].to(torch.float32)
    gain, direction = (tensors[f"{base}.weight_{part}"].to(torch.float32) for part in "gv")
    norm = direction.to(torch.float64).square().sum(dim=(0, 1), keepdim=True).sqrt()
    return (gain * direction / norm).to(torch.float32)
