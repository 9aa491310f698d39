"""A long recording in parts: the same sound as undivided, whatever was done before, by whomever and in any order."""

from __future__ import annotations

import dataclasses
import errno
import pickle
import random
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from menura.audio.places import FileStamp
from menura.effects.processors import chain_of
from menura.effects.text import parsed
from menura.errors import EncodeError
from menura.f0.refined import RefinedEstimator
from menura.f0.registry import Refinement
from menura.loading.loader import VoiceModels
from menura.loading.request import Request
from menura.pipeline.conversion import Conversion
from menura.pipeline.engine import Advanced, Done, Engine, Event, Failed, Fairness, Share
from menura.pipeline.execute import Executor
from menura.pipeline.output import FileSink
from menura.pipeline.parts import Joiner, PartFiles, PartWork, Samples, Work
from menura.pipeline.plan import opened_blocks
from menura.pipeline.progress import StageClock, Worked
from menura.pipeline.recording import FileRecording
from menura.pipeline.windows import Windowing
from menura.system.files import NewFile, parts_folder
from menura.types import FileResult, FloatArray
from properties.test_engine import voice_like
from support.tiny import FakeEncoder, FakeF0, TinyNetworks, converted_alone, tiny_models, tiny_request

WINDOWING = Windowing(segment_frames=100, context_frames=100, seam_search_frames=20)


class NearestOfFew:
    """An index of three vectors."""

    def on_device(self, _rate: float) -> None:
        return None

    def retrieve(self, content: FloatArray) -> FloatArray:
        rows = np.eye(3, content.shape[1], dtype=np.float32)
        return rows[np.argmax(content[:, :3], axis=1)]


class JumpingF0(FakeF0):
    """Up to 1500 Hz, an octave too low at times, each frame by itself."""

    def estimate(self, samples: torch.Tensor) -> torch.Tensor:
        f0_hz = 5 * super().estimate(samples)
        return torch.where(f0_hz % 3 < 1, f0_hz / 2, f0_hz)


MODELS = dataclasses.replace(tiny_models(), index=NearestOfFew())  # type: ignore[arg-type]
WITHOUT_F0 = tiny_models(has_f0=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parts")


def recorded(place: Path, seconds: float, *, level: float = 1.0, silent: bool = False) -> FileRecording:
    samples = level * voice_like(round(seconds * 16_000))
    if silent:
        samples[3 * 16_000 : 11 * 16_000] = 0
    path = place / f"talk-{seconds:.3f}-{level}-{silent}.wav"
    soundfile.write(path, samples, 16_000, "FLOAT")
    return FileRecording(path)


def asked(place: Path, **options: object) -> Request:
    """A request whose files exist, so that it has an identity."""
    request = tiny_request(**options)  # type: ignore[arg-type]
    file = place / "weights"
    file.touch()
    voice = dataclasses.replace(request.voice, path=file)
    return dataclasses.replace(request, voice=voice, content_path=file)


def conversion(
    recording: FileRecording, request: Request, models: VoiceModels, folder: Path | None, length_s: float = 3.0
) -> Conversion:
    options = dataclasses.replace(request.options, part_length=length_s)
    request = dataclasses.replace(request, options=options)
    return Conversion(recording, request, models, windowing=WINDOWING, parts=folder)


@settings(max_examples=25, deadline=None)
@given(seconds=st.floats(7, 25), length_s=st.floats(1, 8), choice=st.randoms(use_true_random=False))
def test_parts_give_the_same_sound(place: Path, seconds: float, length_s: float, choice: random.Random) -> None:
    options: dict[str, object] = {
        "index_rate": choice.choice([0.0, 0.75]),
        "rms_mix_rate": choice.choice([1.0, 0.3]),
        "split_silence": choice.random() < 0.5,
        "loudness": choice.choice(["source", "voice"]),
        "sample_rate": choice.choice([None, 8000, 11_025]),
        "clean_input": choice.choice([0.0, 0.8]),
        "clean_output": choice.choice([0.0, 0.8]),
        "effects": choice.choice(["gain", "reverb, pitch-shift semitones=3, limiter", "chorus, delay seconds=2"]),
    }
    models, kind = MODELS, choice.choice(["auto", "fixed", "given", "none"])
    if kind == "auto":
        options |= {"transpose": "auto", "median_hz": 333.0}
    elif kind == "fixed":
        options |= {"transpose": 3}
    elif kind == "given":
        options |= {"f0_hz": 100 + 50 * np.sin(np.arange(2000) / 70).astype(np.float32)}
        models = dataclasses.replace(MODELS, f0=None)
    else:
        models, options["has_f0"] = WITHOUT_F0, False
    if kind != "none":
        options |= {"autotune": choice.choice([0.0, 0.7]), "autotune_scale": "major", "autotune_key": "E"}
    if kind in ("auto", "fixed") and choice.random() < 0.6:
        refinement = Refinement(repair=choice.choice(["off", "true_pitch", "fold"]), ceiling_hz=1000.0)
        refinement = dataclasses.replace(refinement, smoothing_frames=choice.randint(0, 7))
        models = dataclasses.replace(MODELS, f0=RefinedEstimator(JumpingF0(), refinement))
    level = choice.choice([1.0, 8.0, 0.01])
    recording = recorded(place, seconds, level=level, silent=choice.random() < 0.5)
    request = dataclasses.replace(asked(place, **options), shifts=choice.choice([(), (14.0, 2.0), (-9.0,)]))
    whole = conversion(recording, request, models, None)
    divided = conversion(recording, request, models, place / "parts", length_s)
    expected, sound = converted_alone(whole), converted_alone(divided)
    assert divided.parts == len(divided.plan.parts)
    assert divided.parts > 1 or seconds <= 1.5 * max(1, round(length_s)) + 1
    np.testing.assert_array_equal(sound, expected)
    assert divided.seams_s == whole.seams_s
    assert divided.semitones == whole.semitones
    assert divided.notes() == whole.notes()
    shutil.rmtree(place / "parts", ignore_errors=True)


@pytest.mark.parametrize("sample_rate", [None, 11_025])
def test_effects_come_last_at_the_output_s_rate(place: Path, sample_rate: int | None) -> None:
    recording, text = (
        recorded(place, 5.0),
        "high-pass, delay seconds=0.3 feedback=0.5, compressor threshold=-30 ratio=4",
    )
    plain = conversion(recording, asked(place, sample_rate=sample_rate), MODELS, None)
    sound, chain = converted_alone(plain), chain_of(parsed(text), plain.output_rate)
    expected = np.concatenate([chain.push(sound), chain.flush()])
    treated = converted_alone(conversion(recording, asked(place, sample_rate=sample_rate, effects=text), MODELS, None))
    assert len(treated) == len(sound)
    np.testing.assert_array_equal(treated, expected)
    assert np.abs(treated - sound).max() > 0.01


def done(work: Work) -> bool:
    """Whether a part's work was found done; else it is carried out."""
    executor, answers = Executor(TinyNetworks.device), None
    while True:
        try:
            step = work.send(answers)
        except StopIteration as end:
            return bool(end.value)
        answers = None if isinstance(step, Worked) else executor.execute(step)


@pytest.mark.parametrize("kind", ["estimated", "none"])
def test_parts_may_be_done_by_anybody_in_any_order(place: Path, kind: str) -> None:
    """Each by a worker that has only the plan and the folder; who comes last finds all of it."""
    models = MODELS if kind == "estimated" else WITHOUT_F0
    recording, folder = recorded(place, 13.0, silent=True), place / f"shared-{kind}"
    options = {"transpose": "auto", "median_hz": 200.0} if kind == "estimated" else {"has_f0": False}
    request = asked(place, split_silence=True, **options)
    first = conversion(recording, request, models, folder)
    plan = first.plan
    folder.mkdir()
    files = PartFiles(folder, first.request.parts_tag(FileStamp.of(recording.path)))
    blocks = opened_blocks(recording, plan, StageClock(), lambda: None)
    with closing(blocks), closing(Samples(files.samples, plan.extent, blocks)) as samples:
        samples.make(samples.end)

    @contextmanager
    def worker() -> Iterator[PartWork]:
        theirs = PartFiles(folder, files.tag)
        with closing(Samples(theirs.samples, plan.extent)) as samples:
            yield PartWork(
                plan=pickle.loads(pickle.dumps(plan)), request=request, models=models, files=theirs, samples=samples
            )

    for part in random.Random(1).sample(plan.parts, len(plan.parts)):
        with worker() as work:
            assert not done(work.f0(part))
    for part in random.Random(2).sample(plan.parts, len(plan.parts)):
        with worker() as work:
            assert not done(work.sound(part))
    last = conversion(recording, request, models, folder)
    sound = converted_alone(last)
    assert last.parts_found == last.parts == len(plan.parts) == 4
    np.testing.assert_array_equal(sound, converted_alone(conversion(recording, request, models, None)))


@pytest.mark.parametrize("split_silence", [False, True])
def test_parts_are_the_same_where_windows_and_segments_share_passes(place: Path, split_silence: bool) -> None:
    recording, folder = recorded(place, 17.0, silent=True), place / f"ahead-{split_silence}"
    request = asked(place, transpose="auto", median_hz=200.0, split_silence=split_silence, part_length=3.0)
    sounds = [
        converted_alone(
            Conversion(recording, request, MODELS, windowing=WINDOWING, ahead_frames=ahead_frames, parts=parts)
        )
        for ahead_frames, parts in ((0, None), (500, None), (500, folder))
    ]
    np.testing.assert_allclose(sounds[2], sounds[1], atol=1e-5)
    np.testing.assert_allclose(sounds[2], sounds[0], atol=1e-4)
    shutil.rmtree(folder)


def test_a_part_that_failed_is_begun_anew(place: Path) -> None:
    """Where memory ran out in its midst, say, and it is tried again."""
    recording, folder, request = recorded(place, 13.0), place / "failed", asked(place, part_length=3.0)
    plan = conversion(recording, request, MODELS, folder).plan
    folder.mkdir()
    files = PartFiles(folder, "tag")
    blocks = opened_blocks(recording, plan, StageClock(), lambda: None)
    with closing(blocks), closing(Samples(files.samples, plan.extent, blocks)) as samples:
        work = PartWork(plan=plan, request=request, models=MODELS, files=files, samples=samples)
        assert not any([done(work.f0(part)) for part in plan.parts])
        assert not any([done(work.sound(part)) for part in plan.parts[:2]])
        expected = (folder / "tag.sound-1").read_bytes()
        for name in ("tag.sound-1", "tag.sound-1-facts", "tag.sound-0-facts"):
            (folder / name).unlink()
        with pytest.raises(EncodeError, match="Convert the recording again"):
            next(Joiner(plan, 1, 1, files).sound(plan.parts[0]))
        assert not done(work.sound(plan.parts[0]))
        with closing(work.sound(plan.parts[1])) as steps:
            steps.send(None)
        assert not done(work.sound(plan.parts[1]))
        assert (folder / "tag.sound-1").read_bytes() == expected
    shutil.rmtree(folder)


def counted() -> tuple[VoiceModels, FakeEncoder, FakeF0]:
    encoder, f0 = FakeEncoder(), FakeF0()
    encoder.core_frames, f0.core_frames = 200, 160  # type: ignore[misc]
    return dataclasses.replace(MODELS, encoder=encoder, f0=f0), encoder, f0


def taken(job: Conversion, count: int) -> int:
    """Carry out so many steps, then stop as a process that was told to; how many there were."""
    executor, steps, answers = Executor(TinyNetworks.device), job.steps(), None
    with closing(steps):
        for number in range(count):
            try:
                step = steps.send(answers)
            except StopIteration:
                return number
            asked = None if isinstance(step, (np.ndarray, Worked)) else step
            answers = None if asked is None else executor.execute(asked)
    return count


def test_what_was_finished_is_not_done_again(place: Path) -> None:
    recording, folder, request = recorded(place, 13.0), place / "resumed", asked(place)
    models, encoder, f0 = counted()
    job = conversion(recording, request, models, folder)
    expected, steps = converted_alone(conversion(recording, request, models, None)), taken(job, 10**6)
    whole = len(encoder.windows) // 2, len(f0.windows) // 2
    shutil.rmtree(folder)
    for stop in range(1, steps, 7):
        del encoder.windows[:], f0.windows[:]
        taken(conversion(recording, request, models, folder), stop)
        begun = len(encoder.windows), len(f0.windows)
        kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*sound*") if path.suffix != ".part"}
        job = conversion(recording, request, models, folder)
        np.testing.assert_array_equal(converted_alone(job), expected)
        assert job.parts_found == len([name for name in kept if name.endswith("facts")])
        assert all((folder / name).stat().st_mtime_ns == moment for name, moment in kept.items())
        # A part's content and the windows around it at most, and the F0 windows of one part, are computed twice.
        assert len(encoder.windows) <= whole[0] + 2 + 3 + 2, (stop, begun)
        assert len(f0.windows) <= whole[1] + 2
        shutil.rmtree(folder)


def engine_run(recording: FileRecording, request: Request, output: Path, share: Share | None = None) -> list[Event]:
    events: list[Event] = []
    with Engine(TinyNetworks(MODELS)) as engine:
        engine.submit(recording, request, FileSink(output, request.options), share=share)
        while not engine.idle:
            events += engine.step()
    return events


def result_of(events: list[Event]) -> FileResult:
    assert isinstance(events[-1], Done), events[-1]
    return events[-1].result


def assert_same(one: Path, other: Path) -> None:
    """The same samples: a header may have the time."""
    np.testing.assert_array_equal(soundfile.read(one)[0], soundfile.read(other)[0])


def long_request(place: Path, **options: object) -> Request:
    return asked(place, part_length=20.0, bit_depth=32, format="wav", **options)


def test_work_counts_once_and_to_the_end(place: Path, tmp_path: Path) -> None:
    recording, request = recorded(place, 70.0), long_request(place)
    undivided = asked(place, bit_depth=32, format="wav")
    fairness = Fairness()
    share = Share(fairness)
    events = engine_run(recording, request, tmp_path / "a.wav", share)
    told = [event.audio_done_s for event in events if isinstance(event, Advanced)]
    assert told == sorted(told)
    assert told[-1] == 70
    assert len({round(seconds, 6) for seconds in told}) > 7, "F0 of windows, and sound of segments"
    assert fairness.served_s == pytest.approx(70)
    result = result_of(events)
    assert (result.parts, result.parts_resumed, len(result.seams_s)) == (4, 0, 3)
    before = result_of(engine_run(recording, undivided, tmp_path / "b.wav"))
    assert (before.parts, before.seams_s, before.notes) == (0, result.seams_s, result.notes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav"]
    assert_same(tmp_path / "a.wav", tmp_path / "b.wav")


def test_hours_are_not_joined_in_one_turn(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("menura.pipeline.parts._JOIN_SAMPLES", 400)
    request, turns = long_request(place), list[int]()
    with Engine(TinyNetworks(MODELS)) as engine:
        engine.submit(recorded(place, 70.0), request, FileSink(tmp_path / "a.wav", request.options))
        while not engine.idle:
            turns.append(sum(isinstance(event, Advanced) for event in engine.step()))
    assert max(turns) <= 3, "windows or segments of a part, and a block that was joined"
    assert sum(turns) > 100


def stopped(recording: FileRecording, request: Request, output: Path) -> int:
    """A run that is closed when it has finished some parts; how many."""
    with Engine(TinyNetworks(MODELS)) as engine:
        engine.submit(recording, request, FileSink(output, request.options))
        while len(list(parts_folder(output).glob("*.sound-*-facts"))) < 2:
            engine.step()
    return len(list(parts_folder(output).glob("*.sound-*-facts")))


def test_a_closed_engine_leaves_parts_that_the_next_takes(place: Path, tmp_path: Path) -> None:
    recording, request, output = recorded(place, 90.0), long_request(place), tmp_path / "a.wav"
    parts = stopped(recording, request, output)
    share = Share(fairness := Fairness())
    result = result_of(engine_run(recording, request, output, share))
    assert (result.parts, result.parts_resumed) == (5, parts)
    assert fairness.served_s < 90 * 0.8 * (1 - parts / 5), "what was found is no service"
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_a_full_disk_keeps_what_is_finished(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording, request, output = recorded(place, 90.0), long_request(place), tmp_path / "a.wav"
    written = NewFile.publish

    def full(file: NewFile) -> None:
        if file.target.name.endswith("sound-2"):
            raise OSError(errno.ENOSPC, "No space left on device")
        written(file)

    with monkeypatch.context() as patched:
        patched.setattr(NewFile, "publish", full)
        (*_, failed) = engine_run(recording, request, output)
    assert isinstance(failed, Failed)
    assert "Free space" in str(failed.error)
    result = result_of(engine_run(recording, request, output))
    assert (result.parts, result.parts_resumed) == (5, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("change", ["options", "input", "length", "undivided", "precision"])
def test_parts_of_another_request_or_input_are_not_taken(place: Path, tmp_path: Path, change: str) -> None:
    recording, request, output = recorded(place, 90.0), long_request(place), tmp_path / "a.wav"
    stopped(recording, request, output)
    if change == "options":
        request = long_request(place, seed=1)
    elif change == "input":
        recording = FileRecording(tmp_path / "copy.wav")
        shutil.copyfile(recorded(place, 90.0).path, recording.path)
    elif change == "precision":
        request = dataclasses.replace(request, precision="exact")
    else:
        length = 40.0 if change == "length" else 300.0
        request = dataclasses.replace(request, options=dataclasses.replace(request.options, part_length=length))
    result = result_of(engine_run(recording, request, output))
    assert result.parts_resumed == 0
    assert not parts_folder(output).exists()


def test_two_at_once_give_the_same_and_leave_nothing(place: Path, tmp_path: Path) -> None:
    recording, request, output = recorded(place, 70.0), long_request(place), tmp_path / "a.wav"
    with Engine(TinyNetworks(MODELS)) as one, Engine(TinyNetworks(MODELS)) as other:
        events: list[Event] = []
        for engine in (one, other):
            engine.submit(recording, request, FileSink(output, request.options))
        while not (one.idle and other.idle):
            events += [*([] if one.idle else one.step()), *([] if other.idle else other.step())]
    results = [event.result for event in events if isinstance(event, Done)]
    assert sorted(result.parts for result in results) == [0, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    engine_run(recording, request, tmp_path / "b.wav")
    assert_same(output, tmp_path / "b.wav")


@pytest.mark.parametrize("name", ["samples", "facts", "f0-1", "sound-0", "sound-0-facts"])
@pytest.mark.parametrize("cut", [0, 0.5])
def test_what_is_damaged_is_made_again(place: Path, tmp_path: Path, name: str, cut: float) -> None:
    recording, request, output = recorded(place, 90.0), long_request(place), tmp_path / "a.wav"
    stopped(recording, request, output)
    (damaged,) = parts_folder(output).glob(f"*.{name}")
    damaged.write_bytes(damaged.read_bytes()[: int(cut * damaged.stat().st_size)])
    engine_run(recording, request, output)
    engine_run(recording, request, tmp_path / "b.wav")
    assert_same(output, tmp_path / "b.wav")
