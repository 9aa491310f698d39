"""A real service in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

ENDED = ("done", "partly", "failed", "cancelled")


class Service:
    """`menura serve` on a free port, the same after a restart; use it as a context manager.

    Args:
        data: the service's folder.
        home: $MENURA_HOME.
        further: more arguments.
    """

    def __init__(self, data: Path, home: Path, *further: str) -> None:
        self.data, self._home, self._further, self._port = data, home, further, 0
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "menura",
            "serve",
            "--port",
            str(self._port),
            "--data",
            str(self.data),
            *self._further,
        ]
        environment = os.environ | {"MENURA_HOME": str(self._home), "OMP_NUM_THREADS": "1"}
        self.log = self.data.with_suffix(".log").open("ab")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=environment)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert "http://" in line, self.said()
        self.address = line.split()[3].rstrip("/")
        self._port = int(self.address.rpartition(":")[2])
        self.client = httpx.Client(base_url=self.address, timeout=60)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def kill(self) -> None:
        self.client.close()
        self.process.kill()
        self._reap()

    def stop(self) -> int:
        if self.process.poll() is None:
            self.client.close()
            self.process.send_signal(signal.SIGTERM)
        self._reap()
        return self.process.returncode

    def _reap(self) -> None:
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.log.close()

    def said(self) -> str:
        return self.data.with_suffix(".log").read_text()

    def send(self, path: Path, name: str | None = None) -> str:
        """Upload a recording; its id."""
        answer = self.client.put("/v1/audio", params={"name": name or path.name}, content=path.read_bytes())
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def job(self, *ids: str, voice: str = "tiny", **options: Any) -> dict[str, Any]:
        """Queue a job."""
        answer = self.client.post("/v1/jobs", json={"inputs": list(ids), "voice": voice, "options": options})
        assert answer.status_code == 202, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def ended(self, id: str, timeout_s: float = 60) -> dict[str, Any]:
        """The job, once it has ended."""
        return self.until(id, lambda job: job["state"] in ENDED, timeout_s)

    def until(self, id: str, condition: Callable[[dict[str, Any]], bool], timeout_s: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while True:
            job: dict[str, Any] = self.client.get(f"/v1/jobs/{id}").json()
            if condition(job):
                return job
            assert time.monotonic() < deadline, job
            time.sleep(0.05)
