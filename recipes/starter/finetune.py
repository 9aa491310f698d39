"""Trains starter voices further on what people say, for which no target sound exists.

    python finetune.py prepare --people PEOPLE --out HUMAN
    python finetune.py train --experiment EXPERIMENT --human HUMAN

EXPERIMENT is one of `experiment.py --begin`, with `prepare.py`'s features. Half of every batch is parallel synthetic
speech, learnt as in `menura train run`. The other half is people, also in noise, rooms and telephones, whom a target
speaks over: in its sound the same phones should be heard as in the clean recording, and a small judge of
mel spectrograms should take it for the target's own. Both commands can be stopped and started again.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from phones import PhoneReader
from rooms import Samples, worsened
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from menura.audio.processor import resample
from menura.content.registry import STARTER_WEIGHTS
from menura.content.starter import StarterEncoder
from menura.f0.contour import coarse_bins
from menura.f0.swift import SwiftEstimator
from menura.models.mel import mel_filterbank
from menura.models.whisper_encoder import WhisperContentEncoder
from menura.pipeline.analysis import analyse_clips
from menura.train.data.features import SUFFIX, ClipFeatures, load_features, save_features
from menura.train.experiment.folder import CHECKPOINT, FEATURES
from menura.train.experiment.settings import ContentMix, Experiment, load_experiment
from menura.train.learning import networks, objective
from menura.train.learning.batches import Dataset, Example
from menura.train.learning.checkpoint import read_state, write_state
from menura.train.learning.stepper import Peers, Stepper, autocast, fastest_precision
from menura.train.run.trainer import learning_rate
from menura.units import ANALYSIS_RATE_HZ

CYCLE, ADVERSARIAL, MATCHING = 0.5, 0.4, 0.5
"""Weights of losses; those of spectra are the experiment's."""
RATE = 1e-4
"""Of learning, at first; it falls to the experiment's final one."""
JUDGE_ALONE_STEPS = 100
"""The judge learns first: an ignorant one teaches nothing."""
READER = "phones.pt"
"""In the experiment's folder, by `phones.py`."""
WORSENED = 3
"""Variants of each recording."""
_SAVE_EVERY_S = 240.0
_SEMITONES = 2.0
_FFT, _HOP, _MELS = 1024, 240, 80
_CPU, _ALONE = torch.device("cpu"), Peers()


def prepare(people: Path, out: Path) -> None:
    """Content (as it is, and worsened), F0 and sound of every recording; speakers take turns."""
    encoder, estimator = StarterEncoder.load(_CPU), SwiftEstimator.load(_CPU)
    out.mkdir(parents=True, exist_ok=True)
    company: Samples = np.zeros(ANALYSIS_RATE_HZ, np.float32)
    for path in sorted(people.glob("*.flac"), key=lambda path: path.stem.split(".")[::-1]):
        target = out / f"{path.stem}{SUFFIX}"
        samples, _ = sf.read(path, dtype="float32")
        rng = np.random.default_rng(sum(path.stem.encode()))
        others = [worsened(samples, rng, company) for _ in range(WORSENED)]
        company = samples
        if target.exists():
            continue
        own = analyse_clips([samples], encoder, estimator, _CPU)[0]
        assert own.f0_hz is not None
        vectors = len(samples) // 320
        worse = [made.content[:vectors] for made in analyse_clips(others, encoder, None, _CPU)]
        wide = resample(samples, ANALYSIS_RATE_HZ, 24_000)[: vectors * 480]
        contents = {"own": own.content[None, :vectors], "perturbed": np.stack(worse)}
        features = ClipFeatures(
            speaker=path.stem.partition(".")[0],
            audio=torch.from_numpy(np.rint(np.clip(wide, -1, 1) * 32767).astype(np.int16)),
            f0_hz=torch.from_numpy(own.f0_hz[: 2 * vectors].copy()),
            content={kind: torch.from_numpy(rows).to(torch.float16) for kind, rows in contents.items()},
        )
        save_features(target, features)
        print(path.stem, flush=True)


class Ear(nn.Module):
    """Content encoder and phone reader as a measure of whether the same is said, whoever says it."""

    def __init__(self, reader: Path) -> None:
        super().__init__()
        tensors = {name: value.float() for name, value in load_file(str(STARTER_WEIGHTS)).items()}
        self.encoder = WhisperContentEncoder(n_directions=tensors["speaker_directions"].shape[1])
        self.encoder.load_state_dict(tensors)
        self.reader = PhoneReader().eval()
        self.reader.load_state_dict(torch.load(reader, weights_only=True)["model"])
        self.requires_grad_(False)

    def forward(self, made: Tensor, real: Tensor) -> Tensor:
        """Divergence of the phones heard in (batch, samples) at 24 kHz from those in `real`, where that sounds."""
        with torch.no_grad():
            there = self._phones(real)
            power = real[:, : there.shape[1] * 480].unflatten(1, (-1, 480)).square().mean(dim=2)
            sounds = (power > 1e-4 * power.amax(dim=1, keepdim=True)).float()
            sounds[:, :3] = sounds[:, -3:] = 0  # at its ends a crop has neighbours that neither has heard
        distance = F.kl_div(self._phones(made), there, reduction="none", log_target=True).sum(dim=2)
        return (distance * sounds).sum() / sounds.sum().clamp(min=1)

    def _phones(self, audio: Tensor) -> Tensor:
        """At 16 kHz by the discrete Fourier transform, and equally loud."""
        size = audio.shape[1] // 3 * 2
        narrow = torch.fft.irfft(torch.fft.rfft(audio)[:, : size // 2 + 1], size) * (2 / 3)
        loudness = narrow.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-3)
        phones: Tensor = self.reader(self.encoder(0.1 * narrow / loudness)).float()
        return phones


class Judge(nn.Module):
    """Tells a speaker's mel spectrograms from those that a network made."""

    def __init__(self, speakers: int, width: int = 32) -> None:
        super().__init__()
        bank = mel_filterbank(sample_rate=24_000, n_fft=_FFT, n_mels=_MELS)
        self.register_buffer("bank", bank / bank.sum(dim=1, keepdim=True).clamp(min=1e-6), persistent=False)
        self.register_buffer("window", torch.hann_window(_FFT), persistent=False)
        widths = (1, width, 2 * width, 3 * width, 4 * width)
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(a, b, (5, 3), (2, 1 + i % 2), (2, 1)))
            for i, (a, b) in enumerate(itertools.pairwise(widths))
        )
        self.score = nn.Conv2d(widths[-1], 1, 3, padding=1)
        self.speaker = nn.Embedding(speakers, widths[-1])

    def forward(self, audio: Tensor, speaker_id: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(batch, samples) to scores of places in the spectrogram, and the layers' outputs."""
        spectrum = torch.stft(audio, _FFT, _HOP, window=self.window, normalized=True, return_complex=True)
        magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
        x = torch.log(self.bank @ magnitude + 1e-3)[:, None] / 2 + 1.5
        features = [x := F.leaky_relu(layer(x), 0.1) for layer in self.layers]
        wanted = self.speaker(speaker_id)[:, :, None, None]
        return self.score(x) + (x * wanted).mean(dim=1, keepdim=True), features


def medians_hz(paths: Iterable[Path], speakers: tuple[str, ...]) -> Tensor:
    """The speakers' median F0."""
    voiced: dict[str, list[Tensor]] = {name: [] for name in speakers}
    for path in paths:
        clip = load_features(path)
        voiced.get(clip.speaker, []).append(clip.f0_hz[clip.f0_hz > 0])
    return torch.stack([torch.cat(voiced[name]).median() for name in speakers])


class Finetuning:
    """All that a step needs, and what it changes."""

    def __init__(self, folder: Path, human: Path) -> None:
        experiment = load_experiment(folder)
        schedule = dataclasses.replace(experiment.schedule, learning_rate=RATE, warmup_steps=JUDGE_ALONE_STEPS)
        precision = fastest_precision(_CPU)
        self.experiment: Experiment = dataclasses.replace(experiment, precision=precision, schedule=schedule)
        torch.manual_seed(0)
        paths, people = sorted((folder / FEATURES).glob(f"*{SUFFIX}")), sorted(human.glob(f"*{SUFFIX}"))
        names = tuple(sorted({path.name.partition(".")[0] for path in people}))
        mix = ContentMix(own=0.4, aligned=0.0, perturbed=0.6)
        listed = dataclasses.replace(
            self.experiment,
            speakers=names,
            mix=mix,
            synthesizer=dataclasses.replace(experiment.synthesizer, n_speakers=len(names)),
        )
        self.targets = Dataset.load(paths, self.experiment, memory_bytes=4 << 30)
        self.people = Dataset.load(people, listed, memory_bytes=4 << 30)
        self.target_hz, self.people_hz = medians_hz(paths, experiment.speakers), medians_hz(people, names)
        self.model = networks.make_generator(self.experiment)
        if experiment.warm_start.generator:
            networks.warm_generator(self.model, folder / experiment.warm_start.generator)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.ear, self.judge = Ear(folder / READER), Judge(len(experiment.speakers))
        self.spectral = objective.SpectralLoss(experiment.synthesizer.sample_rate)
        self.stepper = Stepper(self.model, RATE, device=_CPU, precision=precision)
        self.judges = Stepper(self.judge, 2 * RATE, device=_CPU, precision="fp32")
        self.step = 0

    def human_example(self, step: int, rows: int) -> Example:
        """People's speech with a target as the speaker and F0 in the target's register."""
        example = self.people.draw(seed=1, step=step, batch_size=rows, row_frames=self.experiment.schedule.row_frames)
        batch = example.batch
        wanted = torch.randint(len(self.target_hz), (rows,))
        moved = self.target_hz[wanted] / self.people_hz[batch.speaker_id]
        moved = moved * 2 ** (torch.randn(rows).clamp(-2, 2) * _SEMITONES / 24)
        assert batch.f0_hz is not None
        f0_hz = batch.f0_hz * moved[:, None]
        coarse = torch.from_numpy(coarse_bins(f0_hz.numpy()))
        return dataclasses.replace(
            example, batch=dataclasses.replace(batch, f0_hz=f0_hz, f0_coarse=coarse, speaker_id=wanted)
        )

    def learn(self) -> dict[str, float]:
        """One step; the losses."""
        schedule, step = self.experiment.schedule, self.step
        torch.manual_seed(step)
        rows = schedule.batch_size // 2
        spoken = self.targets.draw(seed=0, step=step, batch_size=rows, row_frames=schedule.row_frames)
        heard = self.human_example(step, rows)
        self.stepper.set_rate(learning_rate(schedule, step))
        with autocast(_CPU, self.experiment.precision):
            copied, real, _ = objective.direct_pass(self.model, spoken.batch, spoken.audio)
            made, said, _ = objective.direct_pass(self.model, heard.batch, heard.audio)
            cycle = self.ear(made, said)
        losses = self.spectral(copied, real)
        weights = self.experiment.weights
        loss = sum(getattr(weights, name) * value for name, value in losses.items()) + CYCLE * cycle
        speakers = torch.cat([spoken.batch.speaker_id, heard.batch.speaker_id])
        fake = torch.cat([copied, made])
        judged = self._teach_judge(real, spoken.batch.speaker_id, fake.detach(), speakers)
        scores, features = self.judge(fake, speakers)
        with torch.no_grad():
            _, wanted = self.judge(real, spoken.batch.speaker_id)
        adversarial = (1 - scores).square().mean()
        pairs = zip(features, wanted, strict=True)
        matching = torch.stack([(a[:rows] - b).abs().mean() for a, b in pairs]).mean()
        if step >= JUDGE_ALONE_STEPS:
            loss = loss + ADVERSARIAL * adversarial + MATCHING * matching
        norm = self.stepper.step(loss, _ALONE, schedule.max_gradient)
        keep = min(schedule.keep_average, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.average[name].lerp_(value, 1 - keep) if value.is_floating_point() else None
        self.step += 1
        losses |= {"cycle": cycle, "adversarial": adversarial, "matching": matching, "judge": judged, "norm": norm}
        return {name: round(float(value.detach()), 4) for name, value in losses.items()}

    def _teach_judge(self, real: Tensor, speaker_id: Tensor, fake: Tensor, speakers: Tensor) -> Tensor:
        """One step of the judge, to whom another speaker's real sound is wrong too."""
        right, _ = self.judge(real, speaker_id)
        wrong, _ = self.judge(fake, speakers)
        others, _ = self.judge(real, (speaker_id + 1) % len(self.target_hz))
        loss = (1 - right).square().mean() + (wrong.square().mean() + others.square().mean()) / 2
        self.judges.step(loss, _ALONE, 10.0)
        return loss

    def state(self) -> dict[str, object]:
        """What resuming needs, and `export_voice`."""
        return {
            "step": self.step,
            "average": self.average,
            "generator": self.model.state_dict(),
            "judge": self.judge.state_dict(),
            "optimizer": self.stepper.state_dict(),
            "judge_optimizer": self.judges.state_dict(),
        }

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = read_state(path, _CPU)
        self.step, self.average = state["step"], state["average"]
        self.model.load_state_dict(state["generator"])
        self.judge.load_state_dict(state["judge"])
        self.stepper.load_state_dict(state["optimizer"])
        self.judges.load_state_dict(state["judge_optimizer"])


def train(folder: Path, human: Path) -> None:
    """All steps of the schedule that are left."""
    torch.set_num_threads(1)
    run = Finetuning(folder, human)
    checkpoint = folder / CHECKPOINT
    if checkpoint.is_file():
        run.resume(checkpoint)
    saved = time.monotonic()
    print(f"step {run.step}, {run.targets.seconds:.0f} s of targets, {run.people.seconds:.0f} s of people", flush=True)
    with (folder / "losses.jsonl").open("a") as log:
        while run.step < run.experiment.schedule.steps:
            began = time.monotonic()
            losses = {"step": run.step, **run.learn(), "seconds": round(time.monotonic() - began, 2)}
            if run.step % 10 == 0:
                log.write(json.dumps(losses) + "\n")
                log.flush()
            if time.monotonic() - saved > _SAVE_EVERY_S or run.step == run.experiment.schedule.steps:
                write_state(checkpoint, run.state())
                saved = time.monotonic()


def main() -> None:
    """Prepares or trains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    preparing, training = commands.add_parser("prepare"), commands.add_parser("train")
    preparing.add_argument("--people", type=Path, required=True)
    preparing.add_argument("--out", type=Path, required=True)
    training.add_argument("--experiment", type=Path, required=True)
    training.add_argument("--human", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "prepare":
        prepare(options.people, options.out)
    else:
        train(options.experiment, options.human)


if __name__ == "__main__":
    main()
