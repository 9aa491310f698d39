"""Carries out units of recordings whose parts are shared, with the networks of one worker."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from menura.jobs.parts import Finished, Unit
from menura.loading.loader import Loader
from menura.loading.request import Request
from menura.pipeline.channels import Steps, in_step
from menura.pipeline.conversion import Conversion
from menura.pipeline.engine import executor_of, run_batch
from menura.pipeline.output import FileSink
from menura.pipeline.parts import PartFiles, PartWork
from menura.pipeline.progress import Worked
from menura.pipeline.recording import FileRecording
from menura.system.device import flushed_denormals
from menura.system.files import parts_folder
from menura.system.gpu import lasting_errors
from menura.system.interrupts import check_interrupts
from menura.types import FileResult, FloatArray


class PartWorker:
    """Does units one after the other; a part after the one before it is cheaper, as networks' windows overlap."""

    def __init__(self, networks: Loader, request: Request) -> None:
        self._networks, self._request = networks, request
        self._executor, self._ahead_frames = executor_of(networks.device)
        self._open, self._work = ExitStack(), dict[str, tuple[Conversion, tuple[PartWork, ...]]]()
        """The recording that it has part of, by its tag, with the work on each signal."""

    def do(self, unit: Unit, on_worked: Callable[[Worked], None]) -> Finished | FileResult:
        """Raises MenuraError, OSError or MemoryError: the recording can't be converted."""
        if unit.step == "join":
            return self._join(unit)
        with lasting_errors(), flushed_denormals():
            if unit.step == "survey":
                return self._survey(unit)
            conversion, works = self._work_for(unit)
            part = conversion.plan.parts[unit.number]
            lanes = [work.f0(part) if unit.step == "f0" else work.sound(part) for work in works]
            found = self._done(in_step(lanes, 0 if self._ahead_frames else 1), on_worked)
            return Finished(found=found, stages=conversion.clock.taken())

    def close(self) -> None:
        """Open no file any more."""
        self._work.clear()
        self._open.close()

    def _survey(self, unit: Unit) -> Finished:
        """Read a recording once, and once more for its samples."""
        conversion = self._conversion(unit)
        with conversion.claimed() as files:
            if files is not None:
                with conversion.work(files) as works:
                    for work in works:
                        work.samples.make(work.samples.end)
        stages = conversion.clock.taken()
        return Finished(parts=conversion.parts, audio_s=conversion.facts.audio_s, stages=stages)

    def _join(self, unit: Unit) -> FileResult:
        """An ordinary conversion, which finds all parts done."""
        self.close()
        request = self._request.with_parts_of(unit.part_length)
        (end,) = run_batch(self._networks, [self._files(unit)], request)
        return end.result

    def _work_for(self, unit: Unit) -> tuple[Conversion, tuple[PartWork, ...]]:
        if unit.tag not in self._work:
            self.close()
            conversion = self._conversion(unit)
            assert conversion.files is not None
            self._work[unit.tag] = conversion, self._open.enter_context(conversion.work(conversion.files))
        return self._work[unit.tag]

    def _conversion(self, unit: Unit) -> Conversion:
        recording, sink = self._files(unit)
        sink.check()
        return Conversion(
            recording,
            self._request.with_parts_of(unit.part_length),
            self._networks.load(self._request),
            format=sink.format,
            check=check_interrupts,
            ahead_frames=self._ahead_frames,
            parts=sink.parts,
        )

    def _files(self, unit: Unit) -> tuple[FileRecording, FileSink]:
        source, output = unit.item.source, unit.item.output
        assert isinstance(source, Path)  # what is remote isn't divided
        assert isinstance(output, Path)
        sink = FileSink(output, self._request.options, source=source)
        sink.parts = PartFiles(parts_folder(output), unit.tag)
        return FileRecording(source), sink

    def _done(self, work: Steps, on_worked: Callable[[Worked], None]) -> bool:
        """Carry out a unit; whether it was found done."""
        answers: list[FloatArray] | None = None
        with closing(work):
            while True:
                check_interrupts()
                try:
                    step = work.send(answers)
                except StopIteration as end:
                    return bool(end.value)
                answers = None
                if isinstance(step, Worked):
                    on_worked(step)
                elif isinstance(step, tuple):
                    answers = self._executor.execute(step)
