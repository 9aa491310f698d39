"""A long recording in parts: what each needs and leaves is in files, so that any process can do any part at any time.

A part's work depends on the whole recording only by its `Plan` and by the F0 of all parts: windows, noise and seams are
functions of absolute positions, and the phase is one sum over F0. So the F0 of every part comes first, then its sound;
neighbours overlap at the seam between them, and are joined as segments are.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from menura.content.registry import ContentEncoder
from menura.errors import EncodeError
from menura.loading.loader import VoiceModels
from menura.loading.request import Request
from menura.pipeline.analysis import PITCH_FRAMES, Analysis, PitchShift, estimated_f0, known_f0, sounds
from menura.pipeline.execute import NetworkRequest
from menura.pipeline.plan import Plan, analysis_of
from menura.pipeline.progress import F0_SHARE, StageClock, Worked
from menura.pipeline.recording import BLOCK_S, RecordingFacts, Signal, Silences
from menura.pipeline.synthesis import Assembler, Synthesis, seam_after
from menura.pipeline.windows import Extent, Part, Window
from menura.system.files import CLAIM, NewFile, replacing, writing
from menura.types import FloatArray
from menura.units import ANALYSIS_RATE_HZ, FRAME_RATE_HZ, FRAME_SAMPLES

_JOIN_SAMPLES = 1 << 18
_SAMPLE_BYTES = 4
_FACTS_ARRAYS = ("source_rms", "powers")

Work: TypeAlias = Generator["tuple[NetworkRequest, ...] | Worked", "list[FloatArray] | None", bool]
"""Yields requests (send back their answers) and progress; returns whether all of it was found done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contour:
    """A part's F0, estimated and not yet transposed, and where it ends."""

    f0_hz: FloatArray
    """(frames,) of the windows that are the part's; empty where F0 isn't estimated."""
    end_frames: int
    """The seam to the next part; of the last one the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sound:
    """A part's sound, which reaches over its seams by what neighbours share."""

    path: Path
    samples: int
    start_frames: int
    """The seam at which it begins, or 0."""
    seams_s: tuple[float, ...]
    """Of segments within it."""


class PartFiles:
    """The files of one recording and request in a folder; their `tag` says which, so that none is taken for another."""

    def __init__(self, folder: Path, tag: str, signal: int = 0) -> None:
        self.folder, self.tag = folder, tag
        self._prefix = f"{tag}.{signal}." if signal else f"{tag}."

    def of(self, signal: int) -> PartFiles:
        """Those of another signal of the recording, by its number."""
        return PartFiles(self.folder, self.tag, signal)

    @property
    def samples(self) -> Path:
        """Of `Samples`."""
        return self._path("samples")

    def tidy(self) -> None:
        """Remove what isn't these files', and what was left unfinished: for one who has the folder for itself."""
        with writing(self.folder, EncodeError):
            for path in self.folder.iterdir():
                if path.name != CLAIM and not path.name.startswith(f"{self.tag}."):
                    path.unlink(missing_ok=True)

    def facts(self, encoder: ContentEncoder) -> RecordingFacts | None:
        """What the first pass found, if it was kept; statistics are of the encoder's kind."""
        found = _arrays(self._path("facts"))
        with suppress(KeyError, TypeError, ValueError):
            fields = json.loads(str(found.pop("facts")))
            silences = Silences(spans=tuple(map(tuple, found.pop("silences").tolist())), frames=fields.pop("frames"))
            notes = tuple(fields.pop("notes"))
            fields |= {name: found.pop(name) for name in _FACTS_ARRAYS}
            statistics: Any = encoder.collector().finish()
            known = {name: value if value.ndim else value.item() for name, value in found.items()}
            return RecordingFacts(
                statistics=dataclasses.replace(statistics, **known),
                silences=silences,
                notes=notes,
                signal=Signal(**fields.pop("signal")),
                **fields,
            )
        return None

    def keep_facts(self, facts: RecordingFacts) -> None:
        fields: dict[str, Any] = {each.name: getattr(facts, each.name) for each in dataclasses.fields(facts)}
        statistics, silences = fields.pop("statistics"), fields.pop("silences")
        fields |= {"frames": silences.frames, "signal": dataclasses.asdict(facts.signal)}
        text = json.dumps({key: fields[key] for key in fields if key not in _FACTS_ARRAYS})
        _keep(
            self._path("facts"),
            facts=np.array(text),
            silences=np.array(silences.spans, dtype=np.int64).reshape(-1, 2),
            **{name: fields[name] for name in _FACTS_ARRAYS},
            **{name: np.asarray(value) for name, value in dataclasses.asdict(statistics).items()},
        )

    def contour(self, part: Part) -> Contour | None:
        found = _arrays(self._path(f"f0-{part.number}"))
        with suppress(KeyError):
            return Contour(f0_hz=found["f0_hz"], end_frames=int(found["end_frames"]))
        return None

    def keep_contour(self, part: Part, contour: Contour) -> None:
        _keep(self._path(f"f0-{part.number}"), f0_hz=contour.f0_hz, end_frames=np.array(contour.end_frames))

    def sound(self, part: Part) -> Sound | None:
        """A part's sound, if it is complete."""
        path, found = self._path(f"sound-{part.number}"), _arrays(self._path(f"sound-{part.number}-facts"))
        with suppress(KeyError, OSError):
            samples, start = int(found["samples"]), int(found["start_frames"])
            if path.stat().st_size == samples * _SAMPLE_BYTES:
                return Sound(path=path, samples=samples, start_frames=start, seams_s=tuple(found["seams_s"].tolist()))
        return None

    @contextmanager
    def new_sound(self, part: Part, start_frames: int, seams_s: list[float]) -> Iterator[NewFile]:
        """A file for (samples,) float32; it is complete at the block's end, as are the seams."""
        path = self._path(f"sound-{part.number}")
        with writing(path, EncodeError):
            file = NewFile(path)
        try:
            yield file
            with writing(path, EncodeError):
                samples = file.file.tell() // _SAMPLE_BYTES
                file.publish()
        finally:
            file.discard()
        facts = {"samples": np.array(samples), "start_frames": np.array(start_frames), "seams_s": np.array(seams_s)}
        _keep(self._path(f"sound-{part.number}-facts"), **facts)

    def _path(self, name: str) -> Path:
        return self.folder / (self._prefix + name)


def _keep(path: Path, **arrays: npt.NDArray[Any]) -> None:
    with replacing(path, EncodeError) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """What `_keep` wrote; nothing if that isn't there, or damaged."""
    with suppress(OSError, ValueError, EOFError, BadZipFile), path.open("rb") as file:
        return dict(np.load(file, allow_pickle=False))
    return {}


class Samples:
    """All 16 kHz samples of a recording's extent in a file, read anywhere.

    With `blocks`, of the whole extent, a file that isn't there is made as far as it is read; it gets its name when it
    is complete. Call `close`.
    """

    def __init__(self, path: Path, extent: Extent, blocks: Iterator[FloatArray] | None = None) -> None:
        self.path, self._blocks = path, blocks
        """Where they are now."""
        self._start = -extent.left_samples
        self.end = self._start + extent.left_samples + extent.length_samples + extent.right_samples
        """Absolute, as all places are."""
        self._new: NewFile | None = None
        self._made_end = self.end
        with writing(path, EncodeError):
            if blocks is None or _size(path) == (self.end - self._start) * _SAMPLE_BYTES:
                self._file: BinaryIO = path.open("rb")
            else:
                self._new, self._made_end = NewFile(path), self._start
                self.path, self._file = self._new.path, self._new.file

    def read(self, start: int, end: int) -> FloatArray:
        """Samples [start, end) of the extent. Raises as `make`, and EncodeError where they aren't there."""
        self.make(end)
        self._file.seek((start - self._start) * _SAMPLE_BYTES)
        samples = np.frombuffer(self._file.read((end - start) * _SAMPLE_BYTES), dtype=np.float32)
        if len(samples) != end - start:
            raise EncodeError(self.path, "is incomplete", "Convert the recording again")
        return samples

    def make(self, end: int) -> None:
        """Have all before a place. Raises what the blocks do, and EncodeError where they can't be kept."""
        while self._made_end < end:
            assert self._blocks is not None
            self._append(next(self._blocks)[: self.end - self._made_end])

    def blocks(self, start: int) -> Iterator[FloatArray]:
        """From a place to the end."""
        step = BLOCK_S * ANALYSIS_RATE_HZ
        for at in range(start, self.end, step):
            yield self.read(at, min(at + step, self.end))

    def close(self) -> None:
        with suppress(OSError):  # of a full disk
            self._file.close()
        if self._new is not None:
            self._new.discard()

    def _append(self, block: FloatArray) -> None:
        assert self._new is not None
        with writing(self.path, EncodeError):
            self._file.seek((self._made_end - self._start) * _SAMPLE_BYTES)
            self._file.write(np.ascontiguousarray(block).data)
            self._file.flush()  # others may read it
            self._made_end += len(block)
            if self._made_end == self.end:
                self._new.publish()
                self.path, self._new = self._new.target, None
                self._file = self.path.open("rb")


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


@dataclass(kw_only=True, eq=False)
class PartWork:
    """What is to be computed of a part, for anybody with these; each result is kept in a file, and found there."""

    plan: Plan
    request: Request
    models: VoiceModels
    files: PartFiles
    samples: Samples
    f0_samples: Samples | None = None  # of the signal whose F0 it has
    ahead_frames: int = 0
    """So much is asked for together; 0: one window or segment at a time."""
    clock: StageClock = field(default_factory=StageClock)
    _contours: dict[int, Contour] = field(default_factory=dict)
    _under_way: tuple[int, Synthesis] | None = None
    """The part that may follow without beginning anew, and its synthesis."""

    def f0(self, part: Part) -> Work:
        """Estimate a part's F0, and find the seam at its end."""
        share = self.plan.facts.audio_s * self._f0_share / self.plan.extent.frames
        found = self._contour(part)
        if found is not None:
            yield Worked(share * len(found.f0_hz), found=True)
            return True
        windows, estimated = self._f0_windows(part), [np.zeros(0, dtype=np.float32)]
        together = 1 if self.models.f0 is None else max(1, self.ahead_frames // self.models.f0.core_frames)
        while group := list(islice(windows, together)):
            estimated.append((yield from self._estimated(group)))
            yield Worked(share * len(estimated[-1]))
        contour = Contour(f0_hz=np.concatenate(estimated), end_frames=self._seam(part))
        self.files.keep_contour(part, contour)
        self._contours[part.number] = contour
        return False

    def sound(self, part: Part) -> Work:
        """Make a part's sound; the F0 of all must be there, or without an estimator this one's and the one's before."""
        share = self.plan.facts.audio_s * (1 - self._f0_share) / self.plan.output_frames
        under_way, self._under_way = self._under_way, None  # whatever becomes of this one
        if self.files.sound(part) is not None:
            yield Worked(share * (part.end_frames - part.start_frames), found=True)
            return True
        synthesis = under_way[1] if under_way and under_way[0] == part.number else self._begun(part)
        before = len(synthesis.seams_s)
        seams_s: list[float] = []
        last = part.end_frames >= self.plan.output_frames
        border = None if last else (part.end_frames, self._known(part).end_frames)
        cells = iter(part.cells)
        with self.files.new_sound(part, self._start(part), seams_s) as file:
            for segments in synthesis.segments(part.cells, self.plan.output_frames, border):
                for samples in (yield from segments):
                    with writing(file.path, EncodeError):
                        file.file.write(np.ascontiguousarray(samples).data)
                    start, end = next(cells)
                    yield Worked(share * (end - start))
            seams_s += synthesis.seams_s[before:]
        self._under_way = part.number + 1, synthesis
        return False

    def pitch(self) -> PitchShift:
        """By how much pitch is moved; all F0 must be there where it is estimated."""
        return self._analysis(self.plan.parts[0]).pitch

    @property
    def _f0_share(self) -> float:
        return F0_SHARE if self.models.f0 is not None else 0.0

    def _f0_windows(self, part: Part) -> Iterator[Window]:
        """Those that begin in the part; the first and the last part have what is reflected, too."""
        if (network := self.models.f0) is None:
            return
        last = len(self.plan.parts) - 1
        for window in self.plan.windowing.windows(self.plan.extent, network.core_frames, network.context_frames):
            begun = part.number == 0 or window.start_frames >= part.start_frames
            if begun and (part.number == last or window.start_frames < part.end_frames):
                yield window

    def _estimated(
        self, windows: list[Window]
    ) -> Generator[tuple[NetworkRequest, ...], list[FloatArray] | None, FloatArray]:
        """F0 of neighbouring windows; 0 in those without effect, but for where a pitch may be looked for."""
        assert self.models.f0 is not None
        plan, ahead = self.plan, PITCH_FRAMES + self.ahead_frames if self.request.transpose == "auto" else -1
        wanted = [w for w in windows if w.start_frames < ahead or sounds(w, plan.windowing, plan.facts.silences)]
        read = (self.f0_samples or self.samples).read
        return (yield from estimated_f0(self.models.f0, windows, wanted, plan.extent, read, self.clock))

    def _seam(self, part: Part) -> int:
        if part.end_frames >= self.plan.output_frames:
            return part.end_frames
        reach = self.plan.windowing.seam_search_frames
        with self.clock.measure("assemble"):
            return seam_after(
                part.cells[-1], reach, lambda a, b: self.samples.read(a * FRAME_SAMPLES, b * FRAME_SAMPLES)
            )

    def _contour(self, part: Part) -> Contour | None:
        if part.number not in self._contours:
            contour = self.files.contour(part)
            frames = sum(window.end_frames - window.start_frames for window in self._f0_windows(part))
            if contour is None or len(contour.f0_hz) != frames:
                return None
            self._contours[part.number] = contour
        return self._contours[part.number]

    def _known(self, part: Part) -> Contour:
        if (contour := self._contour(part)) is None:
            raise LookupError(f"F0 of part {part.number}")
        return contour

    def _start(self, part: Part) -> int:
        return self._known(self.plan.parts[part.number - 1]).end_frames if part.number else 0

    def _begun(self, part: Part) -> Synthesis:
        analysis, options = self._analysis(part), self.request.options
        return Synthesis(self.models.synthesizer, analysis, options, start_frames=self._start(part))

    def _analysis(self, part: Part) -> Analysis:
        """An analysis that begins with a part, its pitch settled."""
        plan, encoder = self.plan, self.models.encoder
        begin = plan.windowing.context(part.cells[0], plan.extent)[0]
        windows = plan.windowing.windows(plan.extent, encoder.core_frames, encoder.context_frames)
        first = next(window for window in windows if window.end_frames > begin)
        blocks = self.samples.blocks(first.from_frames * FRAME_SAMPLES)
        known = None
        if self.models.f0 is not None:
            curve = np.concatenate([self._known(each).f0_hz for each in plan.parts])
            known = known_f0(curve, plan.extent.left_frames)
        analysis = analysis_of(
            plan,
            self.request,
            self.models,
            blocks,
            self.clock,
            ahead_frames=self.ahead_frames,
            first=first,
            known_f0=known,
        )
        for _ in analysis.find_pitch():
            raise AssertionError("F0 is known")
        return analysis


class Joiner:
    """Joins the sounds of all parts, in order, as segments are joined."""

    def __init__(self, plan: Plan, sample_rate: int, frame_samples: int, files: PartFiles) -> None:
        self._plan, self._rate, self._files = plan, sample_rate, files
        self._overlap = 2 * plan.windowing.overlap_frames * frame_samples
        self._assembler = Assembler(plan.windowing.crossfade_frames * frame_samples, sample_rate)
        self.seams_s: list[float] = []
        """Where segments were joined so far, in parts and between them."""

    def sound(self, part: Part) -> Iterator[FloatArray]:
        """What a part's sound makes final, at the voice's rate."""
        if (sound := self._files.sound(part)) is None:
            raise EncodeError(self._files.folder, "lacks a part's sound", "Convert the recording again")
        last = part.end_frames >= self._plan.output_frames
        with sound.path.open("rb") as file:
            left = sound.samples
            while left:
                count = left if left < 2 * _JOIN_SAMPLES else _JOIN_SAMPLES
                left -= count
                samples = np.fromfile(file, dtype=np.float32, count=count)
                yield self._assembler.push(samples, 0 if left or last else self._overlap)
                if (shift := self._assembler.shift_samples) is not None:
                    self.seams_s.append(sound.start_frames / FRAME_RATE_HZ + shift / self._rate)
        self.seams_s += sound.seams_s
