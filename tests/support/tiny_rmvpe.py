"""An RMVPE of a few thousand parameters with random weights under the published names."""

from __future__ import annotations

import torch
from torch import Tensor

from menura.models.rmvpe import RmvpeConfig

TINY_RMVPE = RmvpeConfig(channels=2, levels=3, blocks=2, bottleneck_layers=2, gru_size=6)


class Draw:
    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.weights: dict[str, Tensor] = {}

    def __call__(self, name: str, *shape: int, around: float = 0.0) -> Tensor:
        tensor = around + 0.3 * torch.randn(shape, generator=self.generator)
        self.weights[name] = tensor
        return tensor

    def norm(self, name: str, channels: int) -> None:
        self(f"{name}.weight", channels, around=1.0)
        self(f"{name}.bias", channels)
        self(f"{name}.running_mean", channels)
        self.weights[f"{name}.running_var"] = self(f"{name}.running_var", channels).abs() + 0.5
        self.weights[f"{name}.num_batches_tracked"] = torch.tensor(7)


def rmvpe_weights() -> dict[str, Tensor]:
    draw = Draw()

    def block(name: str, inputs: int, outputs: int) -> None:
        draw(f"{name}.conv.0.weight", outputs, inputs, 3, 3)
        draw.norm(f"{name}.conv.1", outputs)
        draw(f"{name}.conv.3.weight", outputs, outputs, 3, 3)
        draw.norm(f"{name}.conv.4", outputs)
        if inputs != outputs:
            draw(f"{name}.shortcut.weight", outputs, inputs, 1, 1)
            draw(f"{name}.shortcut.bias", outputs)

    draw.norm("unet.encoder.bn", 1)
    for level, (inputs, outputs) in enumerate([(1, 2), (2, 4), (4, 8)]):
        for n in range(2):
            block(f"unet.encoder.layers.{level}.conv.{n}", inputs if n == 0 else outputs, outputs)
    for layer, inputs in enumerate([8, 16]):
        for n in range(2):
            block(f"unet.intermediate.layers.{layer}.conv.{n}", inputs if n == 0 else 16, 16)
    for level, outputs in enumerate([8, 4, 2]):
        draw(f"unet.decoder.layers.{level}.conv1.0.weight", 2 * outputs, outputs, 3, 3)
        draw.norm(f"unet.decoder.layers.{level}.conv1.1", outputs)
        for n in range(2):
            block(f"unet.decoder.layers.{level}.conv2.{n}", 2 * outputs if n == 0 else outputs, outputs)
    draw("cnn.weight", 3, 2, 3, 3)
    draw("cnn.bias", 3)
    for end in ("", "_reverse"):
        draw(f"fc.0.gru.weight_ih_l0{end}", 18, 384)
        draw(f"fc.0.gru.weight_hh_l0{end}", 18, 6)
        draw(f"fc.0.gru.bias_ih_l0{end}", 18)
        draw(f"fc.0.gru.bias_hh_l0{end}", 18)
    draw("fc.1.weight", 360, 12)
    draw("fc.1.bias", 360)
    return draw.weights
