"""The networks of an experiment as training begins: random, or with the weights of others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from menura.checkpoints.pickles import load_tensors
from menura.checkpoints.rvc import load_voice
from menura.errors import CheckpointError, TrainingError
from menura.models.discriminators import RvcDiscriminators
from menura.models.refinegan import RefineGan
from menura.models.source_filter import SourceFilter
from menura.models.synthesizer import Synthesizer
from menura.models.vocoders import HifiGan
from menura.models.weights import State, parametrized, without_weights
from menura.train.experiment.settings import Experiment
from menura.train.learning.precision import keep_float32, prefer_channels_last, recompute_in_backward

_INITIAL_LOG_SCALE = -3.0
_LEAST_SHARE = 0.5
"""Of the weights that a warm start must fill, or it isn't one."""


def make_generator(experiment: Experiment) -> Synthesizer:
    generator = Synthesizer(experiment.synthesizer, training=True)
    if experiment.objective == "direct":
        del generator.enc_q
        bias = generator.enc_p.proj.bias
        assert bias is not None
        with torch.no_grad():  # begin nearly without noise
            bias[experiment.synthesizer.inter_channels :] = _INITIAL_LOG_SCALE
    _preserve_variance(generator)
    prefer_channels_last(generator)
    for module in (generator.dec.conv_post, getattr(generator.dec, "m_source", None)):
        if module is not None:
            keep_float32(module)
    if experiment.gradient_checkpointing:
        for block in _residual_blocks(generator):
            recompute_in_backward(block)
    return generator


def _residual_blocks(generator: Synthesizer) -> list[nn.Module]:
    """Most of what training keeps is between their convolutions."""
    decoder = generator.dec
    if isinstance(decoder, HifiGan):
        return [block for stage in range(len(decoder.rates)) for block in decoder.blocks(stage)]
    if isinstance(decoder, SourceFilter):
        return [*decoder.blocks, *decoder.fine_blocks]
    assert isinstance(decoder, RefineGan)
    return list(decoder.upsample_conv_blocks)


def make_discriminators(experiment: Experiment) -> RvcDiscriminators:
    made = RvcDiscriminators(experiment.synthesizer.version)
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def warm_generator(generator: Synthesizer, path: Path) -> None:
    """Take over what fits of a generator's checkpoint or of a voice; speakers beyond the file's begin at its mean."""
    _fill(generator, _for_speakers(_generator_weights(path), generator), path)


def _for_speakers(state: State, generator: Synthesizer) -> dict[str, Tensor]:
    """Trainable weights, with as many speakers as the generator has."""
    weights = dict(parametrized(state))
    table = weights.get("emb_g.weight")
    if table is not None:
        rows = generator.emb_g.weight.shape[0]
        known = table[:rows].float()
        mean = table.float().mean(dim=0, keepdim=True)
        weights["emb_g.weight"] = torch.cat([known, mean.expand(max(0, rows - len(known)), -1)])
    return weights


def warm_discriminators(discriminators: nn.Module, path: Path) -> None:
    """Take over RVC's D file."""
    _fill(discriminators, parametrized(_training_state(path)), path)


def _generator_weights(path: Path) -> State:
    if path.suffix.lower() == ".safetensors":
        return load_voice(path).state
    content = load_tensors(path)
    if isinstance(content, dict) and "weight" in content:
        return load_voice(path).state
    return _training_state(path)


def _training_state(path: Path) -> State:
    content = load_tensors(path)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(value, Tensor) for value in model.values()):
        raise CheckpointError(path, "not a training checkpoint (RVC's G and D files contain 'model')")
    return dict(model)


def initial_weights(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise TrainingError(path, "the initial weights are missing", "Put them back")
    if not Path(name).is_absolute() and not path.resolve().is_relative_to(folder.resolve()):
        raise TrainingError(path, "the initial weights must be in the experiment's folder")
    return path


def check_warm_start(folder: Path, experiment: Experiment) -> None:
    """Raise what training would, were it to begin with the weights that the experiment names."""
    warm = experiment.warm_start
    if warm.generator:
        with without_weights():
            generator = make_generator(experiment)
        path = initial_weights(folder, warm.generator)
        _fitting(generator, _for_speakers(_generator_weights(path), generator), path)
    if warm.discriminator:
        path = initial_weights(folder, warm.discriminator)
        with without_weights():
            discriminators = make_discriminators(experiment)
        _fitting(discriminators, parametrized(_training_state(path)), path)


def _fitting(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    own = network.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    if len(fitting) < _LEAST_SHARE * len(own):
        raise TrainingError(
            path,
            f"only {len(fitting)} of {len(own)} weights fit this experiment's network",
            "Take a file of the same version, sample rate and vocoder",
        )
    return fitting


def _fill(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    network.load_state_dict(_fitting(network, weights, path), strict=False)


def _preserve_variance(generator: Synthesizer) -> None:
    """Start the decoder with stages that pass on what they get.

    HiFi-GAN's own start (deviation 0.01 throughout) lets hardly a thousandth of the latent reach the output, which
    costs thousands of steps until it does.
    """
    if not isinstance(generator.dec, HifiGan) or generator.dec.is_mrf:
        return
    with torch.no_grad():
        for stage, rate in enumerate(generator.dec.rates):
            layer = generator.dec.upsampler(stage)
            assert isinstance(layer, nn.ConvTranspose1d)
            fan_in = layer.weight.shape[0] * layer.weight.shape[2] / rate
            layer.weight = torch.randn_like(layer.weight) * (2 / fan_in) ** 0.5
        for name, layer in generator.dec.resblocks.named_modules():
            if isinstance(layer, nn.Conv1d):
                gain = 0.3 if ".convs2." in name else 1.4
                fan_in = layer.weight.shape[1] * layer.weight.shape[2]
                layer.weight = torch.randn_like(layer.weight) * gain / fan_in**0.5
