"""A data folder with every network of an RVC voice, tiny: HuBERT, RMVPE, a v2 voice, an index."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

from menura.models import rmvpe
from menura.options import ConversionOptions
from support.tiny import tiny_config
from support.tiny_hubert import CONFIG, tiny_weights
from support.tiny_rmvpe import TINY_RMVPE, rmvpe_weights
from support.voicefiles import write_voice


def make_home(home: Path, patch: pytest.MonkeyPatch) -> ConversionOptions:
    """Fill the folder; what converts with its voice. RMVPE's size is in no file, so that is patched."""
    assets = home / "assets" / "contentvec"
    assets.mkdir(parents=True)
    (assets / "config.json").write_text(json.dumps(dataclasses.asdict(CONFIG)), encoding="utf-8")
    torch.save(tiny_weights(), assets / "pytorch_model.bin")
    torch.save(rmvpe_weights(), home / "assets" / "rmvpe.pt")
    patch.setattr(rmvpe, "RmvpeConfig", partial(dataclasses.replace, TINY_RMVPE))
    config = dataclasses.replace(tiny_config(), content_dim=CONFIG.hidden_size, content_encoder="contentvec")
    voice = write_voice(home / "tiny.pth", config, scale=0.25)
    index = faiss.index_factory(config.content_dim, "IVF4,Flat")
    vectors = np.random.default_rng(4).standard_normal((400, config.content_dim)).astype(np.float32)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(home / "tiny.index"))
    return ConversionOptions(voice=str(voice), index=home / "tiny.index", f0="rmvpe", transpose=0.0)
