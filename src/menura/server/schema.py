"""The service's database: tables, schema versions, connections. SQLite, or PostgreSQL by its URL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from menura.errors import ResourceError

SCHEMA_VERSION = 1


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
    sa.Column("ended", sa.Float),
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
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
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
    except (sa.exc.OperationalError, sa.exc.DatabaseError) as error:
        if isinstance(error, sa.exc.IntegrityError):
            raise
        said = " ".join(str(error.orig or error).split())
        raise ResourceError(
            "database", f"can't be used ({said})", "Check the disk and the service's data folder"
        ) from error


def open_database(url: str) -> Engine:
    """Connect, and bring the database to this version's schema. Raises ResourceError."""
    sqlite = url.startswith("sqlite")
    # Statements of two threads must not share a transaction, so each takes a connection of its own.
    engine = sa.create_engine(url, connect_args={"timeout": 30} if sqlite else {}, json_serializer=_json)
    if sqlite:
        sa.event.listen(engine, "connect", _configure_sqlite)
    _migrate(engine)
    return engine


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where `_write` says
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=30000"):
        connection.execute(f"PRAGMA {pragma}").close()


def _migrate(engine: Engine) -> None:
    """Bring a database to this version's schema. Raises ResourceError for a newer one's."""
    with explained(), engine.begin() as db:
        if db.dialect.name == "sqlite":
            db.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            db.exec_driver_sql("SELECT pg_advisory_xact_lock(7423901)")
        METADATA.create_all(db, tables=[META])
        row = db.execute(META.select().where(META.c.key == "schema")).first()
        version = int(row.value) if row is not None else 0
        if version > SCHEMA_VERSION:
            raise ResourceError("database", f"was made by a newer version (schema {version})", "Upgrade Menura")
        for step in _MIGRATIONS[version:]:
            step(db)
        db.execute(META.delete().where(META.c.key == "schema"))
        db.execute(META.insert().values(key="schema", value=str(SCHEMA_VERSION)))


def _first(db: Connection) -> None:
    METADATA.create_all(db)


_MIGRATIONS = (_first,)
"""One for each schema version, from an empty database on."""
