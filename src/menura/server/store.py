"""The service's database: recordings, jobs, their items, and events to replay. SQLite, or PostgreSQL by its URL.

Several processes may use one database: an item that a process works on is leased to it, and once the lease has expired
another takes it. What the first still says of it is ignored. Times are seconds since 1970.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection, Row

from menura.errors import MenuraError
from menura.server.schema import AUDIO, EVENTS, ITEMS, JOBS, begin_writing, explained, open_database

LEASE_S = 10.0
"""An item whose process hasn't renewed its lease for so long is taken by another."""

OPEN_STATES = ("queued", "running", "cancelling")
"""Of jobs that haven't ended."""
JOB_STATES = (*OPEN_STATES, "done", "partly", "failed", "cancelled")
_EVENTS_KEPT = 20_000
_GPU = "a GPU that failed"
"""Owner of what is blamed."""
_UNUSED = ~sa.exists().where(ITEMS.c.audio_id == AUDIO.c.id)

# What is asked most is built once: that takes longer than asking.
_THIS_AUDIO = AUDIO.select().where(AUDIO.c.id == sa.bindparam("this"))
_CHANGE_AUDIO = AUDIO.update().where(AUDIO.c.id == sa.bindparam("this"))
_THIS_JOB = JOBS.select().where(JOBS.c.id == sa.bindparam("this"))
_CHANGE_JOB = JOBS.update().where(JOBS.c.id == sa.bindparam("this"))
_THEIR_ITEMS = (
    ITEMS.select()
    .where(ITEMS.c.job_id.in_(sa.bindparam("these", expanding=True)))
    .order_by(ITEMS.c.job_id, ITEMS.c.position)
)
_SPANS = sa.func.substr(JOBS.c.options["spans"].as_string(), 1, 2001).label("spans")
_LISTED = [*(column for column in JOBS.c if column.name != "options"), _SPANS]
_ITS_STATES = sa.select(ITEMS.c.state).where(ITEMS.c.job_id == sa.bindparam("this")).distinct()
_CHANGE_ITEM = ITEMS.update().where(ITEMS.c.job_id == sa.bindparam("this"), ITEMS.c.position == sa.bindparam("place"))
_RESET_ITEM = _CHANGE_ITEM.values(result=sa.null(), error=sa.null())
_CHANGE_OWN = _CHANGE_ITEM.where(ITEMS.c.owner == sa.bindparam("me"), ITEMS.c.state == "running")
_TELL = EVENTS.insert()
_QUEUED = sa.select(sa.func.count()).select_from(ITEMS).where(ITEMS.c.state == "queued")
_SHOWN = ("state", "audio_s", "audio_done_s")
CHANGEABLE = (*_SHOWN, "begun", "result", "error")
"""Of an item, by a Change."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """An uploaded recording."""

    id: str
    """The SHA-256 of its bytes, in hex."""
    name: str
    """As the user calls it."""
    size_bytes: int
    info: Mapping[str, Any]
    """What its header says, or the error that reading it met."""
    used: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredItem:
    """One recording of a job."""

    job_id: str
    position: int
    audio_id: str
    name: str
    state: str
    """queued, running, done, warning, failed or cancelled."""
    audio_s: float | None
    audio_done_s: float
    begun: float | None
    result: Mapping[str, Any] | None
    """A FileResult's document."""
    error: Mapping[str, Any] | None
    """ErrorDetails' fields."""

    @property
    def converted(self) -> bool:
        return self.state in ("done", "warning")

    @property
    def key(self) -> tuple[str, int]:
        return self.job_id, self.position


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What was asked for, and how far it is."""

    number: int
    id: str
    kind: str
    state: str
    """One of JOB_STATES."""
    voice: str
    options: Mapping[str, Any]
    created: float
    started: float | None
    ended: float | None
    cancel: bool
    items: tuple[StoredItem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be stored."""

    kind: str
    voice: str
    options: Mapping[str, Any]
    inputs: Sequence[Audio]
    idempotency_key: str | None = None
    fingerprint: str | None = None
    """Of the request that the key stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """Something that happened to a job."""

    number: int
    job_id: str
    kind: str
    """job, item or training."""
    data: Mapping[str, Any]
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An item that this process may work on now."""

    item: StoredItem
    job: Job
    again: bool
    """It was under way before, in a process that ended or wasn't heard of any more."""
    blamed: bool = False
    """That process's GPU failed at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of an item that this process has claimed; what is None stays as it is."""

    item: StoredItem
    state: str = "running"
    """running, or how it ended."""
    audio_s: float | None = None
    audio_done_s: float | None = None
    begun: float | None = None
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None


class ConflictError(MenuraError):
    """It can't be done in the state that something is in."""


class NotFoundError(MenuraError):
    """No job or recording of that id."""


class QueueFullError(MenuraError):
    """More recordings wait than the service takes."""


class Store:
    """Raises ResourceError where the database can't be used.

    Args:
        url: SQLAlchemy's, `sqlite:///FILE` or `postgresql+psycopg:` and so on.
        owner: this process's name for leases.
    """

    def __init__(self, url: str, *, owner: str | None = None) -> None:
        self.owner = owner or secrets.token_hex(8)
        self._engine = open_database(url)
        postgres = sa.cast(JOBS.c.options, JSONB).op("-", return_type=sa.JSON())("spans")
        sqlite = sa.func.json_remove(JOBS.c.options, "$.spans", type_=sa.JSON)
        self._unspanned = (sqlite if self._engine.dialect.name == "sqlite" else postgres).label("unspanned")

    def close(self) -> None:
        self._engine.dispose()

    # Recordings

    def add_audio(self, id: str, name: str, size_bytes: int, info: Mapping[str, Any]) -> Audio:
        """Note a recording whose file is in place; one of the same bytes is the same recording."""
        values = {"name": name, "size_bytes": size_bytes, "info": dict(info), "used": time.time()}
        with self._write() as db:
            if not db.execute(_CHANGE_AUDIO, {"this": id, **values}).rowcount:
                db.execute(AUDIO.insert(), {"id": id, **values})
            return _made(Audio, db.execute(_THIS_AUDIO, {"this": id}).one())

    def known_info(self, id: str) -> Mapping[str, Any] | None:
        """What was noted of a recording when it came before."""
        with self._read() as db:
            row = db.execute(_THIS_AUDIO, {"this": id}).first()
        return None if row is None else row.info

    def audio(self, id: str) -> Audio:
        """Raises NotFoundError."""
        with self._read() as db:
            row = db.execute(_THIS_AUDIO, {"this": id}).first()
        if row is None:
            raise NotFoundError(None, f"no recording {id[:80]!r}", "Upload it first", option="inputs")
        return _made(Audio, row)

    def unused_audio(self) -> list[Audio]:
        """Recordings that no job has."""
        with self._read() as db:
            return [_made(Audio, row) for row in db.execute(AUDIO.select().where(_UNUSED))]

    def forget_audio(self, id: str, used: float) -> None:
        """Delete a recording, unless it was used again meanwhile."""
        with self._write() as db:
            db.execute(AUDIO.delete().where(AUDIO.c.id == id, AUDIO.c.used == used, _UNUSED))

    def known(self) -> tuple[set[str], set[str], set[str]]:
        """Ids of all recordings, of all jobs, and of those that haven't ended."""
        every_job = sa.select(JOBS.c.id)
        with self._read() as db:
            queries = (sa.select(AUDIO.c.id), every_job, every_job.where(JOBS.c.state.in_(OPEN_STATES)))
            ids = [set(db.execute(query).scalars()) for query in queries]
        return ids[0], ids[1], ids[2]

    # Jobs

    def create(self, new: NewJob, *, most_queued: int | None = None) -> tuple[Job, bool]:
        """Store a job; one that was stored under the same key is given back. Says whether it is new.

        Raises:
            ConflictError: the key stands for another request.
            QueueFullError: more recordings would wait than `most_queued`.
        """
        try:
            with self._write() as db:
                if known := self._known(db, new):
                    return known, False
                if most_queued is not None and _queued(db) + len(new.inputs) > most_queued:
                    raise QueueFullError(None, "too many recordings are waiting", "Try again later")
                return self._insert(db, new), True
        except sa.exc.IntegrityError:  # another request with this key, or a retention run, was quicker
            with self._read() as db:
                if known := self._known(db, new):
                    return known, False
            raise NotFoundError(None, "a recording was deleted meanwhile", "Upload it again", option="inputs") from None

    def job(self, id: str) -> Job:
        """Raises NotFoundError."""
        with self._read() as db:
            return _job(db, id)

    def jobs(
        self, *, states: Sequence[str] = (), voice: str | None = None, before: int | None = None, limit: int = 50
    ) -> list[Job]:
        """The newest first, with the beginning of their spans; `before` is the last one's number on the page before."""
        wanted: list[sa.ColumnElement[bool]] = [JOBS.c.state.in_(states)] if states else []
        wanted += [JOBS.c.voice == voice] if voice is not None else []
        wanted += [JOBS.c.number < before] if before is not None else []
        query: sa.Select[Any] = sa.select(*_LISTED, self._unspanned).where(*wanted).order_by(JOBS.c.number.desc())
        with self._read() as db:
            rows = db.execute(query.limit(limit)).all()
            found = _items_of(db, [row.id for row in rows])
        options = [row.unspanned | ({"spans": row.spans} if row.spans else {}) for row in rows]
        return [_made(Job, r, items=found.get(r.id, ()), options=o) for r, o in zip(rows, options, strict=True)]

    def before(self) -> dict[str, int]:
        """How many recordings of earlier jobs wait or run before each open job's own."""
        counts = sa.select(JOBS.c.id, sa.func.count()).join(ITEMS, ITEMS.c.job_id == JOBS.c.id)
        open_ = counts.where(ITEMS.c.state.in_(("queued", "running"))).group_by(JOBS.c.id, JOBS.c.number)
        with self._read() as db:
            rows = db.execute(open_.order_by(JOBS.c.number)).all()
        sums = itertools.accumulate((count for _, count in rows), initial=0)
        return {id: before for (id, _), before in zip(rows, sums, strict=False)}

    def cancel(self, id: str) -> Job:
        """End a job: what waits is cancelled at once, what runs by who runs it. Nothing happens if it has ended."""
        with self._write() as db:
            job = _job(db, id)
            if job.state in OPEN_STATES:
                db.execute(JOBS.update().where(JOBS.c.id == id).values(cancel=True))
                for item in job.items:
                    if item.state == "queued":
                        self._end_item(db, item, "cancelled")
                self._settle(db, id)
            return _job(db, id)

    def retry(self, id: str) -> Job:
        """Queue a job's failed and cancelled items once more. Raises ConflictError if there are none."""
        with self._write() as db:
            job = _job(db, id)
            again = [item for item in job.items if item.state in ("failed", "cancelled")]
            if job.state in OPEN_STATES or not again:
                raise ConflictError(None, f"the job is {job.state}: there is nothing to do again")
            db.execute(JOBS.update().where(JOBS.c.id == id).values(cancel=False, ended=None))
            for item in again:
                self._requeue(db, item)
            self._settle(db, id)
            return _job(db, id)

    def delete(self, id: str, *, ended: float | None = None) -> Job:
        """Forget a job. Raises ConflictError while it runs, or if it didn't end at that moment."""
        with self._write() as db:
            job = _job(db, id)
            if any(item.state == "running" for item in job.items) or ended not in (None, job.ended):
                raise ConflictError(None, "the job is running", "Cancel it first")
            db.execute(EVENTS.delete().where(EVENTS.c.job_id == id))
            db.execute(ITEMS.delete().where(ITEMS.c.job_id == id))
            db.execute(JOBS.delete().where(JOBS.c.id == id))
            return job

    def ended_jobs(self) -> list[tuple[str, float]]:
        """Ids, and when they ended."""
        with self._read() as db:
            return [(row.id, row.ended) for row in db.execute(JOBS.select().where(JOBS.c.ended.is_not(None)))]

    # What a runner does

    def claim(self, most: int, *, each: int, under_way: Sequence[StoredItem] = ()) -> list[Claim]:
        """Lease waiting items to this process, which has some under way.

        Jobs go in turn, so that none waits for all of another; of each at most so many are under way at a time.
        """
        taken, mine = Counter(item.job_id for item in under_way), {item.key for item in under_way}
        full = [id for id, count in taken.items() if count >= each]
        claims, jobs = list[Claim](), dict[str, Job]()
        with self._write() as db:
            now = time.time()
            asked = {"now": now, "most": most + len(mine), "each": each, "full": full}
            for row in db.execute(_WAITING, asked).all():
                item = _made(StoredItem, row)
                if len(claims) == most or taken[item.job_id] >= each or item.key in mine:
                    continue
                job = jobs[item.job_id] = jobs.get(item.job_id) or _head(db, item.job_id)
                if job.cancel:  # and the process that had the item has died
                    self._end_item(db, item, "cancelled")
                else:
                    taken[item.job_id] += 1
                    claims.append(
                        Claim(
                            item=self._lease(db, item, now),
                            job=job,
                            again=row.owner is not None,
                            blamed=row.owner == _GPU,
                        )
                    )
            for job in jobs.values():
                if job.started is None:
                    db.execute(_CHANGE_JOB, {"this": job.id, "started": now})
                self._settle(db, job.id)
        return claims

    def renew(self, items: Collection[StoredItem], free: Collection[tuple[str, int]] = ()) -> list[StoredItem]:
        """Keep the leases of items under way; those that this process hasn't any more are given.

        Those whose keys are in `free` may be taken by another process when their leases run out.
        """
        keys = sa.tuple_(ITEMS.c.job_id, ITEMS.c.position)
        with self._write() as db:
            these = self._mine & keys.in_([item.key for item in items])
            db.execute(ITEMS.update().where(these, keys.not_in(free)).values(lease=time.time() + LEASE_S))
            kept = {(row.job_id, row.position) for row in db.execute(ITEMS.select().where(these))}
        return [item for item in items if item.key not in kept]

    def record(self, changes: Sequence[Change]) -> None:
        """Write what became of items, all or nothing; those that this process hasn't any more stay as they are."""
        with self._write() as db:
            ended = dict[str, None]()
            for change in changes:
                values = {name: value for name in CHANGEABLE if (value := getattr(change, name)) is not None}
                if change.state == "running":
                    del values["state"]
                else:
                    values |= {"owner": None, "lease": None}
                place = {"this": change.item.job_id, "place": change.item.position, "me": self.owner}
                if db.execute(_CHANGE_OWN, place | values).rowcount:
                    self._tell_item(db, change.item, values)
                    if "state" in values:
                        ended[change.item.job_id] = None
            for job_id in ended:
                self._settle(db, job_id)

    def give_back(self, *, everyones: bool = False) -> int:
        """Queue again what this process has under way (or all processes, known to have ended); how many."""
        with self._write() as db:
            rows = db.execute(ITEMS.select().where(ITEMS.c.state == "running" if everyones else self._mine)).all()
            for row in rows:
                item = _made(StoredItem, row)
                if _head(db, item.job_id).cancel:
                    self._end_item(db, item, "cancelled")
                else:  # its owner stays: see Claim.again
                    self._requeue(db, item)
            for job_id in {row.job_id for row in rows}:
                self._settle(db, job_id)
            return len(rows)

    def blame(self, items: Collection[StoredItem]) -> None:
        """Keep in mind that a GPU failed at these, which were given back."""
        with self._write() as db:
            for item in items:
                place = {"this": item.job_id, "place": item.position, "owner": _GPU}
                db.execute(_CHANGE_ITEM.where(ITEMS.c.state == "queued"), place)

    def cancelled_jobs(self) -> list[str]:
        """Ids of jobs under way that are to end."""
        query = sa.select(JOBS.c.id).where(JOBS.c.cancel, JOBS.c.state.in_(OPEN_STATES))
        with self._read() as db:
            return list(db.execute(query).scalars())

    # Events and figures

    def tell(self, id: str, kind: str, data: Mapping[str, Any]) -> None:
        """How something stands that is no job; only its latest event is kept."""
        with self._write() as db:
            db.execute(EVENTS.delete().where(EVENTS.c.job_id == id))
            self._tell(db, id, kind, data)

    def events(self, after: int, *, job_id: str | None = None, limit: int = 500) -> list[StoredEvent]:
        """What happened since the event of a number, oldest first."""
        query = EVENTS.select().where(EVENTS.c.number > after).order_by(EVENTS.c.number).limit(limit)
        if job_id is not None:
            query = query.where(EVENTS.c.job_id == job_id)
        with self._read() as db:
            return [_made(StoredEvent, row) for row in db.execute(query)]

    def last_event(self) -> int:
        """The number of the latest event."""
        with self._read() as db:
            return db.execute(sa.select(sa.func.max(EVENTS.c.number))).scalar() or 0

    def counts(self) -> tuple[dict[str, int], int]:
        """Jobs by state, and recordings that wait."""
        with self._read() as db:
            states = db.execute(sa.select(JOBS.c.state, sa.func.count()).group_by(JOBS.c.state)).all()
            return {state: count for state, count in states}, _queued(db)

    def forget_events(self) -> None:
        """Keep the newest only."""
        with self._write() as db:
            last = db.execute(sa.select(sa.func.max(EVENTS.c.number))).scalar() or 0
            db.execute(EVENTS.delete().where(EVENTS.c.number <= last - _EVENTS_KEPT))

    def _known(self, db: Connection, new: NewJob) -> Job | None:
        if new.idempotency_key is None:
            return None
        row = db.execute(JOBS.select().where(JOBS.c.idempotency_key == new.idempotency_key)).first()
        if row is None:
            return None
        if row.fingerprint != new.fingerprint:
            raise ConflictError(None, "this Idempotency-Key was used for another request", "Use a new key")
        return _job(db, row.id)

    def _insert(self, db: Connection, new: NewJob) -> Job:
        id = secrets.token_hex(8)
        asked = {name: getattr(new, name) for name in ("kind", "voice", "idempotency_key", "fingerprint")}
        job = asked | {
            "id": id,
            "state": "queued",
            "options": dict(new.options),
            "created": time.time(),
            "cancel": False,
        }
        db.execute(JOBS.insert(), job)
        rows = [
            {"job_id": id, "position": position, "audio_id": audio.id, "name": audio.name, "state": "queued"}
            | {"audio_s": audio.info.get("audio_s")}
            for position, audio in enumerate(new.inputs)
        ]
        db.execute(ITEMS.insert(), rows)
        self._tell(db, id, "job", {"state": "queued"})
        return _job(db, id)

    @property
    def _mine(self) -> sa.ColumnElement[bool]:
        return (ITEMS.c.owner == self.owner) & (ITEMS.c.state == "running")

    def _lease(self, db: Connection, item: StoredItem, now: float) -> StoredItem:
        leased = replace(item, state="running", audio_done_s=0.0, begun=None)
        values = {"state": "running", "audio_done_s": 0.0, "begun": None, "owner": self.owner, "lease": now + LEASE_S}
        self._change(db, item, values)
        return leased

    def _requeue(self, db: Connection, item: StoredItem) -> None:
        values = {"state": "queued", "audio_done_s": 0.0, "begun": None, "lease": None}
        db.execute(_RESET_ITEM, {"this": item.job_id, "place": item.position} | values)
        self._tell_item(db, item, values)

    def _end_item(self, db: Connection, item: StoredItem, state: str) -> None:
        self._change(db, item, {"state": state, "owner": None, "lease": None})

    def _change(self, db: Connection, item: StoredItem, values: Mapping[str, Any]) -> None:
        db.execute(_CHANGE_ITEM, {"this": item.job_id, "place": item.position, **values})
        self._tell_item(db, item, values)

    def _tell_item(self, db: Connection, item: StoredItem, values: Mapping[str, Any]) -> None:
        shown = {name: values[name] for name in _SHOWN if name in values}
        self._tell(db, item.job_id, "item", {"position": item.position, **shown})

    def _settle(self, db: Connection, id: str) -> None:
        """Bring a job's state in line with its items'."""
        job = _head(db, id)
        states = db.execute(_ITS_STATES, {"this": id}).scalars()
        state = _state_of(list(states), cancel=job.cancel)
        if state == job.state:
            return
        ended = None if state in OPEN_STATES else time.time()
        db.execute(_CHANGE_JOB, {"this": id, "state": state, "ended": ended})
        self._tell(db, id, "job", {"state": state})

    def _tell(self, db: Connection, job_id: str, kind: str, data: Mapping[str, Any]) -> None:
        db.execute(_TELL, {"job_id": job_id, "kind": kind, "data": dict(data), "at": time.time()})

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        with explained(), self._engine.begin() as db:
            begin_writing(db)
            yield db

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        with explained(), self._engine.connect() as db:
            yield db


def _state_of(items: Sequence[str], *, cancel: bool) -> str:
    if "running" in items:
        return "cancelling" if cancel else "running"
    if "queued" in items:
        return "running" if any(state != "queued" for state in items) else "queued"
    if all(state == "failed" for state in items):
        return "failed"
    if cancel and "cancelled" in items:
        return "cancelled"
    return "partly" if "failed" in items else "done"


def _job(db: Connection, id: str) -> Job:
    return replace(_head(db, id), items=_items_of(db, [id]).get(id, ()))


def _head(db: Connection, id: str) -> Job:
    """A job without its items."""
    row = db.execute(_THIS_JOB, {"this": id}).first()
    if row is None:
        raise NotFoundError(None, f"no job {id[:80]!r}")
    return _made(Job, row)


def _items_of(db: Connection, ids: Sequence[str]) -> dict[str, tuple[StoredItem, ...]]:
    rows = itertools.groupby(db.execute(_THEIR_ITEMS, {"these": list(ids)}), key=lambda row: row.job_id)
    return {job_id: tuple(_made(StoredItem, row) for row in group) for job_id, group in rows}


def _waiting() -> sa.Select[Any]:
    """Items that may be taken: first one of every job, then the next of every job."""
    expired = (ITEMS.c.state == "running") & (ITEMS.c.lease < sa.bindparam("now"))
    rank = sa.func.row_number().over(partition_by=ITEMS.c.job_id, order_by=ITEMS.c.position).label("rank")
    others = ITEMS.c.job_id.not_in(sa.bindparam("full", expanding=True))
    ranked = sa.select(ITEMS, rank).where((ITEMS.c.state == "queued") | expired, others).subquery()
    waiting = sa.select(ranked).join(JOBS, JOBS.c.id == ranked.c.job_id).where(ranked.c.rank <= sa.bindparam("each"))
    return waiting.order_by(ranked.c.rank, JOBS.c.number).limit(sa.bindparam("most"))


_WAITING = _waiting()


def _queued(db: Connection) -> int:
    return db.execute(_QUEUED).scalar_one()


def _made(kind: type[T], row: Row[Any], **more: Any) -> T:
    fields: Any = kind
    return kind(**{name: row._mapping[name] for name in fields.__dataclass_fields__ if name in row._mapping}, **more)
