"""What clients and two service processes may do to a store, in any order."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from menura.server import store as module
from menura.server.store import LEASE_S, OPEN_STATES, Change, Claim, ConflictError, Job, NewJob, NotFoundError, Store

AUDIO = ("a" * 64, "b" * 64)
ENDS = ("done", "warning", "failed")


class Clock:
    """The store's time."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def time(self) -> float:
        self.now += 0.001
        return self.now


@contextmanager
def clocked() -> Iterator[Clock]:
    """The store reads a clock that only the test moves."""
    clock = Clock()
    module.time = SimpleNamespace(time=clock.time)  # type: ignore[assignment]
    try:
        yield clock
    finally:
        module.time = time


def new_job(store: Store, count: int, key: str | None = None) -> NewJob:
    inputs = [store.audio(AUDIO[number % 2]) for number in range(count)]
    return NewJob(
        kind="convert",
        voice="wren",
        options={"transpose": count},
        inputs=inputs,
        idempotency_key=key,
        fingerprint=str(count),
    )


def with_audio(store: Store) -> None:
    for number, id in enumerate(AUDIO):
        store.add_audio(id, f"{number}.wav", 10, {"audio_s": 5.0})


def expected_state(job: Job) -> str:
    """Of a job, said once more in other words than the store's."""
    states = {item.state for item in job.items}
    if states <= {"queued"}:
        return "queued"
    if states & {"queued", "running"}:
        return "cancelling" if job.cancel else "running"
    if states == {"failed"}:
        return "failed"
    if "cancelled" in states:
        return "cancelled"
    return "partly" if "failed" in states else "done"


class StoreMachine(RuleBasedStateMachine):
    """The model is who holds which item, as claims said it."""

    url: ClassVar[str]
    jobs = Bundle("jobs")
    claims = Bundle("claims")

    @initialize()
    def open(self) -> None:
        self._clocked = clocked()
        self.clock = self._clocked.__enter__()
        self.stores = [Store(self.url, owner=f"first {number}") for number in range(2)]
        self._empty()
        with_audio(self.stores[0])
        self.holders: dict[tuple[str, int], tuple[int, float]] = {}
        """By item: the process, and until when."""
        self.inputs: dict[str, int] = {}
        self.keys: dict[str, tuple[str, int]] = {}
        self.states: dict[tuple[str, int | None], str] = {}
        self.last_event = 0
        self.restarts = 0

    def _empty(self) -> None:
        for id in [job.id for job in self.stores[0].jobs(limit=1000)]:
            self.stores[0].give_back(everyones=True)
            self.stores[0].delete(id)

    def teardown(self) -> None:
        if not hasattr(self, "stores"):
            return
        try:
            self.all_end()
        finally:
            for store in self.stores:
                store.close()
            self._clocked.__exit__(None, None, None)

    def all_end(self) -> None:
        """Whatever happened before, one process that works ends everything."""
        self.clock.now += LEASE_S + 1
        worker = self.stores[1]
        for _ in range(100):
            claims = worker.claim(10, each=2)
            worker.record([Change(item=claim.item, state="done", result={"audio_s": 5.0}) for claim in claims])
        for job in worker.jobs(limit=1000):
            assert job.state not in OPEN_STATES
            assert job.ended is not None
        self.states_follow()
        self.events_tell_all()

    # Clients

    @rule(target=jobs, count=st.integers(1, 4), key=st.sampled_from([None, "k", "l"]), process=st.integers(0, 1))
    def create(self, count: int, key: str | None, process: int) -> object:
        known = self.keys.get(key or "")
        if known is not None and known[1] != count:
            with pytest.raises(ConflictError):
                self.stores[process].create(new_job(self.stores[process], count, key))
            return multiple()
        job, new = self.stores[process].create(new_job(self.stores[process], count, key))
        assert new == (known is None)
        if known is not None:
            assert job.id == known[0]
            return multiple()
        self.inputs[job.id] = count
        if key is not None:
            self.keys[key] = job.id, count
        return job.id

    @rule(id=jobs)
    def cancel(self, id: str) -> None:
        before = self.stores[0].job(id)
        job = self.stores[0].cancel(id)
        if before.state in OPEN_STATES:
            assert not [item for item in job.items if item.state == "queued"]
        else:
            assert job == before

    @rule(id=jobs)
    def retry(self, id: str) -> None:
        before = self.stores[1].job(id)
        again = [item.state in ("failed", "cancelled") for item in before.items]
        if before.state in OPEN_STATES or not any(again):
            with pytest.raises(ConflictError):
                self.stores[1].retry(id)
            return
        after = self.stores[1].retry(id)
        for item, old, queued in zip(after.items, before.items, again, strict=True):
            assert (item.state == "queued" and item.result is None and item.error is None) if queued else item == old

    @rule(id=consumes(jobs))
    def delete(self, id: str) -> None:
        if any(item.state == "running" for item in self.stores[0].job(id).items):
            with pytest.raises(ConflictError):
                self.stores[0].delete(id)
            return
        self.stores[0].delete(id)
        del self.inputs[id]
        self.keys = {key: known for key, known in self.keys.items() if known[0] != id}
        self.states = {key: state for key, state in self.states.items() if key[0] != id}
        with pytest.raises(NotFoundError):
            self.stores[1].job(id)

    # Processes

    @rule(target=claims, process=st.integers(0, 1), most=st.integers(1, 5), each=st.integers(1, 3))
    def claim(self, process: int, most: int, each: int) -> object:
        store = self.stores[process]
        held = [key for key, (holder, _) in self.holders.items() if holder == process]
        items = [item for id in {key[0] for key in held} if id in self.inputs for item in store.job(id).items]
        under_way = [item for item in items if item.key in held]
        claims = store.claim(most, each=each, under_way=under_way)
        assert len(claims) <= most
        for claim in claims:
            key = claim.item.key
            if key in self.holders:  # of another process, which had its time
                assert self.holders[key][0] != process
                assert self.holders[key][1] <= self.clock.now
                assert claim.again
            assert not claim.job.cancel
            self.holders[key] = process, self.clock.now + LEASE_S - 1
        jobs = [key[0] for key, (holder, _) in self.holders.items() if holder == process]
        assert all(jobs.count(claim.job.id) <= max(each, len(under_way)) for claim in claims)
        return multiple(*((process, store.owner, claim) for claim in claims))

    @rule(given=claims, done_s=st.floats(0, 5), begun=st.booleans())
    def advance(self, given: tuple[int, str, Claim], done_s: float, begun: bool) -> None:
        self._record(given, Change(item=given[2].item, audio_done_s=done_s, begun=1.0 if begun else None))

    @rule(given=claims, state=st.sampled_from(ENDS), cancelled=st.booleans())
    def end(self, given: tuple[int, str, Claim], state: str, cancelled: bool) -> None:
        if cancelled and given[2].job.id in self.inputs and self.stores[0].job(given[2].job.id).cancel:
            state = "cancelled"
        result = {"audio_s": 5.0} if state in ("done", "warning") else None
        change = Change(
            item=given[2].item, state=state, result=result, error={"kind": "x"} if state == "failed" else None
        )
        self._record(given, change)

    def _record(self, given: tuple[int, str, Claim], change: Change) -> None:
        """It takes effect if the process has the item still."""
        process, owner, claim = given
        key = claim.item.key
        if self.stores[process].owner != owner:
            return  # it was killed
        mine = self.holders.get(key, (None,))[0] == process
        before = self.stores[0].job(key[0]) if key[0] in self.inputs else None
        self.stores[process].record([change])
        if before is not None:
            after = self.stores[1].job(key[0])
            assert after.items[key[1]].state == change.state if mine else after == before

    @rule(process=st.integers(0, 1))
    def renew(self, process: int) -> None:
        store = self.stores[process]
        held = {key for key, (holder, _) in self.holders.items() if holder == process and key[0] in self.inputs}
        items = [item for id in {key[0] for key in held} for item in store.job(id).items if item.key in held]
        assert store.renew(items) == []
        for item in items:
            self.holders[item.key] = process, self.clock.now + LEASE_S - 1

    @rule(seconds=st.sampled_from([1.0, LEASE_S + 1]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(process=st.integers(0, 1))
    def restart(self, process: int) -> None:
        """It is killed, and another takes its place."""
        self.restarts += 1
        self.stores[process].close()
        self.stores[process] = Store(self.url, owner=f"later {self.restarts}")
        self.holders = {
            key: (-1 if holder == process else holder, until) for key, (holder, until) in self.holders.items()
        }

    @rule(process=st.integers(0, 1))
    def stop(self, process: int) -> None:
        held = {key for key, (holder, _) in self.holders.items() if holder == process}
        assert self.stores[process].give_back() == len(held)
        self.holders = {key: held_by for key, held_by in self.holders.items() if key not in held}

    # What holds at any time

    @invariant()
    def states_follow(self) -> None:
        jobs = {job.id: job for job in self.stores[0].jobs(limit=1000)}
        assert {id: len(job.items) for id, job in jobs.items()} == self.inputs
        for job in jobs.values():
            assert job.state == expected_state(job)
            assert (job.ended is None) == (job.state in OPEN_STATES)
            for item in job.items:
                assert item.converted == (item.result is not None)
                assert (item.state == "failed") == (item.error is not None)
        running = {item.key for job in jobs.values() for item in job.items if item.state == "running"}
        assert running <= self.holders.keys()
        self.holders = {key: self.holders[key] for key in running}

    @invariant()
    def events_tell_all(self) -> None:
        """Who only reads events knows every state."""
        events = self.stores[1].events(self.last_event, limit=10_000)
        numbers = [event.number for event in events]
        assert numbers == sorted(set(numbers))
        for event in events:
            self.last_event = event.number
            if "state" in event.data and event.job_id in self.inputs:
                self.states[event.job_id, event.data.get("position")] = event.data["state"]
        for job in self.stores[0].jobs(limit=1000):
            assert self.states[job.id, None] == job.state
            for item in job.items:
                assert self.states.get((job.id, item.position), "queued") == item.state


def check_lists(store: Store) -> None:
    """Of a list only the beginning of spans is read; a job has all of them."""
    spans = "start,end,voice\n" + '0,1,"ü"\n' * 50_000
    given: list[dict[str, object]] = [{"transpose": 2, "spans": spans, "effects": None}, {"spans": "0,1"}, {}]
    with_audio(store)
    made = [store.create(dataclasses.replace(new_job(store, 2), options=options))[0] for options in given]
    listed = store.jobs(states=["queued"], voice="wren")
    assert [job.id for job in listed] == [job.id for job in reversed(made)]
    assert [job.options for job in listed] == [{}, given[1], given[0] | {"spans": spans[:2001]}]
    assert [job.items for job in listed] == [job.items for job in reversed(made)]
    assert store.jobs(before=listed[1].number) == listed[2:]
    assert store.job(made[0].id).options == given[0]
