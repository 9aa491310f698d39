"""Tiny voice files with random weights."""

from __future__ import annotations

from pathlib import Path

import torch

from menura.checkpoints.voice import LoadedVoice, VoiceMetadata, expected_shapes, save_voice
from menura.models.config import SynthesizerConfig
from support.tiny import tiny_config


def write_voice(path: Path, config: SynthesizerConfig | None = None, name: str = "", *, scale: float = 0.1) -> Path:
    """Write a voice of a few thousand parameters as .pth or .safetensors, by the path's ending."""
    config = config or tiny_config()
    generator = torch.Generator().manual_seed(11)
    state = {
        key: torch.randn(shape, generator=generator).mul(scale).half().float()
        for key, shape in expected_shapes(config).items()
    }
    voice = LoadedVoice(config=config, state=state, metadata=VoiceMetadata(name=name, author="nobody"))
    save_voice(path, voice)
    return path
