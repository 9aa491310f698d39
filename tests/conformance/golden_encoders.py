"""Makes data/encoders.npz with transformers' HubertModel (5.24.0 then), which the project itself doesn't need.

usage, in an environment with transformers: PYTHONPATH=tests:. python tests/conformance/golden_encoders.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import HubertConfig, HubertModel

from support.recipe import encoder_manifest

DATA = Path(__file__).parent / "data"
FRAMES = (0, 47, 101, 160, 218)


def main() -> None:
    manifest = encoder_manifest()
    weights = manifest.weights()
    projection = {name: weights.pop(f"final_proj.{name}") for name in ("weight", "bias")}
    with np.load(DATA / "clip.npz") as clip:
        window = torch.from_numpy(np.pad(clip["samples"], 16_000, mode="reflect"))[None]
    arrays: dict[str, np.ndarray] = {"frames": np.array(FRAMES)}
    for heads in (8, 12):
        model = HubertModel(HubertConfig(**{**manifest.extra, "num_attention_heads": heads})).eval()
        for name in model.state_dict():  # torch's present form of weight norm
            old = name.replace("parametrizations.weight.original0", "weight_g")
            old = old.replace("parametrizations.weight.original1", "weight_v")
            if old != name:
                weights[name] = weights.get(old, weights.get(name))
        found = model.load_state_dict({name: weights[name] for name in model.state_dict()})
        assert not found.missing_keys
        with torch.inference_mode():
            states = model(window, output_hidden_states=True).hidden_states
        arrays[f"heads_{heads}"] = states[12][0, FRAMES].numpy()
        if heads == 12:
            for name, layer in (("last", 12), ("layer9", 9)):
                projected = torch.nn.functional.linear(states[layer], **projection)
                arrays[f"heads_12_{name}"] = projected[0, FRAMES].detach().numpy()
    np.savez(DATA / "encoders.npz", **arrays)


if __name__ == "__main__":
    main()
