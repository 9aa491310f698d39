"""Kokoro's decoder run by torch, fused, and with bfloat16 convolutions on processors with AMX or AVX512-BF16.

A small interpreter of the ONNX graph between the acoustic features and the inverse STFT. There only convolutions are
rounded to bfloat16 (accumulating in float32); the residual stream, norms and activations stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from menura.system.device import has_bfloat16

SEPARABLE = "/decoder/decoder/generator/conv_post/Conv_output_0"
"""The decoder's output before the inverse STFT."""
_TRACED_FRAMES = 131


def _convolution_dtype() -> torch.dtype:
    """bfloat16 only where the processor has it: elsewhere it is converted back and forth, many times slower."""
    return torch.bfloat16 if has_bfloat16() else torch.float32


_DTYPE = _convolution_dtype()


def seams(graph: onnx.GraphProto) -> list[str]:
    """The tensors the decoder reads: content, pitch, energy, style, and the harmonic source's spectrogram."""
    source = next(node for node in graph.node if node.op_type == "Conv" and "noise_convs.0" in node.name).input[0]
    features = ["/encoder/MatMul_1_output_0", "/encoder/Reshape_output_0", "/encoder/Reshape_1_output_0"]
    return [*features, "/decoder/Slice_output_0", source]


class TorchDecoder:
    """Evaluates the nodes between `seams` and SEPARABLE."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._inputs = seams(graph)
        constants = {item.name: item for item in graph.initializer}
        made_by = {name: node for node in graph.node for name in node.output}
        wanted, nodes, seen = [SEPARABLE], set(), set(self._inputs)
        while wanted:
            name = wanted.pop()
            if name and name not in seen:
                seen.add(name)
                if name in made_by:
                    nodes.add(made_by[name].output[0])
                    wanted.extend(made_by[name].input)
        order = [node for node in graph.node if node.output[0] in nodes]
        used = {name for node in order for name in node.input if name in constants}
        self._known = {name: _constant(onnx.numpy_helper.to_array(constants[name])) for name in used}
        self._known[""] = torch.empty(0)
        self._nodes = []
        for node in order:  # what depends on constants only is computed once
            if all(name in self._known for name in node.input):
                self._known.update(zip(node.output, _evaluate(node, [self._known[n] for n in node.input]), strict=True))
            else:
                self._nodes.append((node, {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}))
        for node, _ in self._nodes:
            if node.op_type in ("Conv", "ConvTranspose"):
                self._known[node.input[1]] = self._known[node.input[1]].to(_DTYPE)
        scales = {node.input[2] for node, _ in self._nodes if node.op_type == "Resize"}
        self._known.update({name: self._known[name].tolist() for name in scales})
        self._last_use = {name: i for i, (node, _) in enumerate(self._nodes) for name in node.input}

    def compiled(self, example: list[Tensor]) -> Callable[..., Tensor]:
        """The same function, its element-wise work fused by torch.compile (minutes, once; cached on disk).

        Args:
            example: inputs of a sentence, which only tell how the tensors' lengths belong together.
        """
        with torch.no_grad():
            graph = make_fx(self.__call__, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*_untypical(example))
        return torch.compile(graph, dynamic=True)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The tensor named SEPARABLE, from those that `seams` names."""
        values = dict(zip(self._inputs, inputs, strict=True))
        for index, (node, _) in enumerate(self._nodes):
            arguments = [values[name] if name in values else self._known[name] for name in node.input]
            values.update(zip(node.output, _evaluate(node, arguments), strict=True))
            for name in node.input:
                if self._last_use.get(name) == index:
                    values.pop(name, None)
        return values[SEPARABLE]


def _untypical(example: list[Tensor]) -> list[Tensor]:
    """Inputs of a length that no width in the network has: tracing takes equal sizes for one and the same.

    Content comes first; all other lengths are a multiple of its, or that and a little more, or don't change.
    """
    frames = example[0].shape[-1]
    made = []
    for tensor, name in zip(example, ("content", "pitch", "energy", "style", "source"), strict=True):
        length = tensor.shape[-1]
        if name != "style":
            length = length // frames * _TRACED_FRAMES + length % frames
        made.append(torch.randn(*tensor.shape[:-1], length))
    return made


def _constant(array: npt.NDArray[np.generic]) -> Tensor | list[int] | float:
    """Shapes and exponents as plain numbers, so that tracing sees them; weights as tensors."""
    if array.dtype == np.int64 or not array.ndim:
        return array.tolist()  # type: ignore[no-any-return]
    return torch.from_numpy(array.copy())


def _evaluate(node: onnx.NodeProto, x: list[Tensor]) -> list[Tensor]:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    simple = {
        "Mul": lambda: x[0] * x[1],
        "Add": lambda: x[0] + x[1],
        "Sub": lambda: x[0] - x[1],
        "Div": lambda: x[0] / x[1],
        "Sqrt": lambda: x[0].sqrt(),
        "Sin": lambda: x[0].sin(),
        "Reciprocal": lambda: x[0].reciprocal(),
        "Floor": lambda: x[0].floor(),
        "Pow": lambda: x[0].square() if x[1] == 2 else x[0].pow(x[1]),
        "Identity": lambda: x[0],
        "Cast": lambda: x[0],
        "MatMul": lambda: x[0] @ x[1],
        "Unsqueeze": lambda: _unsqueeze(x[0], x[1]),
        "Reshape": lambda: x[0].reshape(x[1]),
        "Concat": lambda: torch.cat(x, dim=attributes["axis"]),
        "LeakyRelu": lambda: F.leaky_relu(x[0], attributes.get("alpha", 0.01)),
        "ReduceMean": lambda: x[0].mean(dim=x[1], keepdim=bool(attributes.get("keepdims", 1))),
        "Resize": lambda: F.interpolate(x[0], scale_factor=x[2][2:], mode="nearest"),
        "Pad": lambda: F.pad(x[0], (int(x[1][2]), int(x[1][5])), mode="reflect"),
    }
    if node.op_type in simple:
        return [simple[node.op_type]()]
    if node.op_type == "Split":
        sizes = x[1] if len(x) > 1 else x[0].shape[attributes["axis"]] // len(node.output)
        return list(x[0].split(sizes, dim=attributes["axis"]))
    if node.op_type in ("Conv", "ConvTranspose"):
        return [_convolve(node.op_type, attributes, x)]
    raise SystemExit(f"the decoder's graph has an operation that this recipe doesn't know: {node.op_type}")


def _unsqueeze(x: Tensor, axes: list[int]) -> Tensor:
    for axis in axes:
        x = x.unsqueeze(axis)
    return x


def _convolve(kind: str, attributes: dict[str, object], x: list[Tensor]) -> Tensor:
    stride, padding, dilation = (list(attributes[key])[:1] for key in ("strides", "pads", "dilations"))  # type: ignore[call-overload]
    groups: int = attributes["group"]  # type: ignore[assignment]
    if kind == "Conv":
        out = F.conv1d(x[0].to(_DTYPE), x[1], None, stride, padding, dilation, groups).float()
    else:
        more = list(attributes.get("output_padding", [0]))  # type: ignore[call-overload]
        out = F.conv_transpose1d(x[0].to(_DTYPE), x[1], None, stride, padding, more, groups, dilation).float()
    return out if len(x) < 3 else out + x[2][:, None]
