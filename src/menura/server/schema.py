"""The service's database: tables, schema versions, connections. SQLite, or PostgreSQL by its URL.

psycopg, which speaks to PostgreSQL, is the extra `postgres`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from menura.errors import OptionError, ResourceError

SCHEMA_VERSION = 2
_MIGRATING, _WRITING = 7423901, 7423902
"""Locks of a PostgreSQL server."""

METADATA = sa.MetaData()
META = sa.Table("meta", METADATA, sa.Column("key", sa.String, primary_key=True), sa.Column("value", sa.String))
AUDIO = sa.Table(
    "audio",
    METADATA,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("info", sa.JSON, nullable=False),
    sa.Column("used", sa.Float, nullable=False, index=True),
)
JOBS = sa.Table(
    "jobs",
    METADATA,
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String(32), nullable=False, unique=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("voice", sa.String, nullable=False),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("ended", sa.Float, index=True),
    sa.Column("cancel", sa.Boolean, nullable=False, default=False),
    sa.Column("idempotency_key", sa.String(200), unique=True),
    sa.Column("fingerprint", sa.String(64)),
    sqlite_autoincrement=True,
)
ITEMS = sa.Table(
    "items",
    METADATA,
    sa.Column("job_id", sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("audio_id", sa.ForeignKey("audio.id"), nullable=False, index=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("audio_s", sa.Float),
    sa.Column("audio_done_s", sa.Float, nullable=False, default=0.0),
    sa.Column("begun", sa.Float),
    sa.Column("result", sa.JSON),
    sa.Column("error", sa.JSON),
    sa.Column("owner", sa.String(32)),
    sa.Column("lease", sa.Float),
)
EVENTS = sa.Table(
    "events",
    METADATA,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.String(32), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sqlite_autoincrement=True,
)


@contextmanager
def explained() -> Iterator[None]:
    try:
        yield
    except (OverflowError, sa.exc.DataError) as error:  # too large a number; a character that it doesn't keep
        raise OptionError(None, "a value can't be kept in the database") from error
    except sa.exc.IntegrityError:
        raise
    except sa.exc.DatabaseError as error:
        said = " ".join(str(error.orig or error).split())
        raise ResourceError("database", f"can't be used ({said})", "Check it, and the service's disk") from error


def open_database(url: str) -> Engine:
    """Connect, and bring the database to this version's schema. Raises OptionError, ResourceError."""
    address = _address(url)
    sqlite = address.get_backend_name() == "sqlite"
    try:
        # Statements of two threads must not share a transaction, so each takes a connection of its own.
        engine = sa.create_engine(
            address,
            connect_args={"timeout": 30} if sqlite else {"connect_timeout": 10},
            json_serializer=_json,
            max_overflow=-1,
            pool_pre_ping=not sqlite,
        )
    except ImportError as error:
        advice = "Install it with pip install 'menura[postgres]'"
        raise OptionError(None, f"{error.name} is missing", advice, "database") from error
    if sqlite:
        sa.event.listen(engine, "connect", _configure_sqlite)
    try:
        _migrate(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def begin_writing(db: Connection) -> None:
    """Wait until no other process writes, so that a transaction sees what it decides on, and events come in order."""
    _lock(db, _WRITING)


def _lock(db: Connection, number: int) -> None:
    db.exec_driver_sql("BEGIN IMMEDIATE" if db.dialect.name == "sqlite" else f"SELECT pg_advisory_xact_lock({number})")


def _address(url: str) -> sa.URL:
    try:
        address = sa.make_url(url)
    except sa.exc.ArgumentError:
        address = sa.URL.create("none")
    if address.drivername in ("postgres", "postgresql"):
        return address.set(drivername="postgresql+psycopg")
    if address.drivername not in ("sqlite", "postgresql+psycopg"):
        advice = "Give one such as postgresql://localhost/menura"
        raise OptionError(None, "is not the URL of a PostgreSQL database", advice, "database")
    return address


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `begin_writing` says
    try:
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
            connection.execute(f"PRAGMA {pragma}").close()
    except BaseException:
        connection.close()  # nobody else does
        raise


def _migrate(engine: Engine) -> None:
    """Bring a database to this version's schema. Raises ResourceError for a newer one's."""
    with explained(), engine.begin() as db:
        _lock(db, _MIGRATING)
        METADATA.create_all(db, tables=[META])
        row = db.execute(META.select().where(META.c.key == "schema")).first()
        version = int(row.value) if row is not None else 0
        if version > SCHEMA_VERSION:
            raise ResourceError("database", f"was made by a newer version (schema {version})", "Upgrade Menura")
        if version == 0:
            METADATA.create_all(db)
        else:
            for step in _MIGRATIONS[version - 1 :]:
                step(db)
        db.execute(META.delete().where(META.c.key == "schema"))
        db.execute(META.insert().values(key="schema", value=str(SCHEMA_VERSION)))


def _second(db: Connection) -> None:
    db.exec_driver_sql("CREATE INDEX ix_jobs_ended ON jobs (ended)")
    if db.dialect.name == "postgresql":
        db.exec_driver_sql("ALTER TABLE events ALTER COLUMN number TYPE BIGINT")
        db.exec_driver_sql("ALTER SEQUENCE events_number_seq AS BIGINT")


_MIGRATIONS = (_second,)
"""From each schema version to the next, beginning with version 1. What is new in a table stands here and above."""
