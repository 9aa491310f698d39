"""Many recordings together: each comes out as if it were alone, whatever its companions, their order or the budget."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from menura.audio.encode import AudioWriter, SampleSpool
from menura.errors import EncodeError, ResourceError
from menura.loading.loader import VoiceModels
from menura.pipeline.engine import Done, Engine, Failed, run_batch
from menura.pipeline.output import FileSink
from menura.pipeline.recording import FileRecording
from menura.types import FileResult, Progress, State
from support.tiny import FakeEncoder, FakeF0, TinyNetworks, tiny_models, tiny_request

MODELS = tiny_models()
LENGTHS = (1, 9_000, 16_000, 16_000 + 31, 30_000, 24 * 16_000)
"""Samples at 16 kHz; the last one takes two segments."""


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("menura-")]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two of each length, all different."""
    folder = tmp_path_factory.mktemp("recordings")
    paths = []
    for number, length in enumerate(LENGTHS * 2):
        rng = np.random.default_rng(number)
        t = np.arange(length) / 16_000
        loud = 0.25 * (1 + np.sin(2 * np.pi * 0.31 * t + number)) * (np.sin(2 * np.pi * 1.3 * t) > -0.6)
        samples = loud * (0.7 * np.sin(2 * np.pi * (150 + number) * t) + 0.3 * rng.standard_normal(length))
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], samples, 16_000, "FLOAT")
    return paths


def convert(
    sources: list[Path],
    folder: Path,
    frame_budget: int = 1200,
    models: VoiceModels = MODELS,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_result: Callable[[int, FileResult], None] = lambda _number, _result: None,
) -> list[Done | Failed]:
    items = [(FileRecording(source), FileSink(folder / f"{number}.wav")) for number, source in enumerate(sources)]
    return run_batch(
        TinyNetworks(models),
        items,
        tiny_request(),
        frame_budget=frame_budget,
        on_progress=on_progress,
        on_result=on_result,
    )


@pytest.fixture(scope="module")
def alone(recordings: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[np.ndarray]:
    """What each recording gives by itself."""
    sounds = []
    for number, path in enumerate(recordings):
        folder = tmp_path_factory.mktemp(f"alone{number}")
        (outcome,) = convert([path], folder)
        assert outcome.result.state is State.DONE
        sounds.append(soundfile.read(folder / "0.wav", dtype="float32")[0])
    return sounds


@settings(max_examples=12, deadline=None)
@given(
    order=st.lists(st.integers(0, 2 * len(LENGTHS) - 1), min_size=1, max_size=8),
    frame_budget=st.sampled_from([0, 700, 1200, 20_000]),
)
def test_companions_order_and_budget_do_not_matter(
    recordings: list[Path],
    alone: list[np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    frame_budget: int,
) -> None:
    folder = tmp_path_factory.mktemp("together")
    told: list[int] = []
    outcomes = convert(
        [recordings[n] for n in order], folder, frame_budget, on_result=lambda number, _: told.append(number)
    )
    assert [outcome.result.input for outcome in outcomes] == [str(recordings[n]) for n in order]
    assert sorted(told) == list(range(len(order)))
    for place, n in enumerate(order):
        result = outcomes[place].result
        assert (result.state, result.output) == (State.DONE, folder / f"{place}.wav")
        assert result.output_samples == len(alone[n])
        np.testing.assert_allclose(soundfile.read(result.output, dtype="float32")[0], alone[n], atol=1e-4)
    shutil.rmtree(folder)


class Unhurried(FakeEncoder):
    """Takes its time, so that the next recordings are prepared meanwhile, as beside real networks."""

    def encode(self, *given: Any) -> Tensor:
        time.sleep(0.2)
        return super().encode(*given)


def test_short_recordings_of_equal_length_share_passes(recordings: list[Path], tmp_path: Path) -> None:
    same = [recordings[2], recordings[8], recordings[2], recordings[8]]

    def passes(frame_budget: int, sources: list[Path]) -> int:
        encoder = Unhurried()
        models = VoiceModels(synthesizer=MODELS.synthesizer, encoder=encoder, f0=FakeF0(), index=None)
        convert(sources, tmp_path, frame_budget, models)
        return len(encoder.windows)

    assert passes(0, same) == 4
    assert passes(4000, same) < 4
    assert passes(4000, [recordings[1], recordings[2], recordings[4]]) == 3


def test_a_bad_file_stops_nothing(recordings: list[Path], tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("only words " * 100)
    sources = [recordings[1], tmp_path / "text.wav", tmp_path / "missing.wav", recordings[2]]
    seen: list[Progress] = []
    outcomes = convert(sources, tmp_path / "out", on_progress=seen.append)
    assert [outcome.result.state.value for outcome in outcomes] == ["done", "failed", "failed", "done"]
    assert isinstance(outcomes[1], Failed)
    assert outcomes[2].result.error is not None
    assert outcomes[2].result.error.subject == str(tmp_path / "missing.wav")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.wav", "3.wav"]
    assert seen[0].files == 4
    assert seen[-1].audio_done_s == pytest.approx((9_000 + 16_000) / 16_000)


def test_progress_knows_what_is_left(recordings: list[Path], tmp_path: Path) -> None:
    seen: list[Progress] = []
    convert([recordings[2], recordings[4], recordings[5]], tmp_path, on_progress=seen.append)
    for before, after in itertools.pairwise(seen):
        assert after.audio_done_s >= before.audio_done_s
        assert after.files_done >= before.files_done
        assert after.wall_s > before.wall_s
    last = seen[-1]
    assert last.audio_s == pytest.approx((16_000 + 30_000 + 24 * 16_000) / 16_000)
    assert last.left_s == 0
    assert (last.files_begun, last.files) == (3, 3)


@pytest.mark.parametrize("owner", [SampleSpool, AudioWriter])
def test_an_output_that_cannot_be_kept_stops_nothing(
    recordings: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type
) -> None:
    name = "append" if owner is SampleSpool else "write"
    original, calls = getattr(owner, name), []

    def fail_once(self: object, samples: np.ndarray) -> None:
        calls.append(self)
        if len(calls) == 2:
            raise ResourceError(None, "the disk is full")
        original(self, samples)

    monkeypatch.setattr(owner, name, fail_once)
    outcomes = convert([recordings[5], recordings[2], recordings[11]], tmp_path, frame_budget=0)
    states = [outcome.result.state.value for outcome in outcomes]
    assert sorted(states) == ["done", "done", "failed"]
    (error,) = [outcome.result.error for outcome in outcomes if isinstance(outcome, Failed)]
    assert error is not None
    assert (error.kind, error.problem) == ("resource", "the disk is full")
    assert len(list(tmp_path.iterdir())) == 2


def test_an_interruption_leaves_whole_files_only(recordings: list[Path], tmp_path: Path) -> None:
    done: list[int] = []

    def interrupt(progress: Progress) -> None:
        if done and progress.files_begun == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert([recordings[2]] * 3 + [recordings[5]] * 3, tmp_path, 0, MODELS, interrupt, lambda n, _: done.append(n))
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [f"{n}.wav" for n in sorted(done)]
    assert 1 <= len(left) <= 4
    for name in left:
        assert soundfile.info(tmp_path / name).frames in (4000, 24 * 4000)


def test_what_a_hook_raises_is_raised(recordings: list[Path], tmp_path: Path) -> None:
    def fail(_number: int, _result: FileResult) -> None:
        raise ResourceError(None, "no journal")

    with pytest.raises(ResourceError, match="no journal"):
        convert([recordings[2]] * 3, tmp_path, on_result=fail)


def test_the_engine_is_not_stopped_by_what_interrupts_it(recordings: list[Path], tmp_path: Path) -> None:
    """Closing an engine at any step ends its threads and leaves whole files only."""
    for steps in range(6):
        folder = tmp_path / str(steps)
        done: list[int] = []
        with Engine(TinyNetworks(MODELS), on_end=lambda ticket, _, done=done: done.append(ticket.number)) as engine:
            for number, source in enumerate([recordings[2], recordings[5], recordings[1]]):
                engine.submit(FileRecording(source), tiny_request(), FileSink(folder / f"{number}.wav"))
            for _ in range(steps):
                engine.step()
        left = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
        assert left == [f"{number}.wav" for number in sorted(done)]


def test_an_output_that_would_replace_an_input_is_refused(recordings: list[Path], tmp_path: Path) -> None:
    source = tmp_path / "talk.wav"
    shutil.copy(recordings[2], source)
    (tmp_path / "link.wav").symlink_to(source)
    status = source.stat()
    for output in (source, tmp_path / "link.wav", tmp_path / "." / "talk.wav"):
        with pytest.raises(EncodeError) as caught:
            FileSink(output, keep=frozenset([(status.st_dev, status.st_ino)])).check()
        assert caught.value.subject == str(output)


@pytest.mark.parametrize("name", ["folder", "noending", "talk.xyz"])
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    recordings: list[Path], tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    encoder = FakeEncoder()
    models = VoiceModels(synthesizer=MODELS.synthesizer, encoder=encoder, f0=FakeF0(), index=None)
    item = (FileRecording(recordings[2]), FileSink(tmp_path / name))
    (end,) = run_batch(TinyNetworks(models), [item], tiny_request())
    assert isinstance(end, Failed)
    assert isinstance(end.error, EncodeError)
    assert not encoder.windows
