"""RMVPE and FCPE: decoding, folding, windows, refusals. Their numbers are in tests/conformance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from menura.errors import CheckpointError, UnsafeCheckpointError
from menura.f0.networks import FcpeEstimator, RmvpeEstimator
from menura.f0.registry import F0Estimator
from menura.kernels.library import kernel_status
from menura.kernels.rmvpe import use_kernels
from menura.models import rmvpe
from menura.models.fcpe import Fcpe, FcpeConfig
from menura.models.mel import mel_filterbank, reflect_pad
from menura.models.rmvpe import Rmvpe, RmvpeConfig, decode_salience, log_mel, mel_filters
from menura.models.weights import network_bytes
from support.tiny_rmvpe import TINY_RMVPE, Draw, rmvpe_weights

CPU = torch.device("cpu")
TINY_FCPE = FcpeConfig(hidden_dims=8, n_layers=2, out_dims=360)


def plain_unet(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """The U-Net as published, its batch norms apart."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, mean, variance, w[f"{name}.weight"], w[f"{name}.bias"], training=False)

    def block(x: Tensor, name: str) -> Tensor:
        y = norm(F.conv2d(x, w[f"{name}.conv.0.weight"], padding=1), f"{name}.conv.1").relu()
        y = norm(F.conv2d(y, w[f"{name}.conv.3.weight"], padding=1), f"{name}.conv.4").relu()
        if f"{name}.shortcut.weight" in w:
            x = F.conv2d(x, w[f"{name}.shortcut.weight"], w[f"{name}.shortcut.bias"])
        return x + y

    x, skips = norm(x, "unet.encoder.bn"), []
    for level in range(3):
        for n in range(2):
            x = block(x, f"unet.encoder.layers.{level}.conv.{n}")
        skips.append(x)
        x = F.avg_pool2d(x, 2)
    for layer in range(2):
        for n in range(2):
            x = block(x, f"unet.intermediate.layers.{layer}.conv.{n}")
    for level in range(3):
        name = f"unet.decoder.layers.{level}"
        x = F.conv_transpose2d(x, w[f"{name}.conv1.0.weight"], stride=2, padding=1, output_padding=1)
        x = torch.cat((norm(x, f"{name}.conv1.1").relu(), skips.pop()), dim=1)
        for n in range(2):
            x = block(x, f"{name}.conv2.{n}")
    return F.conv2d(x, w["cnn.weight"], w["cnn.bias"], padding=1)


def test_folded_norms_change_nothing() -> None:
    weights = rmvpe_weights()
    model = Rmvpe.from_tensors(weights, TINY_RMVPE)
    x = torch.randn(2, 1, 24, 128, generator=torch.Generator().manual_seed(1)) * 3 - 5
    ours = model._unet(x * model.input_scale + model.input_shift)
    expected = plain_unet(weights, x)
    torch.testing.assert_close(ours, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)


class LimitedRecurrent(torch.nn.Module):
    """A recurrent layer that takes so many steps, as cuDNN's take 65,535."""

    def __init__(self, gru: torch.nn.Module, most_steps: int) -> None:
        super().__init__()
        self.gru, self.most_steps = gru, most_steps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[1] > self.most_steps:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED")
        states: tuple[Tensor, Tensor] = self.gru(x)
        return states


def test_the_recurrent_layer_never_sees_more_steps_than_cudnn_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rmvpe.BLOCK_FRAMES == 32_000
    model = Rmvpe.from_tensors(rmvpe_weights(), TINY_RMVPE)
    assert [block.shape[-1] for block in model.blocks(torch.zeros(1, 2, 65_540))] == [32_000, 32_000, 1544]
    monkeypatch.setattr(rmvpe, "BLOCK_FRAMES", 64)
    model.gru = LimitedRecurrent(model.gru, 131)
    samples = 0.3 * torch.randn(2, 160 * 129, generator=torch.Generator().manual_seed(1))  # 130 frames
    mel = log_mel(samples, mel_filters())
    padded = reflect_pad(mel, 0, 6)
    parts = [
        model.salience(model.features(part)) for part in (padded[..., :64], padded[..., 64:128], padded[..., 128:])
    ]
    expected = torch.cat(parts, dim=1)[:, :130]
    torch.testing.assert_close(model(mel), expected, rtol=0, atol=0)
    found = RmvpeEstimator(model, device=CPU).estimate(samples)
    torch.testing.assert_close(found, decode_salience(expected, 0.03), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="NOT_SUPPORTED"):
        model.salience(model.features(mel))


def test_half_precision_weights_are_kept_so_and_change_nothing() -> None:
    halves = {name: weight.half() for name, weight in rmvpe_weights().items()}
    model = Rmvpe.from_tensors(halves, TINY_RMVPE)
    kept = [tensor for name, tensor in model.bottleneck.state_dict().items() if name.endswith(("first.weight",))]
    assert len(kept) == 4
    assert all(tensor.dtype == torch.float16 for tensor in kept)
    x = torch.randn(2, 1, 24, 128, generator=torch.Generator().manual_seed(1)) * 3 - 5
    expected = plain_unet({name: weight.float() for name, weight in halves.items()}, x)
    ours = model._unet(x * model.input_scale + model.input_shift)
    torch.testing.assert_close(ours, expected, atol=1e-5 * float(expected.abs().max()), rtol=0)
    # One that half precision would change keeps all of them as they are.
    name = "unet.intermediate.layers.1.conv.0.conv.3.weight"
    mixed = Rmvpe.from_tensors({**halves, name: rmvpe_weights()[name]}, TINY_RMVPE)
    assert all(tensor.dtype == torch.float32 for tensor in mixed.state_dict().values())


@pytest.mark.parametrize("half", [False, True])
def test_rmvpe_on_the_kernels_is_the_same(half: bool) -> None:
    library = kernel_status().library
    assert library is not None, "the kernels must be built for the tests"
    config = RmvpeConfig(channels=16, levels=2, blocks=2, bottleneck_layers=2, gru_size=32)
    torch.manual_seed(3)
    plain, compiled = Rmvpe(config, half=half), Rmvpe(config, half=half)
    for tensor in plain.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape) / max(1, tensor[0].numel()) ** 0.5)
    compiled.load_state_dict(plain.state_dict())
    before = network_bytes(compiled)
    use_kernels(compiled.requires_grad_(False).eval(), library)
    use_kernels(compiled, library)  # a second time changes nothing
    assert not isinstance(compiled.gru, torch.nn.GRU)
    on_torch = [name for name, module in compiled.named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert [name for name in on_torch if name.endswith(("first", "second"))] == ["down.0.0.first"]  # of one channel
    assert abs(network_bytes(compiled) - before) < 0.02 * before
    mel = torch.randn(2, 128, 37) * 3 - 5
    with torch.inference_mode():
        torch.testing.assert_close(compiled(mel), plain.eval()(mel), atol=1e-5, rtol=0)


def test_rmvpe_loaded_for_a_cpu_uses_the_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(rmvpe_weights(), tmp_path / "rmvpe.pt")
    built = Rmvpe.from_tensors
    monkeypatch.setattr(Rmvpe, "from_tensors", lambda tensors: built(tensors, TINY_RMVPE))
    given = []
    monkeypatch.setattr("menura.f0.networks.use_kernels", lambda model, library: given.append(library))
    RmvpeEstimator.load(tmp_path / "rmvpe.pt", CPU)
    assert kernel_status().library is not None, "the kernels must be built for the tests"
    assert given == [kernel_status().library]


def test_stretches_of_the_last_level_meet_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Rmvpe.from_tensors(rmvpe_weights(), TINY_RMVPE)
    x = torch.randn(2, 1, 104, 128, generator=torch.Generator().manual_seed(4))
    whole = model._unet(x)
    for stretch in (8, 40, 96, 102):
        monkeypatch.setattr("menura.models.rmvpe._STRETCH_FRAMES", stretch)
        torch.testing.assert_close(model._unet(x), whole, atol=1e-6 * float(whole.abs().max()), rtol=0)


@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 41])
def test_rmvpe_takes_any_number_of_frames(frames: int) -> None:
    model = Rmvpe.from_tensors(rmvpe_weights(), TINY_RMVPE)
    mel = torch.randn(2, 128, frames, generator=torch.Generator().manual_seed(2))
    both = model(mel)
    assert both.shape == (2, frames, 360)
    torch.testing.assert_close(both[1:], model(mel[1:]), atol=1e-5, rtol=0)


def test_rmvpe_pads_by_reflection_to_whole_blocks() -> None:
    model = Rmvpe.from_tensors(rmvpe_weights(), TINY_RMVPE)
    mel = torch.randn(1, 128, 13, generator=torch.Generator().manual_seed(3))
    padded = torch.from_numpy(np.pad(mel.numpy(), ((0, 0), (0, 0), (0, 3)), mode="reflect"))
    torch.testing.assert_close(model(mel), model(padded)[:, :13], atol=1e-6, rtol=0)


def salience_with(*bins: tuple[int, float]) -> Tensor:
    salience = torch.zeros(1, 1, 360)
    for place, value in bins:
        salience[0, 0, place] = value
    return salience


def hz_of(cents: float) -> float:
    return float(10 * 2 ** (cents / 1200))


@pytest.mark.parametrize(
    ("salience", "cents"),
    [
        (salience_with((100, 0.9)), 2000),
        (salience_with((100, 0.9), (101, 0.3)), 2005),
        (salience_with((100, 0.9), (104, 0.3)), 2020),
        (salience_with((100, 0.9), (105, 0.3)), 2000),
        (salience_with((0, 0.9), (1, 0.3)), 5),
        (salience_with((359, 0.9), (358, 0.3)), 7175),
    ],
    ids=["one bin", "its neighbour", "fourth neighbour", "fifth neighbour", "first bin", "last bin"],
)
def test_salience_is_averaged_around_its_peak(salience: Tensor, cents: float) -> None:
    f0_hz = decode_salience(salience, 0.03)
    assert f0_hz.shape == (1, 1)
    assert float(f0_hz) == pytest.approx(hz_of(1997.3794084376191 + cents), rel=1e-6)


def test_salience_at_the_threshold_is_unvoiced() -> None:
    threshold = 0.25  # exact in binary
    assert float(decode_salience(salience_with((100, threshold)), threshold)) == 0
    assert float(decode_salience(salience_with((100, threshold + 0.001)), threshold)) > 0
    assert float(decode_salience(torch.zeros(1, 1, 360), 0.03)) == 0


def fcpe_weights(config: FcpeConfig = TINY_FCPE) -> dict[str, Tensor]:
    draw, width = Draw(), config.hidden_dims
    for name, shape in {"input_stack.0": (width, 128, 3), "input_stack.3": (width, width, 3)}.items():
        draw(f"{name}.weight", *shape)
        draw(f"{name}.bias", width)
    norms = ["input_stack.1", "norm"]
    for n in range(config.n_layers):
        base = f"net.encoder_layers.{n}.conformer.net"
        norms.append(f"{base}.0")
        shapes = {"2": (4 * width, width, 1), "4.conv": (2 * width, 1, 31), "6": (width, 2 * width, 1)}
        for name, shape in shapes.items():
            draw(f"{base}.{name}.weight", *shape)
            draw(f"{base}.{name}.bias", shape[0])
    for name in norms:
        draw(f"{name}.weight", width, around=1.0)
        draw(f"{name}.bias", width)
    draw("output_proj.weight_g", config.out_dims, 1, around=1.0)
    draw("output_proj.weight_v", config.out_dims, width)
    draw("output_proj.bias", config.out_dims)
    draw.weights["cent_table"] = torch.linspace(2051.15, 9151.15, config.out_dims)
    return draw.weights


def plain_fcpe(w: dict[str, Tensor], mel: Tensor) -> Tensor:
    """FCPE as published."""
    width = TINY_FCPE.hidden_dims

    def conv(x: Tensor, name: str, padding: int = 0, groups: int = 1) -> Tensor:
        return F.conv1d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=padding, groups=groups)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x.transpose(1, 2), (width,), w[f"{name}.weight"], w[f"{name}.bias"]).transpose(1, 2)

    x = conv(mel.transpose(1, 2), "input_stack.0", padding=1)
    x = F.leaky_relu(F.group_norm(x, 4, w["input_stack.1.weight"], w["input_stack.1.bias"]))
    x = conv(x, "input_stack.3", padding=1)
    for n in range(TINY_FCPE.n_layers):
        base = f"net.encoder_layers.{n}.conformer.net"
        y = F.glu(conv(norm(x, f"{base}.0"), f"{base}.2"), dim=1)
        x = x + conv(F.silu(conv(y, f"{base}.4.conv", padding=15, groups=2 * width)), f"{base}.6")
    x = norm(x, "norm").transpose(1, 2)
    direction = w["output_proj.weight_v"]
    weight = w["output_proj.weight_g"] * direction / direction.norm(dim=1, keepdim=True)
    return F.linear(x, weight, w["output_proj.bias"]).sigmoid()


def test_fcpe_is_as_defined() -> None:
    mel = torch.randn(2, 50, 128, generator=torch.Generator().manual_seed(4))
    ours = Fcpe.from_tensors(fcpe_weights(), TINY_FCPE)(mel)
    torch.testing.assert_close(ours, plain_fcpe(fcpe_weights(), mel), atol=1e-5, rtol=0)


def test_fcpe_in_torchs_newer_names() -> None:
    weights = fcpe_weights()
    for n, part in enumerate("gv"):
        weights[f"output_proj.parametrizations.weight.original{n}"] = weights.pop(f"output_proj.weight_{part}")
    mel = torch.randn(1, 20, 128)
    expected = Fcpe.from_tensors(fcpe_weights(), TINY_FCPE)(mel)
    torch.testing.assert_close(Fcpe.from_tensors(weights, TINY_FCPE)(mel), expected)


def test_fcpe_decodes_around_the_peak() -> None:
    model = Fcpe.from_tensors(fcpe_weights(), TINY_FCPE)
    step = float(model.cents[1] - model.cents[0])
    f0_hz = model.decode(torch.cat([salience_with((100, 0.9), (102, 0.3)), salience_with((7, 0.005))], dim=1), 0.006)
    assert float(f0_hz[0, 0]) == pytest.approx(hz_of(float(model.cents[100]) + step / 2), rel=1e-5)
    assert float(f0_hz[0, 1]) == 0


def fcpe_file(path: Path, **changes: object) -> Path:
    model = {"hidden_dims": 8, "n_layers": 2, "out_dims": 360, "conv_only": True}
    mel = {"sr": 16000, "num_mels": 128, "n_fft": 1024, "win_size": 1024, "hop_size": 160, "fmin": 0, "fmax": 8000}
    for name, value in changes.items():
        (mel if name in mel else model)[name] = value
    torch.save({"model": fcpe_weights(), "config_dict": {"model": model, "mel": mel}}, path)
    return path


@pytest.mark.parametrize("length", [1, 159, 160, 1000, 16_000])
def test_fcpe_gives_a_frame_every_10_ms(tmp_path: Path, length: int) -> None:
    estimator = FcpeEstimator.load(fcpe_file(tmp_path / "fcpe.pt"), CPU)
    assert isinstance(estimator, F0Estimator)
    assert estimator.estimate(torch.randn(2, length) * 0.1).shape == (2, length // 160 + 1)


@pytest.mark.parametrize("change", [{"conv_only": False}, {"sr": 44100}, {"n_layers": None}, {"hop_size": 512}])
def test_other_kinds_of_fcpe_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    file = fcpe_file(tmp_path / "fcpe.pt", **change)
    with pytest.raises(CheckpointError) as caught:
        FcpeEstimator.load(file, CPU)
    assert caught.value.subject == str(file)
    assert next(iter(change)) in caught.value.problem


@pytest.mark.parametrize("odd", [{3: torch.zeros(1)}, {"input_stack.0.weight": 3}])
def test_fcpe_of_odd_contents_is_refused(tmp_path: Path, odd: dict[object, object]) -> None:
    file = fcpe_file(tmp_path / "fcpe.pt")
    torch.save({**torch.load(file), "model": odd}, file)
    with pytest.raises(CheckpointError, match="lack"):
        FcpeEstimator.load(file, CPU)


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    for estimator in (FcpeEstimator, RmvpeEstimator):
        with pytest.raises(CheckpointError) as caught:
            estimator.load(path, CPU)
        assert (caught.value.subject, caught.value.details.kind) == (str(path), "checkpoint")
    torch.save({"config": {"a": 1}}, path)
    with pytest.raises(CheckpointError, match="something other than named tensors"):
        RmvpeEstimator.load(path, CPU)
    torch.save({"call": print}, path)
    with pytest.raises(UnsafeCheckpointError, match="more than weights"):
        RmvpeEstimator.load(path, CPU)


def test_rmvpe_of_other_sizes_is_refused() -> None:
    with pytest.raises(ValueError, match="other shapes"):
        Rmvpe.from_tensors(
            rmvpe_weights(), RmvpeConfig(channels=4, levels=3, blocks=2, bottleneck_layers=2, gru_size=6)
        )


@pytest.mark.parametrize("length", [1, 159, 160, 600, 16_000])
def test_rmvpe_gives_a_frame_every_10_ms(length: int) -> None:
    estimator = RmvpeEstimator(Rmvpe.from_tensors(rmvpe_weights(), TINY_RMVPE), device=CPU)
    assert isinstance(estimator, F0Estimator)
    f0_hz = estimator.estimate(torch.randn(2, length) * 0.1)
    assert f0_hz.shape == (2, length // 160 + 1)
    assert torch.isfinite(f0_hz).all()


def test_rmvpe_leaves_torchs_threads_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Rmvpe.from_tensors(rmvpe_weights(), TINY_RMVPE)
    seen = []
    salience = model.salience
    monkeypatch.setattr(model, "salience", lambda x: (seen.append(torch.get_num_threads()), salience(x))[1])
    before = torch.get_num_threads()
    RmvpeEstimator(model, device=CPU).estimate(torch.zeros(1, 1600))
    assert seen == [1]
    assert torch.get_num_threads() == before


def test_windows_are_aligned() -> None:
    for estimator in (RmvpeEstimator, FcpeEstimator):
        assert estimator.core_frames % 8 == 0
        assert estimator.context_frames % 8 == 0
    assert RmvpeEstimator.core_frames % (1 << RmvpeConfig().levels) == 0


@pytest.mark.parametrize(
    ("htk", "expected"),
    [(False, (1000.0, 15.0)), (True, (1000.0, 999.9855))],
)
def test_mel_scale_at_1_khz(htk: bool, expected: tuple[float, float]) -> None:
    from menura.models.mel import _hz_to_mel, _mel_to_hz

    hz, mel = (torch.tensor([value], dtype=torch.float64) for value in expected)
    torch.testing.assert_close(_hz_to_mel(hz, htk), mel, rtol=1e-6, atol=0)
    torch.testing.assert_close(_mel_to_hz(_hz_to_mel(hz * 3, htk), htk), hz * 3)
    filters = mel_filterbank(sample_rate=16_000, n_fft=1024, n_mels=128, htk=htk)
    assert filters.shape == (128, 513)
    # Unit area: narrow filters at the bottom sample their triangle coarsely, wide ones integrate to 1.
    assert float(filters[-1].sum() * 16_000 / 1024) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("length", "left", "right"), [(5, 2, 3), (5, 4, 4), (1, 3, 3), (2, 5, 7), (3, 0, 9)])
def test_reflect_pad_is_numpys(length: int, left: int, right: int) -> None:
    x = torch.arange(2.0 * length).reshape(2, length)
    expected = np.pad(x.numpy(), ((0, 0), (left, right)), mode="reflect") if length > 1 else x.repeat(1, 7).numpy()
    assert np.array_equal(reflect_pad(x, left, right).numpy(), expected)
