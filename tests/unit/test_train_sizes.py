"""RVC's config files: sizes that make no network, and those that are RVC's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from menura.errors import MenuraError, OptionError
from menura.options import TrainingOptions
from menura.train import create
from menura.train.experiment.defaults import network
from support.training import RVC_CONFIG


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "Give a config file of RVC"),
        ("[1]", "Give a config file of RVC"),
        ("[" * 100_000, "Give a config file of RVC"),
        (json.dumps({"model": {"n_heads": 1e999}}), "Give a config file of RVC"),
        ("{}", "names no sizes"),
        (
            json.dumps(RVC_CONFIG | {"data": {"sampling_rate": 48_000}}),
            r"for 48000 Hz, the voice has 40000 \(--sample-rate\)",
        ),
        (json.dumps({"model": {"n_heads": "2"}}), "no whole number"),
        (json.dumps({"model": {"upsample_rates": 7}}), "Give a config file of RVC"),
        (json.dumps({"model": {"resblock_dilation_sizes": [[1], [], [1]]}}), "no residual layers"),
        (
            json.dumps({"model": {"upsample_rates": [10, 10, 4, 1], "upsample_kernel_sizes": [16, 16, 8, 2]}}),
            "even upsa",
        ),
        (json.dumps(RVC_CONFIG | {"data": {"hop_length": 512}}), "a hop_length of 512 isn't 10 ms"),
        (json.dumps(RVC_CONFIG | {"data": {"filter_length": 1025}}), "is odd"),
        (json.dumps(RVC_CONFIG | {"data": {"filter_length": 0}}), "spectra of 0 samples"),
        (json.dumps(RVC_CONFIG | {"data": {"filter_length": 32_766}}), "cuts must have 41 to 200 frames"),
        (json.dumps(RVC_CONFIG | {"train": {"segment_size": 800}}), "of 2 frames"),
        (json.dumps(RVC_CONFIG | {"train": {"segment_size": 100_000}}), "of 250 frames"),
        (json.dumps({"model": {"hidden_channels": 1 << 40}}), "widths out of range"),
        (json.dumps({"model": {"upsample_rates": [10, 10, 2, 3]}}), "100 frames a second"),
    ],
)
def test_sizes_that_make_no_network_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "sizes.json"
    path.write_text(content)
    with pytest.raises(MenuraError, match=message):
        create.checked_network(TrainingOptions(config=path), 1)
    with pytest.raises(OptionError, match=r"missing\.json can't be taken"):
        create.checked_network(TrainingOptions(config=tmp_path / "missing.json"), 1)


def test_rvcs_own_sizes_still_begin_with_its_pretrained_files(tmp_path: Path) -> None:
    """People name the file by habit."""
    (tmp_path / "40k.json").write_text(json.dumps({"model": {"n_layers": 6, "upsample_rates": [10, 10, 2, 2]}}))
    weights = tmp_path / "assets" / "pretrained_v2"
    weights.mkdir(parents=True)
    for name in ("f0G40k.pth", "f0D40k.pth"):
        (weights / name).write_bytes(b"")
    options = TrainingOptions(config=tmp_path / "40k.json")
    warm, _ = create.warm_start(options, network(options, 1), tmp_path)
    assert warm.generator == str(weights / "f0G40k.pth")
    (tmp_path / "40k.json").write_text(json.dumps({"model": {"n_layers": 4}}))
    warm, notes = create.warm_start(options, network(options, 1), tmp_path)
    assert not warm.generator
    assert "random weights" in notes[0].problem
