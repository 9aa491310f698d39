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
        ("no json", "Expecting value"),
        ("[1]", "isn't a config of RVC"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps({"model": {"n_heads": 1e999}}), "isn't a config of RVC"),
        ("{}", "has no sizes"),
        (
            json.dumps(RVC_CONFIG | {"data": {"sampling_rate": 48_000}}),
            "is for 48000 Hz, the voice has 40000",
        ),
        (json.dumps({"model": {"n_heads": "2"}}), "whole number"),
        (json.dumps({"model": {"upsample_rates": 7}}), "isn't a config of RVC"),
        (json.dumps({"model": {"resblock_dilation_sizes": [[1], [], [1]]}}), "no residual layers"),
        (
            json.dumps({"model": {"upsample_rates": [10, 10, 4, 1], "upsample_kernel_sizes": [16, 16, 8, 2]}}),
            "even upsa",
        ),
        (json.dumps(RVC_CONFIG | {"data": {"hop_length": 512}}), "hop_length of 512"),
        (json.dumps(RVC_CONFIG | {"data": {"filter_length": 1025}}), "odd filter_length"),
        (json.dumps(RVC_CONFIG | {"data": {"filter_length": 0}}), "filter_length of 0, shorter"),
        (json.dumps(RVC_CONFIG | {"data": {"filter_length": 32_766}}), "outside 41 to 200"),
        (json.dumps(RVC_CONFIG | {"train": {"segment_size": 800}}), "segment_size of 2 frames"),
        (json.dumps(RVC_CONFIG | {"train": {"segment_size": 100_000}}), "segment_size of 250 frames"),
        (json.dumps({"model": {"hidden_channels": 1 << 40}}), "widths out of range"),
        (json.dumps({"model": {"upsample_rates": [10, 10, 2, 3]}}), "100 frames a second"),
    ],
)
def test_sizes_that_make_no_network_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "sizes.json"
    path.write_text(content)
    with pytest.raises(MenuraError) as caught:
        create.checked_network(TrainingOptions(config=path), 1)
    assert message in caught.value.problem


def test_a_missing_config_is_an_option_error(tmp_path: Path) -> None:
    path = tmp_path / "missing.json"
    with pytest.raises(OptionError) as caught:
        create.checked_network(TrainingOptions(config=path), 1)
    assert (caught.value.subject, caught.value.option) == (str(path), "config")


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


def test_what_training_lacks_is_fetched_by_name_where_it_has_one(tmp_path: Path) -> None:
    for options, said in (
        (TrainingOptions(), "Better run 'menura assets fetch pretrained-v2-40k' and make the experiment again"),
        (TrainingOptions(pitch=False), "/pretrained_v2/G40k.pth and D40k.pth, put them into "),
        (TrainingOptions(size="v1"), "/pretrained/f0G40k.pth and f0D40k.pth, put them into "),
    ):
        _, (note,) = create.warm_start(options, network(options, 1), tmp_path)
        assert note.advice is not None
        assert said in note.advice
