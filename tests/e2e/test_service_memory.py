"""What the service keeps of jobs that have ended: nothing in memory."""

from __future__ import annotations

import gc
import time
from collections import Counter
from pathlib import Path

from menura.options import EngineOptions, ServeOptions
from menura.server.service import Service, opened
from menura.server.store import OPEN_STATES, Audio, NewJob

_ID = "a" * 64
_KEPT = {"Request": 64, "ConversionOptions": 64, "VoiceEntry": 64}
"""What is kept on purpose, of the last jobs."""


def test_what_ended_is_let_go(home: Path, talk: Path, tmp_path: Path) -> None:
    engine = EngineOptions(home=home, threads=1, device="cpu")
    with opened(ServeOptions(data=tmp_path / "data"), engine) as service:
        service.folder.audio(_ID).write_bytes(talk.read_bytes())
        audio = service.store.add_audio(_ID, "talk.wav", 1, {"audio_s": 1.5})
        before = _after(service, audio, 6)
        more = _after(service, audio, 24) - before
    assert not {kind: count for kind, count in more.items() if count > _KEPT.get(kind, 3)}


def _after(service: Service, audio: Audio, jobs: int) -> Counter[str]:
    """Objects of this project that are alive after so many more jobs, one of them cancelled, one failed."""
    broken = service.store.add_audio("b" * 64, "gone.wav", 1, {})
    for number in range(jobs):
        inputs = [audio, broken] if number == 1 else [audio]
        new = NewJob(kind="convert", voice="tiny", options={"seed": number}, inputs=inputs)
        job, _ = service.store.create(new)
    service.store.cancel(job.id)
    service.runner.wake()
    deadline = time.monotonic() + 60
    while service.store.jobs(states=OPEN_STATES, limit=1):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert {item.state for job in service.store.jobs() for item in job.items} == {"done", "failed", "cancelled"}
    time.sleep(0.1)  # the last turn ends
    gc.collect()
    return Counter(type(it).__name__ for it in gc.get_objects() if str(type(it).__module__).startswith("menura."))
