"""Several processes over one PostgreSQL."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from menura.errors import ResourceError
from menura.server.store import Change, Store
from support.postgres import postgres
from support.server import Service
from support.store_machine import StoreMachine, check_lists, new_job, with_audio

CLIP = Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of this test's."""
    name = request.node.name[:60]
    address = sa.make_url(server).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(address, isolation_level="AUTOCOMMIT")
    with engine.connect() as db:
        db.exec_driver_sql(f"CREATE DATABASE {name}")
        yield sa.make_url(server).set(database=name).render_as_string()
        db.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
    engine.dispose()


def test_whatever_happens_nothing_is_lost_or_doubled(url: str) -> None:
    class Machine(StoreMachine):
        pass

    Machine.url = url
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=6,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        ),
    )


def test_lists_read_the_beginning_of_spans(url: str) -> None:
    store = Store(url)
    check_lists(store)
    store.close()


def test_claims_made_at_once_are_disjoint_and_events_come_in_order(url: str) -> None:
    stores = [Store(url, owner=str(number)) for number in range(4)]
    with_audio(stores[0])
    for _ in range(10):
        stores[0].create(new_job(stores[0], 4))
    seen: list[int] = []
    done: list[tuple[str, int]] = []

    def work(store: Store) -> None:
        while claims := store.claim(3, each=2):
            done.extend(claim.item.key for claim in claims)
            store.record([Change(item=claim.item, state="done", result={"audio_s": 5.0}) for claim in claims])

    def read() -> None:
        while len(done) < 40 or not events_end(seen):
            seen.extend(event.number for event in stores[0].events(seen[-1] if seen else 0))

    def events_end(seen: list[int]) -> bool:
        return bool(seen) and seen[-1] == stores[0].last_event() and not any(t.is_alive() for t in threads)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    read()
    assert len(done) == len(set(done)) == 40
    with stores[0]._read() as db:
        assert seen == list(db.execute(sa.text("SELECT number FROM events ORDER BY number")).scalars())
    assert {job.state for job in stores[0].jobs()} == {"done"}
    for store in stores:
        store.close()


def test_a_database_of_the_first_version_is_brought_forward(url: str) -> None:
    store = Store(url)
    with_audio(store)
    store.create(new_job(store, 1))
    with store._engine.begin() as db:  # what the first version had made
        for statement in (
            "DROP INDEX ix_jobs_ended",
            "ALTER TABLE events ALTER COLUMN number TYPE INTEGER",
            "ALTER SEQUENCE events_number_seq AS INTEGER",
            "UPDATE meta SET value = '1'",
        ):
            db.exec_driver_sql(statement)
    store.close()
    again = Store(url)
    with again._engine.begin() as db:
        db.exec_driver_sql("SELECT setval('events_number_seq', 3000000000)")
    again.create(new_job(again, 1))
    assert again.last_event() > 3_000_000_000
    assert again.jobs()[1].state == "queued"
    again.close()


def test_a_server_that_isnt_there_is_said(url: str) -> None:
    with pytest.raises(ResourceError, match="can't be used"):
        Store(sa.make_url(url).set(port=1).render_as_string())


def test_of_two_processes_one_is_killed_and_every_job_ends_once(home: Path, url: str, tmp_path: Path) -> None:
    samples, rate = soundfile.read(CLIP, dtype="float32", stop=24_000)
    short = tmp_path / "talk.wav"
    soundfile.write(short, samples, rate)
    further = ("--database", url)
    with Service(tmp_path / "data", home, *further) as first, Service(tmp_path / "data", home, *further) as second:
        id = first.send(short)
        jobs = [service.job(id, id, id)["id"] for _ in range(8) for service in (first, second)]
        assert first.send(short) == id
        seen = _states_until_done(second, jobs[0])  # either may do it
        assert seen[-1] == "done"
        jobs += [first.job(id, id)["id"] for _ in range(6)]
        time.sleep(0.3)
        first.kill()
        for job in [second.ended(job, timeout_s=60) for job in jobs]:
            assert job["state"] == "done"
            for item in job["items"]:
                sound, _ = soundfile.read(io.BytesIO(second.client.get(item["result"]).content))
                assert len(sound) == 36_000
        ends = _ends(url)
        assert sorted(ends) == sorted(set(ends))
        assert len(ends) == 16 * 3 + 6 * 2
        assert second.client.get("/v1/jobs/%00").status_code in (404, 422)
        assert not [path for path in second.data.rglob("*") if path.name.endswith(".part")]


def _states_until_done(service: Service, id: str) -> list[str]:
    states = []
    with service.client.stream("GET", f"/v1/jobs/{id}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("data: "):
                data = json.loads(line[6:])
                if "position" not in data:
                    states.append(data["state"])
                    if data["state"] == "done":
                        break
    return states


def _ends(url: str) -> list[tuple[str, int]]:
    """Items that were said to be done."""
    store = Store(url)
    events = store.events(0, limit=100_000)
    store.close()
    return [
        (event.job_id, event.data["position"])
        for event in events
        if event.data.get("state") == "done" and event.kind == "item"
    ]
