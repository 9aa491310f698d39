"""A HuBERT checkpoint shaped as fairseq saves it, with objects of its classes, made without fairseq."""

from __future__ import annotations

import argparse
import re
import sys
import types
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_LAYER = r"encoder\.layers\.(\d+)\."
_NAMES = [
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.weight", r"feature_extractor.conv_layers.\1.0.weight"),
    (r"feature_extractor\.conv_layers\.0\.layer_norm\.(\w+)", r"feature_extractor.conv_layers.0.2.\1"),
    (r"feature_projection\.layer_norm\.(\w+)", r"layer_norm.\1"),
    (r"feature_projection\.projection\.(\w+)", r"post_extract_proj.\1"),
    (r"encoder\.pos_conv_embed\.conv\.(.+)", r"encoder.pos_conv.0.\1"),
    (_LAYER + r"attention\.(\w+\.\w+)", r"encoder.layers.\1.self_attn.\2"),
    (_LAYER + r"layer_norm\.(\w+)", r"encoder.layers.\1.self_attn_layer_norm.\2"),
    (_LAYER + r"feed_forward\.intermediate_dense\.(\w+)", r"encoder.layers.\1.fc1.\2"),
    (_LAYER + r"feed_forward\.output_dense\.(\w+)", r"encoder.layers.\1.fc2.\2"),
]


def fairseq_name(name: str) -> str:
    for ours, theirs in _NAMES:
        if re.fullmatch(ours, name):
            return re.sub(ours, theirs, name)
    return name


def write_fairseq_hubert(path: Path, weights: Mapping[str, Tensor], *, heads: int, legacy: bool = False) -> Path:
    """Write weights that have transformers' names."""
    module = types.ModuleType("fairseq.data.dictionary")
    dictionary = type("Dictionary", (), {"__module__": module.__name__})
    module.Dictionary = dictionary  # type: ignore[attr-defined]
    state = OrderedDict((fairseq_name(name), tensor) for name, tensor in weights.items())
    state["mask_emb"] = torch.zeros(3)
    state["label_embs_concat"] = torch.zeros(5, 2)
    words = dictionary()
    words.__dict__ |= {"symbols": ["<s>"], "indices": {"<s>": 0}}
    settings = {"_name": "hubert", "encoder_attention_heads": heads}
    content = {
        "args": argparse.Namespace(**settings) if legacy else None,
        "cfg": None if legacy else {"model": settings, "task": {"labels": {1, 2}}},
        "model": state,
        "criterion": None,
        "task_state": {"dictionaries": [words]},
        "extra_state": {"metrics": Path("x")},
    }
    sys.modules |= {"fairseq": types.ModuleType("fairseq"), "fairseq.data": types.ModuleType("fairseq.data")}
    sys.modules[module.__name__] = module
    try:
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    finally:
        for name in ("fairseq", "fairseq.data", module.__name__):
            del sys.modules[name]
    return path
