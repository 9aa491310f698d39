"""hubert_base.pt is read as data, and gives the same content as the file in transformers' form."""

from __future__ import annotations

import io
import os
import pickle
import sys
from pathlib import Path

import pytest
import torch

from menura.checkpoints.hubert import read_fairseq_hubert
from menura.checkpoints.pickles import load_as_data
from menura.errors import CheckpointError
from menura.models.hubert import Hubert, HubertConfig
from support.fairseq import fairseq_name, write_fairseq_hubert
from support.tiny_hubert import CONFIG, tiny_weights


@pytest.mark.parametrize("legacy", [False, True])
def test_content_is_the_same(legacy: bool, tmp_path: Path) -> None:
    weights = tiny_weights()
    path = write_fairseq_hubert(tmp_path / "hubert_base.pt", weights, heads=4, legacy=legacy)
    state, fields = read_fairseq_hubert(path)
    assert not any(name.split(".")[0] == "fairseq" for name in sys.modules)
    assert HubertConfig.from_json(fields) == CONFIG
    samples = torch.randn(1, 4000, generator=torch.Generator().manual_seed(1))
    converted = Hubert.from_tensors(state, HubertConfig.from_json(fields))
    published = Hubert.from_tensors(weights, CONFIG)
    for ours, theirs in zip(converted(samples, layers=[1, 3]), published(samples, layers=[1, 3]), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(state["final_proj.weight"], weights["final_proj.weight"])


def test_half_precision(tmp_path: Path) -> None:
    halves = {name: tensor.half() for name, tensor in tiny_weights().items()}
    state, _ = read_fairseq_hubert(write_fairseq_hubert(tmp_path / "h.pt", halves, heads=4))
    assert all(tensor.dtype == torch.float32 for tensor in state.values())


class Calls:
    """Calls a function when unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_is_run(zipped: bool, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    torch.save(
        {"model": Calls(os.mkdir, str(victim)), "x": Calls(getattr, "x", "upper"), "y": Calls(eval, "1")},
        tmp_path / "h.pt",
        _use_new_zipfile_serialization=zipped,
    )
    assert isinstance(load_as_data(tmp_path / "h.pt"), dict)
    with pytest.raises(CheckpointError, match="not HuBERT base"):
        read_fairseq_hubert(tmp_path / "h.pt")
    assert not victim.exists()


@pytest.mark.parametrize("target", [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch.nn.parameter\nParameter\n"])
def test_functions_and_classes_stay_as_they_are(target: bytes, tmp_path: Path) -> None:
    """A pickle can set attributes, also of what it shares with this process."""
    before = torch._utils._rebuild_tensor_v2.__defaults__
    head = b"".join(pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
    attributes = b"N}(U\x0c__defaults__)U\x04nameK\x01u\x86b."
    (tmp_path / "h.pt").write_bytes(head + b"\x80\x02" + target + attributes + pickle.dumps([], protocol=2))
    with pytest.raises(CheckpointError):
        load_as_data(tmp_path / "h.pt")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before
    assert not hasattr(torch.nn.parameter.Parameter, "name") or torch.nn.parameter.Parameter.name != 1


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "h.pt"
    flat = {fairseq_name(name): tensor for name, tensor in tiny_weights().items()}
    flat["encoder.pos_conv.0.weight_v"] = torch.zeros(3)
    few = {"layer_norm.weight": torch.zeros(2)}
    for content in ({"model": {}}, {"model": few}, [1], {"model": {1: 2}}, {"model": flat}):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match="not HuBERT base"):
            read_fairseq_hubert(path)
    buffer = io.BytesIO()
    torch.save({"model": tiny_weights()}, buffer)
    path.write_bytes(buffer.getvalue()[:-300])
    with pytest.raises(CheckpointError, match="cut off"):
        read_fairseq_hubert(path)
