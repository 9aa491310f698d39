"""Batches: many recordings, into a folder where a run resumes an earlier one. Loads no torch by itself."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from threading import Event

from menura.audio.places import FileStamp, place_of
from menura.errors import CancelledError, DecodeError
from menura.jobs.journal import Journal
from menura.jobs.plan import find_inputs, plan_outputs
from menura.jobs.processes import Processes, process_count
from menura.jobs.scheduler import Hooks, share
from menura.loading import Request, resolve
from menura.options import BatchOptions, ConversionOptions, EngineOptions
from menura.system.files import remove_unfinished
from menura.types import FileResult, FloatArray, Item, Place, Progress, RunReport
from menura.units import ANALYSIS_RATE_HZ
from menura.voices.assets import home_folder

_MOST_RECORDINGS, _SECONDS = 16, 8


def convert_folder(
    source: Path | str | Sequence[Path | str],
    output: Path | str,
    options: ConversionOptions | None = None,
    *,
    batch: BatchOptions | None = None,
    engine: EngineOptions | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_result: Callable[[FileResult], None] | None = None,
    cancel: Event | None = None,
) -> RunReport:
    """Convert a folder of recordings into another folder, with its tree and names.

    Files that an earlier call with the same options finished, and that haven't changed, aren't converted again: a run
    that was stopped in any way resumes. A file that fails stops no other.

    Args:
        source: a folder, a file, a pattern such as `talks/*.mp3`, a URL of these, or several of them.
        output: the folder; made if it isn't there.
        options: voice and sound, the same for all.
        batch: which files are taken, and how many processes share them.
        engine: device, threads and data folder of each process.
        on_progress: called in this thread when a file is begun and after every block.
        on_result: called with each result as soon as its file is complete, from any thread but not twice at once; not
            with those of earlier runs.
        cancel: when it is set, the run stops and CancelledError is raised; what is finished stays.

    Returns:
        One result for each recording, those of earlier runs (`resumed`) among them.

    Raises:
        MenuraError: nothing can be converted: no such voice, no recordings, a folder that can't be written.
        CancelledError: the run was cancelled.
    """
    options, batch, engine = options or ConversionOptions(), batch or BatchOptions(), engine or EngineOptions()
    sources = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    folder = f"{os.fspath(output).rstrip('/')}/"
    inputs = find_inputs([os.fspath(each) for each in sources], folder, batch)
    items = plan_outputs(inputs, folder, options)
    hooks = Hooks(
        on_progress=on_progress or (lambda _: None),
        on_result=(lambda _, result: on_result(result)) if on_result else (lambda *_: None),
        cancel=cancel,
    )
    request = resolve(options, home_folder(engine.home))
    report = convert_items(items, request, folder=place_of(folder), batch=batch, engine=engine, hooks=hooks)
    return dataclasses.replace(report, files=(*report.files, *inputs.missing))


def convert_items(
    items: list[Item],
    request: Request,
    *,
    folder: Place | None,
    batch: BatchOptions,
    engine: EngineOptions,
    hooks: Hooks,
) -> RunReport:
    """Convert many recordings: in this process, in several, or on a cluster.

    In the `folder` of all outputs a journal is kept, and what it has as finished isn't converted again, nor told to the
    hooks. Raises MenuraError where the request as a whole can't be carried out, and CancelledError.
    """
    remove_unfinished(item.output for item in items if isinstance(item.output, Path))
    request = dataclasses.replace(request, precision=engine.precision)
    sources = [item.source for item in items]
    if folder is None:
        return _convert(items, with_common_shift(request, sources, hooks.cancel), batch, engine, hooks)
    identity, journal = request.identity, Journal(folder)
    known = None if batch.force else journal.shifts(identity)
    request = with_common_shift(request, sources, hooks.cancel, known=known)
    if request.together and known is None and len(items) > 1:
        journal.keep_shifts(identity, request.shifts)
    stamps = [FileStamp.of(item.source) for item in items]
    results: dict[int, FileResult] = {}
    for position, item in enumerate(items):
        result = None if batch.force else journal.finished(stamps[position], item.output, identity)
        if result is not None:
            results[position] = dataclasses.replace(result, input=str(item.source))
    missing = [position for position in range(len(items)) if position not in results]

    def on_progress(progress: Progress) -> None:
        counts = (progress.files, progress.files_begun, progress.files_done)
        files, begun, done = (count + len(items) - len(missing) for count in counts)
        hooks.on_progress(dataclasses.replace(progress, files=files, files_begun=begun, files_done=done))

    def on_result(position: int, result: FileResult) -> None:
        journal.record(stamps[missing[position]], result, identity)
        hooks.on_result(missing[position], result)

    counting = dataclasses.replace(hooks, on_progress=on_progress, on_result=on_result)
    report = _convert([items[position] for position in missing], request, batch, engine, counting)
    results |= dict(zip(missing, report.files, strict=True))
    return dataclasses.replace(report, files=tuple(results[position] for position in range(len(items))))


def with_common_shift(
    request: Request,
    sources: Sequence[Place],
    cancel: Event | None = None,
    *,
    known: tuple[float, ...] | None = None,
) -> Request:
    """A request for recordings that are converted together with their common shifts, `known` or found; else as it is.

    They come from the first eight seconds of up to sixteen recordings, spread evenly over the batch; their F0 is
    SwiftF0's, whatever the request's method, as it costs next to nothing beside a conversion. What can't be read
    doesn't count, nor what is at a URL. Raises CancelledError once `cancel` is set.
    """
    if not request.together or request.f0_path is None or request.aim is None:
        return request
    if known is not None or len(sources) < 2:
        return dataclasses.replace(request, shifts=known or ())
    import numpy as np
    import torch

    from menura.f0.registry import SWIFT_WEIGHTS, load_estimator
    from menura.f0.shift import shifts_of
    from menura.pipeline.recording import BLOCK_S, AnalysisFeed, FileRecording

    estimator = load_estimator("swift", SWIFT_WEIGHTS, torch.device("cpu"))  # a device may be the workers' alone
    local = [source for source in sources if isinstance(source, Path)]
    count = min(len(local), _MOST_RECORDINGS)
    curves: list[FloatArray] = []
    for recording in (FileRecording(local[number * len(local) // count]) for number in range(count)):
        if cancel is not None and cancel.is_set():
            raise CancelledError(None, "cancelled")
        blocks: list[FloatArray] = []
        with suppress(DecodeError):
            blocks.extend(islice(AnalysisFeed(recording.open()).blocks(), _SECONDS // BLOCK_S))
        if blocks:
            samples = np.concatenate(blocks)
            padded = np.pad(samples, (0, max(0, ANALYSIS_RATE_HZ - len(samples))))  # estimators want some
            with torch.inference_mode():
                curves.append(estimator.estimate(torch.from_numpy(padded)[None])[0].numpy())
    return dataclasses.replace(request, shifts=shifts_of(curves, request.aim))


def _convert(
    items: Sequence[Item], request: Request, batch: BatchOptions, engine: EngineOptions, hooks: Hooks
) -> RunReport:
    if not items:
        return RunReport(files=())
    if batch.ray is not None:
        from menura.jobs.ray import convert_on_cluster

        return convert_on_cluster(items, request, engine, address=batch.ray, workers=batch.workers, hooks=hooks)
    workers = process_count(items, engine, batch, request)
    pairs = [(i.source, i.output) for i in items if isinstance(i.source, Path) and isinstance(i.output, Path)]
    if workers > 1 or len(pairs) < len(items):  # what is remote is fetched by workers
        processes = Processes(request, engine, workers)
        return share(items, processes, workers=workers, request=request, hooks=hooks)
    from menura.converter import Converter

    def on_result(position: int, result: FileResult) -> None:
        if not _cancelled(result):
            hooks.on_result(position, result)

    with Converter(engine) as converter:
        converter.preload(request)
        report = converter.convert_files(
            pairs, request, on_progress=hooks.on_progress, on_result=on_result, cancel=hooks.cancel
        )
    if any(map(_cancelled, report.files)):
        raise CancelledError(None, "cancelled")
    return report


def _cancelled(result: FileResult) -> bool:
    return result.error is not None and result.error.kind == "cancelled"
