"""HuBERT base in transformers' layout, and as fairseq saves it, such as RVC WebUI's hubert_base.pt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from menura.checkpoints.pickles import Something, load_as_data, load_weights, unreadable
from menura.errors import AssetMissingError, CheckpointError
from menura.models.hubert import Hubert, HubertConfig
from menura.models.weights import State, classic
from menura.system.files import read_json

CONFIG_NAME = "config.json"
WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.bin")
"""The first goes before the second."""
_ADVICE = "Use ContentVec's files, or another HuBERT base in transformers' layout"

_LAYER = r"encoder\.layers\.(\d+)\."
_FAIRSEQ_NAMES = {
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
"""To transformers'; what isn't here (mask and label embeddings) serves training only."""
_HEAD_WIDTH = 64
"""Of an attention head, where the file doesn't say how many there are."""


def load_hubert(folder: Path) -> Hubert:
    """Read config.json with model.safetensors or pytorch_model.bin. Raises AssetMissingError, CheckpointError."""
    config_path = folder / CONFIG_NAME
    weights_path = next((folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()), None)
    if not config_path.is_file() or weights_path is None:
        lacking = CONFIG_NAME if weights_path else " or ".join(WEIGHTS_NAMES)
        raise AssetMissingError(folder, f"lacks {lacking}", "'menura assets list --all' says where it comes from")
    try:
        fields = read_json(config_path)
    except (OSError, ValueError) as error:
        raise unreadable(config_path, "JSON") from error
    if not isinstance(fields, dict):
        raise CheckpointError(config_path, "isn't a model's configuration", "Fetch it again")
    path = config_path
    try:
        config = HubertConfig.from_json(fields)
        path = weights_path
        return Hubert.from_tensors(load_weights(path), config)
    except ValueError as error:
        raise CheckpointError(path, str(error), _ADVICE) from error


def read_fairseq_hubert(path: Path) -> tuple[State, dict[str, object]]:
    """Weights under transformers' names and the fields of their config.json; nothing in the file is run.

    Raises CheckpointError if it is damaged, or not HuBERT base.
    """
    content = _fields(load_as_data(path))
    settings = _fields(_fields(content.get("cfg")).get("model")) or _fields(content.get("args"))
    weights = {n: t for n, t in _fields(content.get("model")).items() if isinstance(n, str) and isinstance(t, Tensor)}
    state = classic(
        {
            found.expand(ours): tensor.detach().float().contiguous()
            for name, tensor in weights.items()
            for theirs, ours in _FAIRSEQ_NAMES.items()
            if (found := re.fullmatch(theirs, name))
        }
    )
    try:
        return state, _config_of(state, settings.get("encoder_attention_heads"))
    except (LookupError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(path, "not HuBERT base as fairseq saves it") from error


def _fields(value: object) -> Mapping[object, object]:
    """Of a dict, or an object's attributes."""
    value = value.fields if isinstance(value, Something) else value
    return value if isinstance(value, dict) else {}


def _config_of(state: State, heads: object) -> dict[str, object]:
    convolutions = [state[f"feature_extractor.conv_layers.{n}.conv.weight"].shape for n in range(7)]
    width, group_width, taps = state["encoder.pos_conv_embed.conv.weight_v"].shape
    config: dict[str, object] = {
        "hidden_size": width,
        "num_hidden_layers": len({name.split(".")[2] for name in state if name.startswith("encoder.layers.")}),
        "num_attention_heads": heads if isinstance(heads, int) else max(1, width // _HEAD_WIDTH),
        "intermediate_size": state["encoder.layers.0.feed_forward.intermediate_dense.weight"].shape[0],
        "conv_dim": [shape[0] for shape in convolutions],
        "conv_kernel": [shape[2] for shape in convolutions],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "num_conv_pos_embeddings": taps,
        "num_conv_pos_embedding_groups": width // group_width,
    }
    if "final_proj.weight" in state:
        config["classifier_proj_size"] = state["final_proj.weight"].shape[0]
    return config
