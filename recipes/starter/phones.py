"""A small network that reads phones off content: by the timing that Kokoro's sentences were rendered with.

    python phones.py --parts PARTS --clips CLIPS --features EXPERIMENT/features --out EXPERIMENT/phones.pt

Every sentence is heard by many variants (other voices, throats, rooms, lines), so that it learns to care for none.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from kokoro import Kokoro, phonemes
from torch import Tensor, nn
from torch.nn import functional as F

from menura.train.data.features import SUFFIX, load_features
from menura.train.learning.checkpoint import write_state

SYMBOLS = 178
"""Kokoro's."""
_LAG_S = 0.035
"""So much later than the sound the decoder's frames are."""
_FRAME_S, _VECTOR_S = 0.025, 0.02
_CROP, _ROWS, _STEPS = 60, 24, 300
_NOT_HEARD = "ˈˌː"


class PhoneReader(nn.Module):
    """(batch, vectors, 384) of content to the symbols' logarithmic chances (batch, vectors, SYMBOLS)."""

    def __init__(self, width: int = 192) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(384, width, 5, padding=2), nn.GELU(), nn.Dropout(0.3),
            nn.Conv1d(width, width, 5, padding=2), nn.GELU(), nn.Dropout(0.3),
            nn.Conv1d(width, SYMBOLS, 1),
        )  # fmt: skip

    def forward(self, content: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.layers(content.transpose(1, 2)).transpose(1, 2)
        return logits.log_softmax(dim=2)


def labels(kokoro: Kokoro, vocabulary: dict[str, int], record: dict[str, object], vectors: int) -> Tensor:
    """The symbol of every vector (vectors,) of a sentence; -100 where none is heard."""
    symbols = phonemes(str(record["text"]))
    durations = np.rint(kokoro.plan(symbols, str(record["guide"]), float(str(record["speed"]))).durations.ravel())
    tokens = [0, *(vocabulary[symbol] for symbol in symbols if symbol in vocabulary), 0]
    unheard = {vocabulary[symbol] for symbol in _NOT_HEARD if symbol in vocabulary}
    frames = np.repeat([-100 if token in unheard else token for token in tokens], durations.astype(int))
    at = ((np.arange(vectors) + 0.5) * _VECTOR_S + _LAG_S) / _FRAME_S
    return torch.from_numpy(frames[np.clip(at.astype(int), 0, len(frames) - 1)])


def main() -> None:
    """Trains the reader, and tells how often it is right about sentences that it never saw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("parts", "clips", "features", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    parts: Path = options.parts
    kokoro = Kokoro(parts / "kokoro.onnx", parts / "vocab.json", parts / "voices", parts, compiles=False)
    vocabulary = json.loads((parts / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    sentences = []
    for path in sorted(options.features.glob(f"*.wren{SUFFIX}")):
        record = json.loads((options.clips / f"{path.name.partition('.')[0]}.json").read_text())
        heard = torch.cat([rows.float() for rows in load_features(path).content.values()])
        sentences.append((heard, labels(kokoro, vocabulary, record, heard.shape[1])))
    held_out, learnt = sentences[::10], [item for number, item in enumerate(sentences) if number % 10]
    reader = PhoneReader()
    optimizer = torch.optim.AdamW(reader.parameters(), lr=1e-3, weight_decay=0.05)
    for step in range(_STEPS):
        rows = [_crop(*learnt[int(torch.randint(len(learnt), ()))]) for _ in range(_ROWS)]
        content, wanted = (torch.stack(column) for column in zip(*rows, strict=True))
        loss = F.cross_entropy(reader(content).flatten(0, 1), wanted.flatten(), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(step, round(float(loss.detach()), 3), flush=True)
    reader.eval()
    with torch.no_grad():
        right = [(reader(x).argmax(dim=2) == y)[:, y >= 0].float().mean() for x, y in held_out]
    print(f"right about {float(torch.stack(right).mean()):.1%} of {len(held_out)} sentences' vectors")
    write_state(options.out, {"model": reader.state_dict()})


def _crop(content: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """A stretch of one variant."""
    start = int(torch.randint(max(1, len(wanted) - _CROP), ()))
    variant = content[int(torch.randint(len(content), ()))]
    lacking = max(0, _CROP - len(wanted))
    part = slice(start, start + _CROP)
    return F.pad(variant[part], (0, 0, 0, lacking)), F.pad(wanted[part], (0, lacking), value=-100)


if __name__ == "__main__":
    main()
