"""Menura's own vocoder: its excitation, its filters, and that a part is a part of the whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from menura.checkpoints.voice import LoadedVoice, VoiceMetadata, build_synthesizer, check_config, load_voice, save_voice
from menura.errors import CheckpointError
from menura.models.config import SynthesizerConfig, small_config
from menura.models.source import advance_phase
from menura.models.source_filter import EXCITATIONS, PulseSource, SourceFilter, added_up, cosine_sum
from menura.models.synthesizer import Synthesizer
from menura.models.weights import classic
from menura.options import TrainingOptions
from menura.train import create
from menura.train.experiment.defaults import network
from menura.train.experiment.settings import FILTER_WEIGHTS, Experiment, Schedule, save_experiment
from menura.train.learning.networks import make_generator, warm_generator
from menura.train.run.trainer import Trainer
from support.training import Heard, open_trainer, run, tiny_experiment, write_features

HOP, RATE = 240, 24_000


def tiny_filters(**changes: object) -> SynthesizerConfig:
    config = dataclasses.replace(
        small_config(RATE, 2),
        inter_channels=8,
        hidden_channels=8,
        filter_channels=16,
        n_layers=1,
        upsample_initial_channel=16,
        resblock_kernel_sizes=(7, 5),
        resblock_dilation_sizes=((1,), (1,)),
        gin_channels=8,
    )
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def filters(seed: int = 0) -> SourceFilter:
    torch.manual_seed(seed)
    return SourceFilter(tiny_filters(), training=False).eval()


def excitation(f0_hz: Tensor, seed: int = 0) -> Tensor:
    noise = torch.randn(len(f0_hz), f0_hz.shape[1] * HOP, generator=torch.Generator().manual_seed(seed))
    return PulseSource(RATE, HOP)(f0_hz, torch.zeros(len(f0_hz), dtype=torch.float64), noise, 1.0)


@pytest.mark.parametrize("harmonics", [1, 2, 7, 240])
def test_cosine_sum(harmonics: int) -> None:
    turn = torch.cat([torch.linspace(-0.5, 0.5, 999), torch.tensor([0.0, 1e-7, -3e-6, 2e-5])])
    k = torch.arange(1, harmonics + 1, dtype=torch.float64)
    wanted = torch.cos(2 * torch.pi * k * turn.double()[:, None]).sum(dim=1)
    made = cosine_sum(turn, torch.full_like(turn, harmonics))
    torch.testing.assert_close(made.double(), wanted, rtol=0, atol=2e-4 * harmonics)


@pytest.mark.parametrize("f0_hz", [61.0, 137.5, 440.0, 1100.0])
def test_pulses_are_harmonics_of_equal_height_and_nothing_else(f0_hz: float) -> None:
    frames = 400
    pulses = excitation(torch.full((1, frames), f0_hz))[0, 0].double().numpy()
    assert np.std(pulses) == pytest.approx(1.0, rel=0.03)
    spectrum = np.abs(np.fft.rfft(pulses * np.hanning(len(pulses))))
    hz = np.fft.rfftfreq(len(pulses), 1 / RATE)
    distance = np.abs(hz - f0_hz * np.round(hz / f0_hz))
    number = np.round(hz / f0_hz)
    on = (distance < 0.3) & (number >= 1) & (number * f0_hz < RATE / 2 - 5)
    peaks = np.array([spectrum[on & (number == k)].max() for k in np.unique(number[on])])
    assert len(peaks) == int((RATE / 2 - 5) // f0_hz)
    assert peaks.max() / peaks.min() < 1.25
    assert spectrum[(distance > 4) | (number == 0)].max() < 1e-3 * peaks.max()


def test_where_there_is_no_voice_there_is_noise_alone() -> None:
    f0_hz = torch.full((1, 300), 150.0)
    f0_hz[:, 100:200] = 0
    pulses, noise, in_step = excitation(f0_hz)[0]
    unvoiced = slice(100 * HOP, 200 * HOP)
    assert float(pulses[unvoiced].abs().max()) == float(in_step[unvoiced].abs().max()) == 0
    assert float(noise.std()) == pytest.approx(1.0, rel=0.02)
    assert float(in_step[: 100 * HOP].std()) == pytest.approx(1.0, rel=0.05)
    without = PulseSource(RATE, HOP)(f0_hz, torch.zeros(1, dtype=torch.float64), None, 1.0)
    assert float(without[:, 1:].abs().max()) == 0
    assert torch.equal(without[0, 0], pulses)


def test_noise_in_step_is_loudest_at_the_pulses() -> None:
    pulses, _, in_step = excitation(torch.full((1, 800), 100.0))[0]
    power = in_step.square().view(-1, RATE // 100).mean(dim=0)
    at = int(pulses.view(-1, RATE // 100).mean(dim=0).argmax())
    period = power.roll(RATE // 200 - at)  # the pulse in the middle
    middle, ends = period[100:140].mean(), torch.cat([period[:20], period[-20:]]).mean()
    assert middle > 10 * ends


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(1, 59), seed=st.integers(0, 99))
def test_windows_have_the_same_excitation(cut: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    f0_hz = torch.rand(1, 60, generator=random) * 300 + 60
    f0_hz[torch.rand(1, 60, generator=random) < 0.3] = 0
    whole = PulseSource(RATE, HOP)(f0_hz, torch.zeros(1, dtype=torch.float64), None, 1.0)
    phase = advance_phase(torch.zeros(1, dtype=torch.float64), f0_hz[:, :cut], HOP / RATE)
    later = PulseSource(RATE, HOP)(f0_hz[:, cut:], phase, None, 1.0)
    # A pulse's edge is steep: a millionth of a turn moves it by a thousandth of its height.
    torch.testing.assert_close(later, whole[..., cut * HOP :], rtol=0, atol=2e-3)


@pytest.mark.parametrize("count", [1, 3, 50])
def test_windows_are_added_up_as_fold_does(count: int) -> None:
    windows = torch.randn(2, count, 48, generator=torch.Generator().manual_seed(count))
    wanted = F.fold(windows.transpose(1, 2), (1, 12 * count + 36), (1, 48), stride=(1, 12))
    torch.testing.assert_close(added_up(windows, 12), wanted[:, 0, 0])


def test_filters_that_do_nothing_give_back_the_excitation() -> None:
    decoder = filters()
    source = excitation(torch.full((2, 50), 200.0))
    drawn = torch.full((2, 100, (EXCITATIONS + 1) * decoder.bins), -60.0)
    drawn[..., : decoder.bins] = 0
    drawn[..., EXCITATIONS * decoder.bins :] = 0
    made = decoder._shaped(source, drawn)[:, 0]
    inside = slice(2 * HOP, -2 * HOP)
    torch.testing.assert_close(made[:, inside], source[:, 0, inside], rtol=0, atol=2e-5)
    drawn[..., decoder.bins : 2 * decoder.bins] = 0
    both = decoder._shaped(source, drawn)[:, 0]
    torch.testing.assert_close(both[:, inside], source[:, :2].sum(dim=1)[:, inside], rtol=0, atol=2e-5)


def test_a_constant_latent_gives_sound_that_nothing_repeats_at_the_rate_of_frames() -> None:
    """Constant filters are a filter: noise stays noise, with no lines at multiples of 100 Hz."""
    decoder = filters(3)
    z = torch.randn(1, 8, 1, generator=torch.Generator().manual_seed(1)).expand(1, 8, 1200).contiguous()
    source = excitation(torch.zeros(1, 1200))
    with torch.no_grad():
        sound = decoder(z, torch.zeros(1, 8, 1), source)[0, 0, 100 * HOP : -100 * HOP]
    rows = sound[: len(sound) // HOP * HOP].view(-1, HOP)
    repeated = rows.mean(dim=0).square().mean() / rows.square().mean()
    assert float(repeated) < 4 / len(rows)


@settings(max_examples=25, deadline=None)
@given(start=st.integers(0, 80), length=st.integers(1, 60), seed=st.integers(0, 9))
def test_tiles_are_parts_of_the_whole(start: int, length: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = Synthesizer(tiny_filters()).eval()
    frames = 140
    z, g = torch.randn(1, 8, frames), model.condition(torch.tensor([1]))
    source = excitation(torch.rand(1, frames) * 200 + 80, seed)
    with torch.inference_mode():
        whole = model.decode(z, g, source)
        part = model.decode_tiled(z, g, source, (start, start + length))
    torch.testing.assert_close(part, whole[:, start * HOP : (start + length) * HOP], rtol=0, atol=1e-6)


def test_what_is_beyond_the_context_is_not_heard() -> None:
    torch.manual_seed(0)
    model = Synthesizer(tiny_filters()).eval()
    context, frames = model.decode_context_frames, 100
    z, g, source = torch.randn(1, 8, frames), model.condition(torch.tensor([0])), excitation(torch.full((1, 100), 90.0))
    core = slice(50 * HOP, 51 * HOP)
    with torch.inference_mode():
        before = model.decode(z, g, source)[:, core]
        other, louder = z.clone(), source.clone()
        other[..., : 50 - context] += 1
        other[..., 51 + context :] += 1
        louder[..., : (50 - context) * HOP] += 1
        louder[..., (51 + context) * HOP :] += 1
        torch.testing.assert_close(model.decode(other, g, louder)[:, core], before, rtol=0, atol=1e-6)
        z[..., 50 - context // 2] += 1
        assert not torch.allclose(model.decode(z, g, source)[:, core], before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sample_rate", [24_000, 32_000, 40_000, 48_000])
def test_every_rate(sample_rate: int) -> None:
    config = dataclasses.replace(tiny_filters(), sample_rate=sample_rate, upsample_rates=(2, sample_rate // 200))
    config = dataclasses.replace(config, upsample_kernel_sizes=(4, sample_rate // 50))
    model = Synthesizer(config).eval()
    f0_hz = torch.full((1, 20), 220.0)
    source = model.source(f0_hz, torch.zeros(1, dtype=torch.float64), torch.randn(1, 20 * sample_rate // 100), 0.0)
    with torch.inference_mode():
        sound = model.decode(torch.randn(1, 8, 20), model.condition(torch.tensor([0])), source)
    assert sound.shape == (1, sample_rate // 5)
    assert 1e-4 < float(sound.std()) < 1


def voice(config: SynthesizerConfig) -> LoadedVoice:
    torch.manual_seed(5)
    state = classic(Synthesizer(config, training=True).state_dict())
    state = {name: value for name, value in state.items() if not name.startswith("enc_q.")}
    return LoadedVoice(config=config, state=state, metadata=VoiceMetadata(name="filters"))


def test_a_file_is_what_was_saved(tmp_path: Path) -> None:
    saved = voice(tiny_filters())
    save_voice(tmp_path / "v.safetensors", saved)
    loaded = load_voice(tmp_path / "v.safetensors")
    assert loaded.config == saved.config
    model = build_synthesizer(loaded)
    assert isinstance(model.dec, SourceFilter)
    assert model.needs_noise
    for name, tensor in saved.state.items():
        torch.testing.assert_close(loaded.state[name], tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upsample_rates": (4, 60), "upsample_kernel_sizes": (8, 240)}, "filters of a layout"),
        ({"upsample_kernel_sizes": (4, 240)}, "filters of a layout"),
        ({"upsample_rates": (2, 60, 2), "upsample_kernel_sizes": (4, 240, 4)}, "filters of a layout"),
        ({"has_f0": False}, "no F0"),
    ],
)
def test_impossible_files_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        check_config(Path("v.safetensors"), tiny_filters(**changes))


def filter_experiment(**changes: object) -> Experiment:
    """As tiny as the others, with the same features."""
    made = tiny_experiment()
    config = tiny_filters(segment_size_frames=30, content_dim=made.synthesizer.content_dim, spec_channels=257)
    schedule = Schedule(steps=200, batch_size=2, row_frames=40, warmup_steps=5, learning_rate=3e-3, save_every_steps=50)
    return dataclasses.replace(made, synthesizer=config, schedule=schedule, weights=FILTER_WEIGHTS, **changes)  # type: ignore[arg-type]


def test_content_is_heard_from_the_first_step() -> None:
    """Else the encoder's gradients are noise, which Adam follows at full rate until it says nothing any more."""
    torch.manual_seed(0)
    model = make_generator(dataclasses.replace(filter_experiment(), synthesizer=small_config(RATE, 1), speakers=("a",)))
    content = torch.randn(1, 100, 384)
    with torch.no_grad():
        prior = model.encode(content, torch.full((1, 100), 60), torch.tensor([100]))
        drawn = model.dec.filters(prior.mean, model.condition(torch.tensor([0])))
    magnitudes = drawn[..., : EXCITATIONS * model.dec.bins]
    assert float(magnitudes.std(dim=1).mean()) > 0.05
    assert float(prior.mean.std(dim=2).mean()) > 3 * float(prior.log_scale.exp().mean())


def test_it_learns(tmp_path: Path) -> None:
    write_features(tmp_path)
    save_experiment(tmp_path, filter_experiment())
    steps = Heard()
    trainer = open_trainer(tmp_path, torch.device("cpu"))
    with torch.no_grad():
        trainer.generator.dec.conv_post.bias.sub_(2.0)  # too soft by 17 dB
    trainer.run(tmp_path, until_step=60, on_event=steps)
    assert steps[-1].losses["mel"] < 0.7 * steps[0].losses["mel"]
    before = {name: value.clone() for name, value in trainer.generator.state_dict().items()}
    resumed: Trainer = run(tmp_path, 60)
    assert all(torch.equal(value, before[name]) for name, value in resumed.generator.state_dict().items())


def test_small_voices_begin_with_a_starter_voice(tmp_path: Path) -> None:
    options = TrainingOptions(content="menura-starter", sample_rate="24k")
    config = network(options, 1)
    warm, _ = create.warm_start(options, config, tmp_path)
    made = Experiment(synthesizer=config, speakers=("me",), schedule=Schedule())
    network_of = make_generator(made)
    warm_generator(network_of, Path(warm.generator))
    expected = load_voice(Path(warm.generator)).state["enc_p.emb_phone.weight"]
    assert torch.equal(network_of.state_dict()["enc_p.emb_phone.weight"], expected)
