"""`menura bench` with a full-size RVC voice, its networks and index, of seeded weights: nothing to download.

    python -m benchmarks.full_size [OPTION OF menura bench ...]

The layouts and sizes are real. What the voice says is noise, but it takes the time and the memory of a real v2 40k
voice with ContentVec and RMVPE. It is made once (950 MB), in `cache/bench/full-size` of Menura's data folder, or of the
one that --home names.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.recipe import Rule, around, drawn, gain, signed_uniform
from menura.checkpoints.voice import LoadedVoice, VoiceMetadata, expected_shapes, save_voice
from menura.models.config import rvc_config
from menura.models.hubert import HubertConfig
from menura.models.rmvpe import N_MELS, RmvpeConfig
from menura.retrieval.faiss_index import build_index
from menura.system.files import replacing
from menura.voices.assets import cache_folder, home_folder

VOICE_NAME = "bench"
TARGETS: dict[tuple[str, str], float] = {
    ("batch12", "main"): 85,
    ("batch12", "again"): 155,
    ("five-minutes", "main"): 75,
}
"""Costs that it is to stay below on two AVX2 cores, by suite and part."""

INDEX_VECTORS = 30_000
_INDEX_KEY = (8, INDEX_VECTORS)

Shapes = Iterator[tuple[str, tuple[int, ...]]]

V2_40K = rvc_config("v2", 40_000, 109, content="contentvec", has_f0=True, vocoder="HiFi-GAN")
"""RVC's v2 40k voice with F0."""

# Gains are chosen so that signals neither die out nor explode on their way through the random layers.
_SQRT3 = math.sqrt(3)
VOICE_RULES: tuple[Rule, ...] = (
    (r"m_source\.l_linear\.weight$", around(1.5, 0.5)),
    (r"beta$", around(0.0, 0.05)),
    (r"bias$", around(0.0, 0.02)),
    (r"gamma$", around(1.0, 0.2)),
    (r"emb_phone\.weight$", gain(0.3)),
    (r"emb_pitch\.weight$", around(0.0, 0.07 * _SQRT3)),
    (r"emb_rel_[kv]$", lambda shape: gain(1.0)((1, shape[-1]))),
    (r"conv_o\.weight$", gain(0.3)),
    (r"enc_p\.proj\.weight$", gain(0.5)),
    (r"dec\.ups\.[01]\.weight_g$", around(1.2 * math.sqrt(5), 0.12 * math.sqrt(5))),
    (r"dec\.ups\.\d+\.weight_g$", around(1.2, 0.12)),
    (r"convs1\.\d+\.weight_g$", around(1.4, 0.2)),
    (r"in_layers\.\d+\.weight_g$", around(1.0, 0.2)),
    (r"cond_layer\.weight_g$", around(0.5, 0.1)),
    (r"weight_g$", around(0.8, 0.1)),
    (r"conv_post\.weight$", gain(0.22)),
    (r"post\.weight$", gain(0.4)),
    (r"emb_g\.weight$", around(0.0, 0.3 * _SQRT3)),
    (r"weight(_v)?$", gain(1.0)),
)
CONTENTVEC_RULES: tuple[Rule, ...] = (
    (r"^masked_spec_embed$", around(0.0, 1.0)),
    (r"layer_norm\.weight$", around(1.0, 0.2)),
    (r"bias$", around(0.0, 0.05)),
    (r"weight_g$", around(2.0, 0.2)),
    (r"weight_v$", around(0.0, _SQRT3)),
    (r"conv_layers\.[1-9]\d*\.conv\.weight$", gain(math.sqrt(2.2))),
    (r"[kq]_proj\.weight$", gain(1.6)),
    (r"out_proj\.weight$", gain(0.3)),
    (r"weight$", gain(1.0)),
)
RMVPE_RULES: tuple[Rule, ...] = (
    (r"encoder\.bn\.weight$", around(1.0, 0.0)),
    (r"encoder\.bn\.bias$", around(0.0, 0.0)),
    (r"encoder\.bn\.running_mean$", around(-5.0, 0.0)),
    (r"encoder\.bn\.running_var$", around(9.0, 0.0)),
    (r"running_mean$", around(0.0, 0.3)),
    (r"running_var$", around(1.0, 0.3)),
    (r"fc\.1\.bias$", around(-3.5, 1.0)),
    (r"fc\.1\.weight$", around(0.0, 0.12 * _SQRT3)),
    (r"gru\.weight", around(0.0, _SQRT3 / 16)),
    (r"gru\.bias|shortcut\.bias|^cnn\.bias", around(0.0, 0.05)),
    (r"bias$", around(0.0, 0.1)),
    (r"shortcut\.weight$|^cnn\.weight$", gain(0.7)),
    (r"conv1\.0\.weight$", gain(2.0)),
    (r"encoder\.layers\.0\.conv\.0\.conv\.0\.weight$", gain(1.0)),
    (r"conv2?\.\d+\.conv\.[03]\.weight$", gain(0.7 * math.sqrt(2))),
    (r"conv\.4\.weight$", around(0.25, 0.1)),
    (r"weight$", around(1.0, 0.2)),
)


def full_size_voice() -> LoadedVoice:
    """A v2 40k voice, its weights rounded to float16 as RVC stores them."""
    state = {name: drawn(name, shape, VOICE_RULES).half().float() for name, shape in expected_shapes(V2_40K).items()}
    return LoadedVoice(config=V2_40K, state=state, metadata=VoiceMetadata(name=VOICE_NAME, info="seeded weights"))


def contentvec_weights(config: HubertConfig) -> dict[str, Tensor]:
    """ContentVec's tensors under the names of its file, in single precision as there."""
    return {name: drawn(name, shape, CONTENTVEC_RULES) for name, shape in contentvec_shapes(config)}


def rmvpe_weights(config: RmvpeConfig) -> dict[str, Tensor]:
    """RMVPE's tensors under the names of rmvpe.pt, in half precision as there."""
    return {name: drawn(name, shape, RMVPE_RULES).half() for name, shape in rmvpe_shapes(config)}


def make_home(home: Path) -> Path:
    """A data folder with ContentVec, RMVPE, and the voice `bench` with an index of 30 000 vectors; 700 MB, made once.

    Raises:
        MenuraError: it can't be written.
    """
    contentvec, voice = home / "assets" / "contentvec", home / "voices" / VOICE_NAME
    config = HubertConfig()
    _once(
        contentvec / "config.json",
        lambda path: path.write_text(json.dumps({"model_type": "hubert", "hidden_size": config.hidden_size})),
    )
    _once(
        contentvec / "model.safetensors",
        lambda path: save_file(contentvec_weights(config), path),
    )
    _once(
        home / "assets" / "rmvpe.pt",
        lambda path: torch.save(rmvpe_weights(RmvpeConfig()), path),
    )
    if not (voice / f"{VOICE_NAME}.pth").is_file():
        save_voice(voice / f"{VOICE_NAME}.pth", full_size_voice())
    _once(voice / f"{VOICE_NAME}.index", lambda path: path.write_bytes(_index()))
    return home


def _index() -> bytes:
    dim = V2_40K.content_dim
    vectors = signed_uniform(_INDEX_KEY, INDEX_VECTORS * dim) * _SQRT3
    return build_index(vectors.astype(np.float32).reshape(INDEX_VECTORS, dim)).data


def _once(path: Path, write: Callable[[Path], object]) -> None:
    if not path.is_file():
        with replacing(path) as partial:
            write(partial)


def contentvec_shapes(config: HubertConfig) -> Shapes:
    """Names and shapes of ContentVec's tensors as transformers' HubertModel writes them, with `final_proj`."""
    width, inner = config.hidden_size, config.intermediate_size
    yield "masked_spec_embed", (width,)
    channels = 1
    for number, (out, kernel) in enumerate(zip(config.conv_dim, config.conv_kernel, strict=True)):
        yield f"feature_extractor.conv_layers.{number}.conv.weight", (out, channels, kernel)
        channels = out
    yield from _affine("feature_extractor.conv_layers.0.layer_norm", config.conv_dim[0])
    yield from _affine("feature_projection.layer_norm", channels)
    yield from _affine("feature_projection.projection", width, channels)
    taps, groups = config.num_conv_pos_embeddings, config.num_conv_pos_embedding_groups
    yield "encoder.pos_conv_embed.conv.bias", (width,)
    yield "encoder.pos_conv_embed.conv.weight_g", (1, 1, taps)
    yield "encoder.pos_conv_embed.conv.weight_v", (width, width // groups, taps)
    yield from _affine("encoder.layer_norm", width)
    for number in range(config.num_hidden_layers):
        layer = f"encoder.layers.{number}"
        for part in ("q", "k", "v", "out"):
            yield from _affine(f"{layer}.attention.{part}_proj", width, width)
        yield from _affine(f"{layer}.layer_norm", width)
        yield from _affine(f"{layer}.feed_forward.intermediate_dense", inner, width)
        yield from _affine(f"{layer}.feed_forward.output_dense", width, inner)
        yield from _affine(f"{layer}.final_layer_norm", width)
    yield from _affine("final_proj", config.classifier_proj_size, width)


def rmvpe_shapes(config: RmvpeConfig) -> Shapes:
    """Names and shapes of rmvpe.pt's tensors, without the counters that only training uses."""
    widths = [config.channels * 2**level for level in range(config.levels)]
    bottom = 2 * widths[-1]
    yield from _batch_norm("unet.encoder.bn", 1)
    for level, width in enumerate(widths):
        inputs = 1 if level == 0 else widths[level - 1]
        yield from _blocks(f"unet.encoder.layers.{level}.conv", inputs, width, config.blocks)
    for layer in range(config.bottleneck_layers):
        inputs = widths[-1] if layer == 0 else bottom
        yield from _blocks(f"unet.intermediate.layers.{layer}.conv", inputs, bottom, config.blocks)
    for level, width in enumerate(widths[::-1]):
        yield f"unet.decoder.layers.{level}.conv1.0.weight", (2 * width, width, 3, 3)
        yield from _batch_norm(f"unet.decoder.layers.{level}.conv1.1", width)
        yield from _blocks(f"unet.decoder.layers.{level}.conv2", 2 * width, width, config.blocks)
    yield from _affine("cnn", config.output_planes, config.channels, 3, 3)
    for direction in ("", "_reverse"):
        yield f"fc.0.gru.weight_ih_l0{direction}", (3 * config.gru_size, config.output_planes * N_MELS)
        yield f"fc.0.gru.weight_hh_l0{direction}", (3 * config.gru_size, config.gru_size)
        yield f"fc.0.gru.bias_ih_l0{direction}", (3 * config.gru_size,)
        yield f"fc.0.gru.bias_hh_l0{direction}", (3 * config.gru_size,)
    yield from _affine("fc.1", config.classes, 2 * config.gru_size)


def _affine(name: str, *shape: int) -> Shapes:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _batch_norm(name: str, channels: int) -> Shapes:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)


def _blocks(name: str, inputs: int, outputs: int, count: int) -> Shapes:
    for number in range(count):
        block = f"{name}.{number}"
        first = inputs if number == 0 else outputs
        yield f"{block}.conv.0.weight", (outputs, first, 3, 3)
        yield from _batch_norm(f"{block}.conv.1", outputs)
        yield f"{block}.conv.3.weight", (outputs, outputs, 3, 3)
        yield from _batch_norm(f"{block}.conv.4", outputs)
        if first != outputs:
            yield from _affine(f"{block}.shortcut", outputs, first, 1, 1)


def target_lines(document: dict[str, Any]) -> Iterator[str]:
    """The costs reached beside those aimed at."""
    for (suite, part), target in TARGETS.items():
        if suite in document:
            figures = document[suite] if part == "main" else document[suite][part]
            yield f"{suite}, {part}: cost {figures['cost']:.1f}, target {target:g}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the voice, run `menura bench` with it, and compare with the targets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--home", type=Path)
    parser.add_argument("--json", type=Path)
    given, options = parser.parse_known_args(arguments)
    home = make_home(cache_folder(home_folder(given.home)) / "bench" / "full-size")
    with tempfile.TemporaryDirectory(prefix="menura-bench-") as folder:
        written = given.json or Path(folder, "figures.json")
        command = [sys.executable, "-m", "menura", "bench", "--home", str(home), "--voice", VOICE_NAME]
        code = subprocess.run([*command, "--json", str(written), *options], check=False).returncode
        if code == 0:
            print("\n".join(target_lines(json.loads(written.read_text(encoding="utf-8")))))
    return code


if __name__ == "__main__":
    sys.exit(main())
