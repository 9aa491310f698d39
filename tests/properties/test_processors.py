"""Every Processor: any split of the input gives the same samples as one block, mono and with channels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from menura.audio.envelope import EnvelopeMatcher
from menura.audio.filters import StreamHighPass
from menura.audio.processor import Chain, ExactLength, MixDown, Processor, StreamResampler, mix_down
from menura.effects.definitions import EFFECTS, Effect
from menura.effects.processors import processor_of
from menura.pipeline.channels import Widened
from menura.pipeline.recording import ArrayRecording

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Registered:
    make: Callable[[int], Processor]
    """From the number of samples that will be pushed."""
    channels: tuple[int, ...] = (1, 2, 3)


ASKED = {
    "pitch-shift": {"semitones": 4.0},
    "gain": {"db": 3.0},
    "compressor": {"threshold": -20.0, "ratio": 4.0},
    "chorus": {"feedback": 0.5},
    "delay": {"seconds": 0.1, "feedback": 0.5},
    "formant": {"timbre": 1.2},
    "equalizer": {"low": 3.0, "high": -3.0},
}
"""Where the defaults of an effect change nothing, or little."""
WIDE = ArrayRecording(np.random.default_rng(6).standard_normal((20_000, 2)), 16_000)


def effect_of(kind: type[Effect]) -> Callable[[int], Processor]:
    return lambda _: processor_of(kind(**ASKED.get(kind.name, {})), 16_000)


PROCESSORS: dict[str, Registered] = {
    "StreamResampler": Registered(lambda _: StreamResampler(44_100, 16_000)),
    "StreamResampler, same rate": Registered(lambda _: StreamResampler(16_000, 16_000)),
    "StreamHighPass": Registered(lambda _: StreamHighPass(), channels=(1,)),
    "EnvelopeMatcher": Registered(lambda n: EnvelopeMatcher(np.linspace(0.1, 1, 7), n, 1001, 0.25), channels=(1,)),
    "EnvelopeMatcher, channels": Registered(
        lambda n: EnvelopeMatcher(np.linspace([0.1, 0.5], [1, 0], 7), n, 1001, 0.75), channels=(2,)
    ),
    "Widened": Registered(lambda _: Widened(WIDE, (0.5, -0.5), 44_100), channels=(1,)),
    "MixDown": Registered(lambda _: MixDown(1000)),
    "ExactLength": Registered(lambda _: ExactLength(10_000)),
    "Chain": Registered(
        lambda _: Chain(StreamResampler(48_000, 16_000), MixDown(1000), StreamHighPass(), ExactLength(9_999))
    ),
    "Chain, empty": Registered(lambda _: Chain()),
    **{f"Framed, {name}": Registered(effect_of(kind)) for name, kind in EFFECTS.items()},
}
CASES = [(name, channels) for name, registered in PROCESSORS.items() for channels in registered.channels]


def run(processor: Processor, blocks: list[Samples]) -> Samples:
    return np.concatenate([*(processor.push(block) for block in blocks), processor.flush()])


def noise(samples: int, channels: int) -> Samples:
    shape = (samples,) if channels == 1 else (samples, channels)
    return (0.3 * np.random.default_rng(5).standard_normal(shape)).astype(np.float32)


def test_every_processor_is_registered() -> None:
    names = {name.split(",")[0] for name in PROCESSORS}
    assert names == {kind.__name__ for kind in Processor.__subclasses__()}
    assert set(EFFECTS) <= {name.partition(", ")[2] for name in PROCESSORS}


@pytest.mark.parametrize(("name", "channels"), CASES)
@settings(max_examples=25, deadline=None)
@given(samples=st.integers(0, 30_000), sizes=st.lists(st.integers(0, 9_000), max_size=12))
def test_any_split_gives_the_same_samples(name: str, channels: int, samples: int, sizes: list[int]) -> None:
    x = noise(samples, channels)
    borders = np.cumsum(sizes, dtype=int)
    whole = run(PROCESSORS[name].make(samples), [x])
    pieces = run(PROCESSORS[name].make(samples), np.split(x, borders[borders < samples]))
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(pieces, whole)


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_stream_is_over_after_flush(name: str) -> None:
    processor = PROCESSORS[name].make(0)
    assert len(processor.flush()) == (10_000 if name == "ExactLength" else 9_999 if name == "Chain" else 0)
    with pytest.raises(ValueError, match="flushed"):
        processor.push(noise(4, 1))
    with pytest.raises(ValueError, match="flushed"):
        processor.flush()


def test_channels_are_resampled_each_by_itself() -> None:
    x = noise(20_000, 2)
    both = run(StreamResampler(44_100, 16_000), [x])
    for channel in (0, 1):
        np.testing.assert_array_equal(both[:, channel], run(StreamResampler(44_100, 16_000), [x[:, channel]]))


def test_mix_down_averages_without_overflow() -> None:
    np.testing.assert_array_equal(mix_down(np.array([[3e38, 3e38], [1, -1]], dtype=np.float32)), np.float32([3e38, 0]))


def test_exact_length_cuts_and_pads() -> None:
    np.testing.assert_array_equal(run(ExactLength(3), [np.float32([1, 2]), np.float32([3, 4])]), [1, 2, 3])
    np.testing.assert_array_equal(run(ExactLength(3), [np.float32([1])]), [1, 0, 0])
