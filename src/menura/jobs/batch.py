"""A batch into one folder that goes on where an earlier run of it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from menura.jobs.journal import FileStamp, Journal
from menura.jobs.processes import process_count
from menura.loading.request import Request
from menura.options import BatchOptions, EngineOptions
from menura.types import FileResult, Place, Progress, RunReport


def convert_resumably(
    pairs: Sequence[tuple[Place, Place]],
    request: Request,
    engine: EngineOptions,
    *,
    folder: Place,
    batch: BatchOptions,
    on_progress: Callable[[Progress], None] | None = None,
) -> RunReport:
    """Convert many files into a folder, those that an earlier run finished excepted.

    Args:
        pairs: (input, output), all outputs below the folder.
        request: what is asked for, the same for all.
        engine: what the process runs with. It is started only if something is missing.
        folder: the output folder; its journal is kept there.
        batch: `force` converts all, finished or not; who shares the missing ones.
        on_progress: called after every block with what is done of the missing ones.

    Raises:
        MenuraError: the request as a whole can't be carried out, or the folder can't be written.
    """
    identity = request.identity
    stamps = [FileStamp.of(source) for source, _ in pairs]
    with Journal(folder, [output for _, output in pairs]) as journal:
        results: dict[int, FileResult] = {}
        for number, (source, output) in enumerate(pairs):
            done = None if batch.force else journal.finished(stamps[number], output, identity)
            if done is not None:
                results[number] = dataclasses.replace(done, input=str(source))
        missing = [number for number in range(len(pairs)) if number not in results]
        if not missing:
            return RunReport(files=tuple(results.values()), wall_s=0.0, peak_memory_mb=0.0, model_loads={})
        report = convert_pairs(
            [pairs[number] for number in missing],
            request,
            engine,
            batch,
            on_progress=on_progress,
            on_result=lambda place, result: journal.record(stamps[missing[place]], result, identity),
        )
    results |= dict(zip(missing, report.files, strict=True))
    return dataclasses.replace(report, files=tuple(results[number] for number in range(len(pairs))))


def convert_pairs(
    pairs: Sequence[tuple[Place, Place]],
    request: Request,
    engine: EngineOptions,
    batch: BatchOptions,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_result: Callable[[int, FileResult], None] | None = None,
) -> RunReport:
    """Convert many files where the batch's options say: in this process, in several, or on a cluster.

    Args:
        pairs: (input, output).
        request: what is asked for, the same for all.
        engine: what each process runs with.
        batch: `workers` and `ray` decide; without them `process_count` does.
        on_progress: called after every block.
        on_result: called with an item's place and result when its file is complete.

    Raises:
        MenuraError: the request as a whole can't be carried out.
    """
    if batch.ray is not None:
        from menura.jobs.ray import convert_on_cluster

        return convert_on_cluster(
            pairs,
            request,
            engine,
            address=batch.ray,
            workers=batch.workers,
            on_progress=on_progress,
            on_result=on_result,
        )
    workers = process_count([source for source, _ in pairs], engine, batch, builtin=request.voice.builtin)
    local = [(source, output) for source, output in pairs if isinstance(source, Path) and isinstance(output, Path)]
    if workers > 1 or len(local) < len(pairs):  # what is remote is fetched by workers
        from menura.jobs.processes import convert_with_workers

        return convert_with_workers(
            pairs, request, engine, workers=workers, on_progress=on_progress, on_result=on_result
        )
    from menura.converter import Converter

    converter = Converter(engine)
    converter.preload(request)
    return converter.convert_files(local, request, on_progress=on_progress, on_result=on_result)
