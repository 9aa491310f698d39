"""Networks built without weights: shapes only, and torch's compiler stays unloaded."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from menura.models.weights import without_weights


def test_shapes_without_memory() -> None:
    with without_weights():
        network = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 5), nn.Conv1d(5, 6, 7), nn.LayerNorm(6), nn.GRU(4, 3))
    assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    assert network[2].weight.shape == (6, 5, 7)
    network.load_state_dict({name: torch.zeros(t.shape) for name, t in network.state_dict().items()}, assign=True)
    assert float(nn.Linear(2, 2).weight.detach().abs().max()) > 0  # elsewhere weights are initialised as ever


def test_a_voice_is_built_without_torch_s_compiler() -> None:
    code = (
        "import sys\n"
        "from support.tiny import tiny_config\n"
        "from menura.checkpoints.voice import expected_shapes\n"
        "assert len(expected_shapes(tiny_config())) > 100\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="tests", timeout=120
    )
    assert run.stdout.strip() == "False"
