"""A service whose jobs are converted by actors of a Ray cluster."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import sqlalchemy as sa

from menura import ConversionOptions, Converter, EngineOptions
from menura.cli.main import run
from menura.jobs import ray as cluster
from menura.server.schema import ITEMS
from menura.server.store import Store
from support.postgres import postgres
from support.server import Service

CLIP = Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of 1.5 s, and of a minute, so that there is time to interrupt."""
    folder = tmp_path_factory.mktemp("recordings")
    samples, rate = soundfile.read(CLIP, dtype="float32")
    soundfile.write(folder / "talk.wav", samples[:24_000], rate)
    soundfile.write(folder / "long.flac", np.tile(samples, 9), rate)
    return folder / "talk.wav", folder / "long.flac"


@pytest.fixture(scope="module")
def service(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """With a cluster of its own, and one actor."""
    data = tmp_path_factory.mktemp("ray") / "data"
    with Service(data, home, "--ray", "local", "--threads", "1", "--workers", "1", "--most-hours", "0.1") as service:
        yield service
    assert "Traceback" not in service.said()
    assert not list(data.glob("results/*/.*"))


def descendants(process: int) -> Iterator[int]:
    for thread in Path(f"/proc/{process}/task").glob("*/children"):
        for child in thread.read_text().split():
            yield int(child)
            yield from descendants(int(child))


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def busy_actor(service: Service) -> int:
    """The process that converts."""

    def busy() -> list[int]:
        processes = descendants(service.process.pid)
        return [process for process in processes if b"carry_out" in Path(f"/proc/{process}/cmdline").read_bytes()]

    process: int = until(busy)[0]
    return process


def begun(service: Service, id: str) -> None:
    service.until(id, lambda job: job["items"][0]["audio_done_s"] > 0)


def test_results_are_those_of_any_other_way(
    service: Service, recordings: tuple[Path, Path], home: Path, tmp_path: Path
) -> None:
    short, _ = recordings
    id = service.send(short)
    too_long = tmp_path / "long.flac"
    soundfile.write(too_long, np.resize(soundfile.read(short)[0], 8_000 * 400), 8_000)
    data = bytearray(too_long.read_bytes())
    data[21], data[22:26] = data[21] & 0xF0, bytes(4)  # its header doesn't say how long it is
    too_long.write_bytes(data)
    job = service.job(id, id, service.send(too_long), transpose=2, format="flac")["id"]
    direct = service.client.post("/v1/convert", params={"voice": "tiny"}, content=short.read_bytes())
    assert direct.status_code == 200  # by the service itself
    items = service.ended(job)["items"]
    assert [item["state"] for item in items] == ["done", "done", "failed"]
    assert items[2]["error"]["kind"] == "too_large"
    assert str(service.data) not in str(items)
    with Converter(EngineOptions(home=home, threads=1)) as converter:
        converter.convert(short, tmp_path / "own.flac", ConversionOptions(voice="tiny", transpose=2, format="flac"))
    for item in items[:2]:
        assert service.client.get(item["result"]).content == (tmp_path / "own.flac").read_bytes()
    assert service.client.get("/readyz").status_code == 200
    assert service.client.get("/v1/system").json()["actors"] == 1


def test_a_killed_actor_s_recording_is_done_by_another(service: Service, recordings: tuple[Path, Path]) -> None:
    job = service.job(service.send(recordings[1]))["id"]
    begun(service, job)
    os.kill(busy_actor(service), signal.SIGKILL)
    assert service.ended(job)["state"] == "done"
    assert "an actor is lost" in service.said()


def test_a_running_job_is_cancelled(service: Service, recordings: tuple[Path, Path]) -> None:
    short, long = recordings
    job = service.job(service.send(long), seed=1)["id"]
    begun(service, job)
    actor = busy_actor(service)
    service.client.post(f"/v1/jobs/{job}/cancel")
    assert service.ended(job)["state"] == "cancelled"
    assert service.ended(service.job(service.send(short))["id"])["state"] == "done"
    assert actor in descendants(service.process.pid)  # with its networks


def test_of_two_services_one_is_killed_and_every_job_ends_once(
    home: Path, recordings: tuple[Path, Path], tmp_path: Path
) -> None:
    short, long = recordings
    with pytest.MonkeyPatch.context() as patch, postgres() as database:
        patch.setattr(cluster, "physical_cores", lambda: 2)
        with cluster.connected("local") as ray:
            address = ray.get_runtime_context().gcs_address
            further = ("--database", database, "--ray", address, "--threads", "1", "--workers", "1")
            first, second = (Service(tmp_path / "data", home, *further) for _ in range(2))
            with first, second:
                for service in (first, second):
                    until(lambda service=service: service.client.get("/readyz").status_code == 200)
                store, id, other = Store(database), first.send(short), first.send(long)
                jobs = [service.job(id, id)["id"] for _ in range(4) for service in (first, second)]
                jobs += [service.job(other, seed=seed)["id"] for seed in range(2) for service in (first, second)]
                until(lambda: len(at_work(store)) == 2)
                first.kill()
                assert {second.ended(job)["state"] for job in jobs} == {"done"}
            states = [
                (event.job_id, event.data["position"], event.data["state"])
                for event in store.events(0, limit=100_000)
                if event.kind == "item" and "state" in event.data
            ]
            store.close()
    ends = [state for state in states if state[2] == "done"]
    assert len(ends) == len(set(ends)) == 8 * 2 + 4
    assert len(states) > 2 * len(ends)  # what the first had was begun again


def at_work(store: Store) -> set[str]:
    """Services that have recordings."""
    with store._read() as db:
        return set(db.execute(sa.select(ITEMS.c.owner).where(ITEMS.c.state == "running")).scalars())


def test_a_cluster_that_doesn_t_answer_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert run(["serve", "--port", "0", "--data", str(tmp_path / "data"), "--ray", address]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert f"no cluster answers at {address}" in lines[0]
