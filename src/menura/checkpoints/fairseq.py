"""HuBERT base as fairseq saves it, such as RVC WebUI's hubert_base.pt, turned into transformers' form."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from menura.checkpoints.pickles import Something, load_as_data
from menura.errors import CheckpointError

_LAYER = r"encoder\.layers\.(\d+)\."
_NAMES = {
    r"feature_extractor\.conv_layers\.(\d+)\.0\.weight": r"feature_extractor.conv_layers.\1.conv.weight",
    r"feature_extractor\.conv_layers\.0\.2\.(\w+)": r"feature_extractor.conv_layers.0.layer_norm.\1",
    r"layer_norm\.(\w+)": r"feature_projection.layer_norm.\1",
    r"post_extract_proj\.(\w+)": r"feature_projection.projection.\1",
    r"encoder\.pos_conv\.0\.(.+)": r"encoder.pos_conv_embed.conv.\1",
    r"encoder\.layer_norm\.(\w+)": r"encoder.layer_norm.\1",
    _LAYER + r"self_attn\.(\w+\.\w+)": r"encoder.layers.\1.attention.\2",
    _LAYER + r"self_attn_layer_norm\.(\w+)": r"encoder.layers.\1.layer_norm.\2",
    _LAYER + r"fc1\.(\w+)": r"encoder.layers.\1.feed_forward.intermediate_dense.\2",
    _LAYER + r"fc2\.(\w+)": r"encoder.layers.\1.feed_forward.output_dense.\2",
    _LAYER + r"final_layer_norm\.(\w+)": r"encoder.layers.\1.final_layer_norm.\2",
    r"final_proj\.(\w+)": r"final_proj.\1",
}
"""fairseq's names by transformers'; what isn't here (mask and label embeddings) serves training only."""
_HEAD_WIDTH = 64
"""Of an attention head, where the file doesn't say how many there are."""


def read_fairseq_hubert(path: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Read a checkpoint of fairseq as data; nothing in it is run, and fairseq isn't needed.

    Returns:
        Weights under transformers' names, and the fields of their config.json.

    Raises:
        CheckpointError: damaged, or not HuBERT base.
    """
    content = _fields(load_as_data(path))
    state = _renamed(_fields(content.get("model")))
    settings = _fields(_fields(content.get("cfg")).get("model")) or _fields(content.get("args"))
    try:
        return state, _sizes(state, settings.get("encoder_attention_heads"))
    except (LookupError, ZeroDivisionError) as error:
        raise CheckpointError(path, "not HuBERT base as fairseq saves it") from error


def _fields(value: object) -> Mapping[object, object]:
    """Of a dict, or an object's attributes."""
    value = value.fields if isinstance(value, Something) else value
    return value if isinstance(value, dict) else {}


def _renamed(model: Mapping[object, object]) -> dict[str, Tensor]:
    state = {}
    for name, tensor in model.items():
        for theirs, ours in _NAMES.items():
            found = re.fullmatch(theirs, name) if isinstance(name, str) and isinstance(tensor, Tensor) else None
            if found and isinstance(tensor, Tensor):
                state[found.expand(ours)] = tensor.detach().float().contiguous()
    return state


def _sizes(state: Mapping[str, Tensor], heads: object) -> dict[str, object]:
    layers = {int(name.split(".")[2]) for name in state if name.startswith("encoder.layers.")}
    convolutions = [state[f"feature_extractor.conv_layers.{n}.conv.weight"].shape for n in range(7)]
    base = "encoder.pos_conv_embed.conv"
    positional = state.get(f"{base}.weight_v", state.get(f"{base}.parametrizations.weight.original1"))
    if positional is None:
        raise KeyError(base)
    width = positional.shape[0]
    sizes: dict[str, object] = {
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": heads if isinstance(heads, int) else max(1, width // _HEAD_WIDTH),
        "intermediate_size": state["encoder.layers.0.feed_forward.intermediate_dense.weight"].shape[0],
        "conv_dim": [shape[0] for shape in convolutions],
        "conv_kernel": [shape[2] for shape in convolutions],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "num_conv_pos_embeddings": positional.shape[2],
        "num_conv_pos_embedding_groups": width // positional.shape[1],
    }
    if "final_proj.weight" in state:
        sizes["classifier_proj_size"] = state["final_proj.weight"].shape[0]
    return sizes
