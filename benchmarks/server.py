"""The service under load, beside `menura convert` on the same recordings.

    python -m benchmarks.server [--clients 50] [--rounds 3] [--seconds 40] [--voice wren] [--length 5]

Each client sends `--length` seconds of speech as a job of its own, waits until it is done, fetches the result, and
begins again. Says latencies, failures, memory, and throughput as a share of the command's, which runs before, between
and after the rounds, as a machine's speed changes. Clients ask again every `--poll` seconds, or by default wait for
their job's end; they are in this process and use the machine too. `--jobs` ends a round after so many.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

CLIP = Path(__file__).parents[1] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"


class Load:
    """What the clients met."""

    def __init__(self, address: str, given: argparse.Namespace) -> None:
        self.address, self.given = address.partition("//")[2].rstrip("/"), given
        self.until = time.monotonic() + given.seconds
        self.latencies_s: list[float] = []
        self.failures: list[str] = []

    def client(self, number: int, folder: Path) -> None:
        connection = http.client.HTTPConnection(self.address, timeout=120)
        data = (folder / f"{number % 20}.flac").read_bytes()
        while time.monotonic() < self.until and len(self.latencies_s) < self.given.jobs:
            self._attempt(connection, data)
        connection.close()

    def _attempt(self, connection: http.client.HTTPConnection, data: bytes) -> None:
        try:
            self.latencies_s.append(self.round(connection, data))
        except (OSError, http.client.HTTPException, KeyError, AssertionError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
            connection.close()
            time.sleep(0.5)

    def round(self, connection: http.client.HTTPConnection, data: bytes) -> float:
        """One job, and how long it took."""
        begun, poll = time.monotonic(), self.given.poll
        id = json.loads(_asked(connection, "PUT", "/v1/audio?name=talk.flac", data))["id"]
        job = json.loads(_asked(connection, "POST", "/v1/jobs", {"inputs": [id], "voice": self.given.voice}))
        while job["state"] in ("queued", "running"):
            time.sleep(poll)
            job = json.loads(_asked(connection, "GET", f"/v1/jobs/{job['id']}{'' if poll else '?wait=60'}"))
        assert job["state"] == "done", job
        assert len(_asked(connection, "GET", job["items"][0]["result"])) > 40_000 * self.given.length
        return time.monotonic() - begun


def _asked(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | object = None) -> bytes:
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/octet-stream" if data is body else "application/json"}
    connection.request(method, path, data, headers)
    answer = connection.getresponse()
    content = answer.read()
    assert answer.status < 300, content[:300]
    return content


def _recordings(folder: Path, seconds: float) -> None:
    samples, rate = soundfile.read(CLIP, dtype="float32")
    for number in range(20):
        part = np.roll(samples, -number * rate // 4)[: round(seconds * rate)]
        soundfile.write(folder / f"{number}.flac", part, rate)


def _command_s(place: Path, folder: Path, voice: str) -> float:
    """Audio seconds a second of the command, loading included, its start left out."""
    many = place / "many"
    many.mkdir(exist_ok=True)
    for number in range(100):
        (many / f"{number}.flac").write_bytes((folder / f"{number % 20}.flac").read_bytes())
    command = [sys.executable, "-m", "menura", "convert", str(many), "-o", f"{place}/out/", "--voice", voice]
    command += ["--json", "--force"]
    report: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return float(sum(file["audio_s"] for file in report["files"]) / report["wall_s"])


def _memory_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--voice", default="wren")
    parser.add_argument("--length", type=float, default=5.0)
    parser.add_argument("--poll", type=float, default=0.0)
    parser.add_argument("--jobs", type=int, default=10**9)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "in")
        folder.mkdir()
        _recordings(folder, given.length)
        commands, rounds = [_command_s(Path(place), folder, given.voice)], list[Load]()
        serve = [sys.executable, "-m", "menura", "serve", "--port", "0", "--data", f"{place}/data"]
        rates = []
        with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            address = process.stdout.readline().split()[3]
            for _ in range(given.rounds):
                rounds.append(Load(address, given))
                rates.append(_measure(rounds[-1], process.pid, folder))
                commands.append(_command_s(Path(place), folder, given.voice))
            process.terminate()
    _print(rounds)
    for number, rate in enumerate(rates):
        shares = " and ".join(f"{rate / command:.2f}" for command in commands[number : number + 2])
        print(f"service: {rate:.1f} audio seconds a second: {shares} of the command's before and after")
    whole = statistics.mean(rates) / statistics.mean(commands)
    print(f"service: {statistics.mean(rates):.1f} in all: {whole:.2f} of the command's {statistics.mean(commands):.1f}")


def _print(rounds: list[Load]) -> None:
    ordered = sorted(latency for load in rounds for latency in load.latencies_s)
    failures, done = [failure for load in rounds for failure in load.failures], len(ordered)
    print(f"{done} jobs, {len(failures)} failures {failures[:3]}")
    print(f"latency: median {statistics.median(ordered):.2f} s, 95th percentile {ordered[int(0.95 * done)]:.2f} s")


def _measure(load: Load, pid: int, folder: Path) -> float:
    load.round(http.client.HTTPConnection(load.address, timeout=120), (folder / "0.flac").read_bytes())  # loads
    threads = [threading.Thread(target=load.client, args=(number, folder)) for number in range(load.given.clients)]
    begun, memory = time.monotonic(), []
    load.until = begun + load.given.seconds
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append(_memory_mb(pid))
        time.sleep(1)
    wall_s = time.monotonic() - begun
    middle = statistics.mean(memory[len(memory) // 3 : len(memory) * 2 // 3 + 1])
    print(f"memory: {middle:.0f} MB in the middle, {memory[-1]:.0f} MB at the end", flush=True)
    return float(len(load.latencies_s) * load.given.length / wall_s)


if __name__ == "__main__":
    main()
