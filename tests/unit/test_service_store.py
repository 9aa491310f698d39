"""The service's database."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from menura.errors import OptionError, ResourceError
from menura.server.schema import SCHEMA_VERSION
from menura.server.store import LEASE_S, Change, NotFoundError, Store
from support.store_machine import Clock, StoreMachine, check_lists, clocked, new_job, with_audio

FIRST = Path(__file__).parents[1] / "data" / "service_1.sql"


@pytest.fixture
def clock() -> Iterator[Clock]:
    with clocked() as clock:
        yield clock


def first_version(path: Path) -> str:
    """A database as the first version left it: a job partly done, one under way, one cancelled."""
    db = sqlite3.connect(path)
    db.executescript(FIRST.read_text())
    db.close()
    return f"sqlite:///{path}"


def is_open(path: Path) -> bool:
    return any(os.path.realpath(link) == str(path) for link in Path("/proc/self/fd").iterdir())


def test_whatever_happens_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    class Machine(StoreMachine):
        url = f"sqlite:///{tmp_path / 'jobs.db'}"

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.reuse, Phase.generate],  # making a failure smaller takes minutes
        ),
    )


def test_a_database_of_the_first_version_goes_on(tmp_path: Path, clock: Clock) -> None:
    url = first_version(tmp_path / "old.db")
    clock.now = 1_793_000_100.0
    store = Store(url)
    assert [job.state for job in store.jobs()] == ["cancelled", "running", "partly"]
    partly = store.jobs(states=["partly"])[0]
    assert [item.state for item in partly.items] == ["done", "failed"]
    assert partly.items[1].error is not None
    (claim,) = store.claim(9, each=9)
    assert claim.again
    store.record([Change(item=claim.item, state="done", result={"audio_s": 1.5})])
    assert store.job(claim.job.id).state == "done"
    assert store.events(15)[0].number == 16
    with_audio(store)
    assert store.create(new_job(store, 1))[0].number == 4
    store.close()


def test_an_old_database_becomes_what_a_new_one_is(tmp_path: Path) -> None:
    forms = []
    for url in (first_version(tmp_path / "old.db"), f"sqlite:///{tmp_path / 'new.db'}"):
        Store(url).close()
        engine = sa.create_engine(url)
        found = sa.inspect(engine)
        forms.append(
            {
                table: (
                    [(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(table)],
                    sorted(str(index["name"]) for index in found.get_indexes(table)),
                )
                for table in found.get_table_names()
            }
        )
        with engine.connect() as db:
            assert db.exec_driver_sql("SELECT value FROM meta WHERE key = 'schema'").scalar() == str(SCHEMA_VERSION)
        engine.dispose()
    assert forms[0] == forms[1]
    assert len(forms[0]) >= 5


def test_a_newer_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    Store(f"sqlite:///{path}").close()
    db = sqlite3.connect(path)
    db.execute("UPDATE meta SET value = '99'")
    db.commit()
    with pytest.raises(ResourceError, match="newer version") as caught:
        Store(f"sqlite:///{path}")
    assert db.execute("SELECT value FROM meta").fetchall() == [("99",)]
    db.close()
    assert not is_open(path), caught


@pytest.mark.parametrize(
    ("url", "said"),
    [("nonsense", "not the URL"), ("mysql://localhost/name", "not the URL"), ("sqlite+x:///a", "not the URL")],
)
def test_other_databases_are_refused(url: str, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Store(url)


def test_no_file_of_another_kind_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_bytes(b"what I wrote down yesterday" * 100)
    with pytest.raises(ResourceError, match="database") as caught:
        Store(f"sqlite:///{path}")
    assert not is_open(path), caught
    assert path.read_bytes().startswith(b"what I wrote")


def test_a_lease_that_ran_out_is_anothers(tmp_path: Path, clock: Clock) -> None:
    stores = [Store(f"sqlite:///{tmp_path / 'jobs.db'}") for _ in range(2)]
    with_audio(stores[0])
    job, _ = stores[0].create(new_job(stores[0], 1))
    (first,) = stores[0].claim(9, each=9)
    assert stores[1].claim(9, each=9) == []
    clock.now += LEASE_S - 1
    assert stores[0].renew([first.item]) == []
    clock.now += LEASE_S - 1
    assert stores[1].claim(9, each=9) == []
    clock.now += LEASE_S
    assert stores[0].claim(9, each=9, under_way=[first.item]) == []  # asleep meanwhile: it is at work itself
    (second,) = stores[1].claim(9, each=9)
    assert (first.again, second.again) == (False, True)
    assert stores[0].renew([first.item]) == [first.item]
    stores[0].record([Change(item=first.item, state="failed", error={"kind": "x"})])
    assert stores[0].job(job.id).state == "running"
    stores[1].record([Change(item=second.item, state="done", result={"audio_s": 1.0})])
    assert stores[0].job(job.id).state == "done"
    for store in stores:
        store.close()


def test_what_waits_may_be_taken_by_who_is_free(tmp_path: Path, clock: Clock) -> None:
    stores = [Store(f"sqlite:///{tmp_path / 'jobs.db'}") for _ in range(2)]
    with_audio(stores[0])
    stores[0].create(new_job(stores[0], 2))
    held = [claim.item for claim in stores[0].claim(9, each=9)]
    for _ in range(2):
        assert stores[0].renew(held, {held[1].key}) == []
        clock.now += LEASE_S - 1
    assert [claim.item.key for claim in stores[1].claim(9, each=9)] == [held[1].key]
    assert stores[0].renew(held, {held[1].key}) == [held[1]]
    for store in stores:
        store.close()


def test_a_great_job_leaves_room_for_others(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'jobs.db'}")
    with_audio(store)
    great = [store.create(new_job(store, 50))[0].id for _ in range(3)]
    held = [claim.item for claim in store.claim(48, each=16)]
    assert sorted(item.job_id for item in held) == sorted(great * 16)
    small, _ = store.create(new_job(store, 2))
    assert [claim.job.id for claim in store.claim(16, each=1, under_way=held)] == [small.id]
    store.close()


def test_values_that_no_database_keeps_are_the_askers_fault(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'jobs.db'}")
    with pytest.raises(OptionError, match="can't be kept"):
        store.events(10**30)
    with pytest.raises(NotFoundError):
        store.job("x\0y")
    store.close()


def test_what_failed_is_queued_again_as_if_new(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'jobs.db'}")
    with_audio(store)
    job, _ = store.create(new_job(store, 2))
    first, second = store.claim(9, each=9)
    store.record([Change(item=first.item, audio_done_s=2.0, begun=1.0)])
    store.record([Change(item=first.item, state="failed", error={"kind": "x"})])
    store.record([Change(item=second.item, state="done", result={"audio_s": 5.0})])
    assert store.job(job.id).state == "partly"
    again = store.retry(job.id)
    assert (again.state, again.ended) == ("running", None)
    assert again.items[0] == job.items[0]
    assert again.items[1].result == {"audio_s": 5.0}
    (claim,) = store.claim(9, each=9)
    assert (claim.item.position, claim.again) == (0, False)
    store.close()


def test_lists_read_the_beginning_of_spans(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'jobs.db'}")
    check_lists(store)
    store.close()
