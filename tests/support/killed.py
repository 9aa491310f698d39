"""A service without HTTP, killed at many moments while others give it work. Run as a program: it must fork, and early.

python -m support.killed DATA HOME CLIP SEED KILLS
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import menura.loading.loader
import menura.pipeline.engine
import menura.server.run  # noqa: F401
from menura.options import EngineOptions, ServeOptions
from menura.server.folder import DataFolder
from menura.server.service import opened
from menura.server.store import OPEN_STATES, NewJob, Store

_LOADED = "a" * 64
_END_S = 60


def main() -> None:
    """Says how many jobs there were, or fails."""
    data, home, clip = map(Path, sys.argv[1:4])
    chance, kills = random.Random(int(sys.argv[4])), int(sys.argv[5])
    torch.set_num_threads(1)
    folder = DataFolder(data, 2**20)
    shutil.copyfile(clip, folder.audio(_LOADED))
    jobs: list[str] = []
    for _ in range(kills):
        with _process(data, home) as process:
            _ask(folder, jobs, chance)
            time.sleep(chance.uniform(0.05, 0.7))
            os.kill(process, signal.SIGKILL)
    with _process(data, home) as process:
        _wait(folder, process)
        os.kill(process, signal.SIGTERM)
    _check(folder, jobs)
    print(len(jobs))  # noqa: T201


@contextmanager
def _process(data: Path, home: Path) -> Iterator[int]:
    process = os.fork()
    if process == 0:
        _serve(data, home)
    yield process
    os.waitpid(process, 0)


def _serve(data: Path, home: Path) -> None:
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    with opened(ServeOptions(data=data), EngineOptions(home=home, threads=1, device="cpu")) as service:
        while not stopping:
            time.sleep(0.01)
        service.tidy(time.time())
    os._exit(0)


def _ask(folder: DataFolder, jobs: list[str], chance: random.Random) -> None:
    """Clients, through a store of their own; closed before the next fork."""
    store = Store(folder.database_url)
    audio = store.add_audio(_LOADED, "talk.wav", 1, {"audio_s": 1.5})
    for _ in range(chance.randint(0, 2)):
        options = {"seed": len(jobs), "format": chance.choice(["wav", "flac"])}
        inputs = [audio] * chance.randint(1, 3)
        jobs.append(store.create(NewJob(kind="convert", voice="tiny", options=options, inputs=inputs))[0].id)
        time.sleep(chance.uniform(0, 0.1))
    if jobs and chance.random() < 0.2:
        store.cancel(chance.choice(jobs))
    store.close()


def _wait(folder: DataFolder, process: int) -> None:
    store, deadline = Store(folder.database_url), time.monotonic() + _END_S
    while store.jobs(states=OPEN_STATES):
        assert time.monotonic() < deadline, store.jobs(states=OPEN_STATES)
        time.sleep(0.05)
    store.close()


def _check(folder: DataFolder, jobs: list[str]) -> None:
    """Every job has ended; its results are there, whole and as those of any other run, and nothing half-written."""
    import soundfile

    store = Store(folder.database_url)
    found = {job.id: job for job in store.jobs(limit=1000)}
    assert sorted(found) == sorted(jobs)
    expected, cancelled = set(), set()
    for job in found.values():
        assert job.state == ("cancelled" if job.cancel and "cancelled" in {i.state for i in job.items} else "done"), job
        sounds = set()
        for item in job.items:
            path = folder.result(job.id, item.position, job.options["format"])
            if item.state == "cancelled":
                cancelled.add(path)  # may have been complete when the process was killed; it goes with the job
            else:
                expected.add(path)
                assert soundfile.info(path).frames == 36_000, path
                sounds.add(path.read_bytes())
        assert len(sounds) <= 1, "the same recording gave different results"
    store.close()
    left = {path for path in folder.path.rglob("*") if path.is_file() and path.parent.parent.name == "results"}
    assert expected <= left <= expected | cancelled, left ^ expected


if __name__ == "__main__":
    main()
