"""The networks of an experiment as training begins: random, or with the weights of others."""

from __future__ import annotations

import types
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from menura.checkpoints.pickles import load_tensors
from menura.checkpoints.voice import load_voice
from menura.errors import CheckpointError, TrainingError
from menura.models.discriminators import RvcDiscriminators
from menura.models.refinegan import RefineGan
from menura.models.source_filter import SourceFilter
from menura.models.synthesizer import Synthesizer
from menura.models.vocoders import HifiGan
from menura.models.weights import State, parametrized, without_weights
from menura.train.experiment.settings import Experiment

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
    if isinstance(generator.dec, HifiGan) and not generator.dec.is_mrf:
        _preserve_variance(generator.dec)
    for module in generator.modules():
        if isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
            module.forward = types.MethodType(_with_channels_last, module)  # type: ignore[method-assign]
    for part in (generator.dec.conv_post, getattr(generator.dec, "m_source", None)):
        if part is not None and experiment.precision != "fp32":
            _keep_float32(part)
    if experiment.gradient_checkpointing:
        for block in _residual_blocks(generator.dec):
            _recompute_in_backward(block)
    return generator


def make_discriminators(experiment: Experiment) -> RvcDiscriminators:
    made = RvcDiscriminators(experiment.synthesizer.version)
    return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def warm_generator(generator: Synthesizer, path: Path) -> None:
    """Take over what fits of a generator's checkpoint or of a voice; speakers beyond the file's begin at its mean."""
    generator.load_state_dict(_generator_weights(generator, path), strict=False)


def warm_discriminators(discriminators: nn.Module, path: Path) -> None:
    """Take over RVC's D file."""
    discriminators.load_state_dict(_fitting(discriminators, _training_state(path), path), strict=False)


def check_warm_start(folder: Path, experiment: Experiment) -> None:
    """Raise what training would, were it to begin with the weights that the experiment names."""
    warm = experiment.warm_start
    with without_weights():
        generator, discriminators = make_generator(experiment), make_discriminators(experiment)
    if warm.generator:
        _generator_weights(generator, initial_weights(folder, warm.generator))
    if warm.discriminator:
        path = initial_weights(folder, warm.discriminator)
        _fitting(discriminators, _training_state(path), path)


def initial_weights(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise TrainingError(path, "the initial weights are missing", "Put them back")
    if not Path(name).is_absolute() and not path.resolve().is_relative_to(folder.resolve()):
        raise TrainingError(path, "the initial weights must be in the experiment's folder")
    return path


def _generator_weights(generator: Synthesizer, path: Path) -> State:
    """Those that fit, with as many speakers as the generator has."""
    content = None if path.suffix.lower() == ".safetensors" else load_tensors(path)
    is_voice = content is None or (isinstance(content, dict) and "weight" in content)
    weights = parametrized(load_voice(path).state if is_voice else _training_state(path))
    if (table := weights.get("emb_g.weight")) is not None:
        rows = generator.emb_g.weight.shape[0]
        known, mean = table[:rows].float(), table.float().mean(dim=0, keepdim=True)
        weights["emb_g.weight"] = torch.cat([known, mean.expand(max(0, rows - len(known)), -1)])
    return _fitting(generator, weights, path)


def _training_state(path: Path) -> State:
    content = load_tensors(path)
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict) or not all(isinstance(value, Tensor) for value in model.values()):
        raise CheckpointError(path, "not a training checkpoint (RVC's G and D files contain 'model')")
    return parametrized(model)


def _fitting(network: nn.Module, weights: State, path: Path) -> State:
    own = network.state_dict()
    fitting = {name: value for name, value in weights.items() if name in own and own[name].shape == value.shape}
    if len(fitting) < _LEAST_SHARE * len(own):
        problem = f"only {len(fitting)} of {len(own)} weights fit this experiment's network"
        raise TrainingError(path, problem, "Take a file of the same version, sample rate and vocoder")
    return fitting


@torch.no_grad()
def _preserve_variance(decoder: HifiGan) -> None:
    """Start with stages that pass on what they get: HiFi-GAN's own start lets through hardly a thousandth of it."""
    for stage, rate in enumerate(decoder.rates):
        layer = decoder.upsampler(stage)
        assert isinstance(layer, nn.ConvTranspose1d)
        fan_in = layer.weight.shape[0] * layer.weight.shape[2] / rate
        layer.weight = torch.randn_like(layer.weight) * (2 / fan_in) ** 0.5
    for name, layer in decoder.resblocks.named_modules():
        if isinstance(layer, nn.Conv1d):
            gain = 0.3 if ".convs2." in name else 1.4
            fan_in = layer.weight.shape[1] * layer.weight.shape[2]
            layer.weight = torch.randn_like(layer.weight) * gain / fan_in**0.5


def _residual_blocks(decoder: nn.Module) -> list[nn.Module]:
    """Most of what training keeps is between their convolutions."""
    if isinstance(decoder, HifiGan):
        return [block for stage in range(len(decoder.rates)) for block in decoder.blocks(stage)]
    if isinstance(decoder, SourceFilter):
        return [*decoder.blocks, *decoder.fine_blocks]
    assert isinstance(decoder, RefineGan)
    return list(decoder.upsample_conv_blocks)


def _keep_float32(module: nn.Module) -> None:
    """Let a module compute in float32 within autocast: what makes or ends as samples needs more than 8 bits."""
    inner = module.forward

    def forward(*arguments: Tensor | float | None) -> Tensor:
        halves = (torch.bfloat16, torch.float16)
        wide = [x.float() if isinstance(x, Tensor) and x.dtype in halves else x for x in arguments]
        device = next(x.device.type for x in wide if isinstance(x, Tensor))
        with torch.autocast(device, enabled=False):
            out: Tensor = inner(*wide)
        return out

    module.forward = forward


def _recompute_in_backward(module: nn.Module) -> None:
    """Keep only a module's input for the backward pass, and compute what is between again (gradient checkpointing)."""
    inner = module.forward

    def forward(x: Tensor) -> Tensor:
        out: Tensor = checkpoint(inner, x, use_reentrant=False) if torch.is_grad_enabled() else inner(x)
        return out

    module.forward = forward


def _with_channels_last(self: nn.Conv1d | nn.ConvTranspose1d, x: Tensor) -> Tensor:
    """A one-dimensional convolution as a two-dimensional one: on AMX CPUs in bfloat16 about twice as fast."""
    stride, padding, dilation = (1, self.stride[0]), (0, int(self.padding[0])), (1, self.dilation[0])
    x, weight = (each.unsqueeze(2).contiguous(memory_format=torch.channels_last) for each in (x, self.weight))
    if isinstance(self, nn.Conv1d):
        image = F.conv2d(x, weight, self.bias, stride, padding, dilation, self.groups)
    else:
        ends = (0, self.output_padding[0])
        image = F.conv_transpose2d(x, weight, self.bias, stride, padding, ends, self.groups, dilation)
    return image.squeeze(2).clone()  # no view: adding to one in place is slow in autograd
