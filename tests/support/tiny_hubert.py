"""A HuBERT of a few thousand parameters with random weights under the published names."""

from __future__ import annotations

import torch
from torch import Tensor

from menura.models.hubert import HubertConfig

CONFIG = HubertConfig(
    hidden_size=24,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=40,
    conv_dim=(16,) * 7,
    num_conv_pos_embedding_groups=4,
    classifier_proj_size=10,
)
BASE = "feature_extractor.conv_layers"
POSITIONS = "encoder.pos_conv_embed.conv"


def tiny_weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    width, inner = CONFIG.hidden_size, CONFIG.intermediate_size
    weights = {
        f"{BASE}.0.layer_norm.weight": 1 + draw(16),
        f"{BASE}.0.layer_norm.bias": draw(16),
        f"{POSITIONS}.bias": draw(width),
        f"{POSITIONS}.weight_g": 1 + draw(1, 1, 128),
        f"{POSITIONS}.weight_v": draw(width, width // 4, 128),
    }
    for n, kernel in enumerate(CONFIG.conv_kernel):
        weights[f"{BASE}.{n}.conv.weight"] = draw(16, 1 if n == 0 else 16, kernel)
    linear = {"feature_projection.projection": (width, 16), "final_proj": (10, width)}
    norms = ["encoder.layer_norm"]
    weights |= {"feature_projection.layer_norm.weight": 1 + draw(16), "feature_projection.layer_norm.bias": draw(16)}
    for n in range(CONFIG.num_hidden_layers):
        layer = f"encoder.layers.{n}"
        linear |= {f"{layer}.attention.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
        linear[f"{layer}.feed_forward.intermediate_dense"] = (inner, width)
        linear[f"{layer}.feed_forward.output_dense"] = (width, inner)
        norms += [f"{layer}.layer_norm", f"{layer}.final_layer_norm"]
    for name, shape in linear.items():
        weights |= {f"{name}.weight": draw(*shape), f"{name}.bias": draw(shape[0])}
    for name in norms:
        weights |= {f"{name}.weight": 1 + draw(width), f"{name}.bias": draw(width)}
    return weights
