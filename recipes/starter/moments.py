"""Gives voices the depth of formants that their targets have, where people speak.

    python moments.py --voices VOICES --features EXPERIMENT/features --human HUMAN --out OUT

Spectral losses average where content is unsure: made from people's content, formants stand out up to a fifth less than
the target's, the more the higher they lie. For each of the vocoder's excitations and sixteen frequencies it is found by
descent how much deeper its filters' formants and how much louder it has to be so that log spectra vary as in the
target's sound. All of it goes into the last layer's weights. HUMAN is `finetune.py prepare`'s.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from menura.checkpoints.voice import LoadedVoice, build_synthesizer, load_voice, save_voice
from menura.f0.contour import coarse_bins
from menura.models.source_filter import EXCITATIONS, SourceFilter
from menura.models.synthesizer import Synthesizer, TrainingBatch
from menura.train.data.features import SUFFIX, ClipFeatures, load_features
from menura.train.learning.objective import direct_pass

READERS = ("nsh", "armelle")
"""Of SOURCES.md: read aloud, and none of them judges."""
LOUDER = 0.25
"""Share of the fitted gains that is kept: more noise sounds better still, but less like the target."""
HUMAN_ROWS, SYNTHETIC_ROWS, ROW_FRAMES = 56, 40, 100
STEPS, RATE = 70, 0.03
KNOTS_HZ = (0, 300, 600, 1000, 1500, 2000, 2500, 3000, 3500, 4000, 5000, 6000, 7000, 8000, 9500, 12000)
_FFT_SIZES = (512, 1024)
_FLOOR = 2e-4


def near(bins: int, reach_bins: float) -> Tensor:
    """Rows that average a spectrum around each of its bins."""
    apart = (torch.arange(bins)[:, None] - torch.arange(bins)) / reach_bins
    weights = 1 + torch.cos(math.pi * apart.clamp(-1, 1))
    return weights / weights.sum(dim=1, keepdim=True)


def moments(audio: Tensor, voiced: Tensor, size: int) -> dict[str, Tensor]:
    """How much log spectra of voiced frames vary, in formants and in harmonics, and their mean, by frequency."""
    bin_hz, bins = 24_000 / size, size // 2 + 1
    spectrum = torch.stft(audio, size, size // 4, window=torch.hann_window(size), normalized=True, return_complex=True)
    logs = torch.log((spectrum.real.square() + spectrum.imag.square() + 1e-12).sqrt() + _FLOOR).transpose(1, 2)
    logs = logs[F.interpolate(voiced[:, None], size=logs.shape[1])[:, 0] > 0.5]
    envelope, wide = logs @ near(bins, 200 / bin_hz).T, logs @ near(bins, 1000 / bin_hz).T
    bands = near(bins, 400 / bin_hz)[:: int(200 / bin_hz)].T
    varying = {"formants": envelope - wide, "harmonics": logs - envelope}
    spread = {name: torch.log(part.var(dim=0) @ bands + 1e-4) / 2 for name, part in varying.items()}
    return spread | {"level": envelope.mean(dim=0) @ bands}


@dataclasses.dataclass(frozen=True)
class Rows:
    """Second-long pieces: the excitations, the filters drawn for them, the real sound, which frames are voiced."""

    source: Tensor
    filters: Tensor
    real: Tensor
    voiced: Tensor


def drawn_rows(model: Synthesizer, clips: list[ClipFeatures], kinds: tuple[str, ...], count: int, f0_hz: float) -> Rows:
    """Pieces of clips at random, F0 moved to the voice's median unless that is 0."""
    chosen = [clip for clip in clips if clip.frames > ROW_FRAMES + 2]
    lengths = torch.tensor([float(clip.frames) for clip in chosen])
    content, pitch, audio = [], [], []
    for number in torch.multinomial(lengths, count, replacement=True).tolist():
        clip = chosen[number]
        start = 2 * int(torch.randint((clip.frames - ROW_FRAMES) // 2, ()))
        rows = torch.cat([clip.content[kind] for kind in kinds if kind in clip.content])
        row = rows[int(torch.randint(len(rows), ())), start // 2 : (start + ROW_FRAMES) // 2]
        content.append(row.float().repeat_interleave(2, dim=0))
        f0 = clip.f0_hz[start : start + ROW_FRAMES]
        moved = f0_hz / clip.f0_hz[clip.f0_hz > 0].median() * 2 ** (torch.randn(()).clamp(-2, 2) / 12)
        pitch.append(f0 * moved if f0_hz else f0)
        audio.append(clip.audio[start * 240 : (start + ROW_FRAMES) * 240].float() / 32767)
    f0 = torch.stack(pitch)
    batch = TrainingBatch(
        content=torch.stack(content),
        f0_coarse=torch.from_numpy(coarse_bins(f0.numpy())),
        f0_hz=f0,
        spectrogram=torch.empty(0),
        lengths=torch.full((count,), ROW_FRAMES),
        speaker_id=torch.zeros(count, dtype=torch.long),
    )
    kept: list[Tensor] = []
    assert isinstance(model.dec, SourceFilter)
    hooks = [
        model.dec.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[2])),
        model.dec.conv_post.register_forward_hook(lambda *made: kept.append(made[2])),
    ]
    with torch.no_grad():
        _, real, _ = direct_pass(model, batch, torch.stack(audio))
    for hook in hooks:
        hook.remove()
    source, filters = kept
    return Rows(source, filters.float(), real, (f0 > 0).float())


class Change(nn.Module):
    """How much deeper formants become (0: not at all), and how much louder, by excitation and frequency."""

    def __init__(self, mean: Tensor, bins: int) -> None:
        super().__init__()
        self.deeper = nn.Parameter(torch.zeros(EXCITATIONS, len(KNOTS_HZ)))
        self.louder = nn.Parameter(torch.zeros(EXCITATIONS, len(KNOTS_HZ)))
        knots, at_hz = torch.tensor(KNOTS_HZ, dtype=torch.float32), torch.linspace(0, 12_000, bins)
        self.upper = torch.bucketize(at_hz, knots).clamp(1, len(knots) - 1)
        self.share = (at_hz - knots[self.upper - 1]) / (knots[self.upper] - knots[self.upper - 1])
        self.mean, self.bins = mean, bins
        self.standing_out = torch.eye(bins) - near(bins, 20.0)

    def curve(self, values: Tensor) -> Tensor:
        """From knots to bins."""
        return values[self.upper - 1] * (1 - self.share) + values[self.upper] * self.share

    def forward(self, filters: Tensor) -> Tensor:
        parts = list(torch.split(filters, self.bins, dim=2))
        for number in range(EXCITATIONS):
            mean = self.mean[number * self.bins : (number + 1) * self.bins]
            out = (parts[number] - mean) @ self.standing_out.T
            parts[number] = parts[number] + self.curve(self.deeper[number]) * out + self.curve(self.louder[number])
        return torch.cat(parts, dim=2)

    @torch.no_grad()
    def folded(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The last layer's weights with formants as deep as found, and LOUDER of the gains."""
        weight, bias = weight.float().clone(), bias.float().clone()
        for number in range(EXCITATIONS):
            rows = slice(number * self.bins, (number + 1) * self.bins)
            matrix = self.curve(self.deeper[number])[:, None] * self.standing_out
            weight[rows] += matrix @ weight[rows]
            bias[rows] += matrix @ (bias[rows] - self.mean[rows]) + LOUDER * self.curve(self.louder[number])
        return weight, bias


def fitted(voice: LoadedVoice, targets: list[ClipFeatures], people: list[ClipFeatures]) -> LoadedVoice:
    """The voice, changed so that moments are the target's: of formants on people's content, else on synthetic."""
    model = build_synthesizer(voice)
    assert isinstance(model.dec, SourceFilter)
    pitch = torch.cat([clip.f0_hz[clip.f0_hz > 0] for clip in targets])
    spoken = drawn_rows(model, targets, ("aligned", "perturbed"), SYNTHETIC_ROWS, 0)
    heard = drawn_rows(model, people, ("own",), HUMAN_ROWS, float(pitch.median()))
    whole = [clip.audio[: clip.frames // 100 * 24_000].float().view(-1, 24_000) / 32767 for clip in targets]
    voiced = [(clip.f0_hz[: clip.frames // 100 * 100] > 0).float().view(-1, 100) for clip in targets]
    wanted = {size: moments(torch.cat(whole), torch.cat(voiced), size) for size in _FFT_SIZES}
    paired = {size: moments(spoken.real, spoken.voiced, size) for size in _FFT_SIZES}
    sounding = [rows.filters[rows.voiced.repeat_interleave(2, dim=1) > 0] for rows in (spoken, heard)]
    change = Change(torch.cat(sounding).mean(dim=0), model.dec.bins)
    optimizer = torch.optim.Adam(change.parameters(), lr=RATE, betas=(0.8, 0.95))
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (0.55 + 0.45 * math.cos(math.pi * step / STEPS))
        loss = 0.002 / len(KNOTS_HZ) * sum(part.square().sum() for part in change.parameters())
        made = [model.dec._shaped(rows.source, change(rows.filters))[:, 0] for rows in (spoken, heard)]
        for size in _FFT_SIZES:
            a, b = (moments(x, rows.voiced, size) for x, rows in zip(made, (spoken, heard), strict=True))
            far = {name: (a[name] - paired[size][name]).square().mean() for name in a}
            loss = loss + (b["formants"] - wanted[size]["formants"]).square().mean()
            loss = loss + 0.15 * far["formants"] + far["harmonics"] + 0.5 * far["level"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(step, round(float(loss.detach()), 4), flush=True)
    names = ("dec.conv_post.weight", "dec.conv_post.bias")
    weights = change.folded(*(voice.state[name] for name in names))
    return dataclasses.replace(voice, state={**voice.state, **dict(zip(names, weights, strict=True))})


def main() -> None:
    """Changes every voice of a folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("voices", "features", "human", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    people = [load_features(path) for name in READERS for path in sorted(options.human.glob(f"{name}.*{SUFFIX}"))]
    for path in sorted(options.voices.glob("*/voice.safetensors")):
        name = path.parent.name
        targets = [load_features(clip) for clip in sorted(options.features.glob(f"*.{name}{SUFFIX}"))]
        voice = fitted(load_voice(path), targets, people)
        (options.out / name).mkdir(parents=True, exist_ok=True)
        save_voice(options.out / name / "voice.safetensors", voice)


if __name__ == "__main__":
    main()
