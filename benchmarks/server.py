"""The service under load, beside `menura convert` on the same recordings.

    python -m benchmarks.server [--clients 50] [--seconds 120]

Each client sends 5 s of speech as a job of its own, waits until it is done, fetches the result, and begins again. Says
latencies, failures, memory, and throughput as a share of the command's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile

CLIP = Path(__file__).parents[1] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"
_SECONDS = 5


class Load:
    """What the clients met."""

    def __init__(self, address: str, seconds: float) -> None:
        self.address, self.until = address, time.monotonic() + seconds
        self.latencies_s: list[float] = []
        self.failures: list[str] = []

    def client(self, number: int, folder: Path) -> None:
        with httpx.Client(base_url=self.address, timeout=120) as client:
            while time.monotonic() < self.until:
                self._round(client, folder / f"{number % 20}.flac")

    def _round(self, client: httpx.Client, path: Path) -> None:
        try:
            self.latencies_s.append(_round(client, path))
        except (httpx.HTTPError, KeyError, AssertionError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            time.sleep(0.5)


def _round(client: httpx.Client, path: Path) -> float:
    begun = time.monotonic()
    id = client.put("/v1/audio", params={"name": path.name}, content=path.read_bytes()).json()["id"]
    job = client.post("/v1/jobs", json={"inputs": [id], "voice": "wren"}).json()
    while job["state"] in ("queued", "running"):
        time.sleep(0.25)
        job = client.get(f"/v1/jobs/{job['id']}").json()
    assert job["state"] == "done", job
    result = client.get(job["items"][0]["result"])
    assert result.status_code == 200
    assert len(result.content) > 200_000
    return time.monotonic() - begun


def _recordings(folder: Path) -> None:
    samples, rate = soundfile.read(CLIP, dtype="float32")
    for number in range(20):
        part = np.roll(samples, -number * rate // 4)[: _SECONDS * rate]
        soundfile.write(folder / f"{number}.flac", part, rate)


def _command_s(folder: Path, out: Path) -> float:
    """Audio seconds a second of the command, its start and loading left out, as the service's are."""
    command = [sys.executable, "-m", "menura", "convert", str(folder), "-o", f"{out}/", "--force", "--json"]
    report: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return float(sum(file["audio_s"] for file in report["files"]) / report["wall_s"])


def _memory_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "in")
        folder.mkdir()
        _recordings(folder)
        many = Path(place, "many")
        many.mkdir()
        for number in range(100):
            (many / f"{number}.flac").write_bytes((folder / f"{number % 20}.flac").read_bytes())
        command = _command_s(many, Path(place, "out"))
        print(f"command: {command:.1f} audio seconds a second", flush=True)
        serve = [sys.executable, "-m", "menura", "serve", "--port", "0", "--data", f"{place}/data"]
        process = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        load = Load(process.stdout.readline().split()[3], given.seconds)
        threads = [threading.Thread(target=load.client, args=(number, folder)) for number in range(given.clients)]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        memory = []
        while any(thread.is_alive() for thread in threads):
            memory.append(_memory_mb(process.pid))
            time.sleep(1)
        wall_s = time.monotonic() - begun
        process.terminate()
        process.wait(30)
    done = len(load.latencies_s)
    rate = done * _SECONDS / wall_s
    ordered = sorted(load.latencies_s)
    print(f"service: {rate:.1f} audio seconds a second, {rate / command:.2f} of the command's")
    print(f"{done} jobs, {len(load.failures)} failures {load.failures[:3]}")
    print(f"latency: median {statistics.median(ordered):.2f} s, 95th percentile {ordered[int(0.95 * done)]:.2f} s")
    third = max(1, len(memory) // 3)
    print(f"memory: {statistics.mean(memory[third : 2 * third]):.0f} MB in the middle, {memory[-1]:.0f} MB at the end")


if __name__ == "__main__":
    main()
