"""What the service refuses, keeps apart, hides and forgets, without a server."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from click.testing import CliRunner

from menura.audio.decode import AudioReader, open_audio
from menura.cli.main import cli
from menura.errors import AssetMissingError, DecodeError, ErrorDetails, MenuraError, ResourceError
from menura.options import EngineOptions, ServeOptions
from menura.server import run, security
from menura.server.folder import DataFolder, TooLargeError
from menura.server.problems import public
from menura.server.recording import BoundedRecording
from menura.server.retention import Kept, leaving
from menura.server.security import Access, Guard
from menura.server.service import Changes, Service
from menura.server.store import ConflictError, NewJob, Store

CLIP = Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"
DAY = 86_400.0


def answered(guard: Guard, **further: Any) -> int:
    """The status that a request gets."""
    headers = {"host": "localhost", **further.pop("headers", {})}
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/voices",
        "client": ("192.0.2.7", 5000),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
        **further,
    }
    asyncio.run(guard(scope, receive, send))
    return int(sent[0]["status"])


async def welcomed(_scope: Any, _receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def guard() -> Guard:
    return Guard(welcomed, Access.of("127.0.0.1", None, ["Studio.Example"]), 2**20)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:7865", "127.0.0.1", "[::1]:7865", "studio.example:443"])
def test_the_services_own_names_are_taken(guard: Guard, host: str) -> None:
    assert answered(guard, headers={"host": host}) == 200


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "localhost.", "evil.example:localhost", "a@localhost", "[::2]"],
)
def test_other_names_are_refused(guard: Guard, host: str) -> None:
    assert answered(guard, headers={"host": host}) == 421


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"sec-fetch-site": "same-origin"}, 200),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 200),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}, 403),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}, 403),
        ("GET", {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
        ("POST", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}, 403),
        ("POST", {"origin": "http://localhost"}, 200),
        ("POST", {"origin": "http://localhost:8000"}, 403),
        ("POST", {"origin": "http://["}, 403),
        ("GET", {"origin": "http://evil.example"}, 403),
    ],
)
def test_what_other_sites_fetch_is_refused(guard: Guard, method: str, headers: dict[str, str], status: int) -> None:
    assert answered(guard, method=method, headers=headers) == status


@pytest.mark.parametrize(
    ("path", "bytes", "status"),
    [
        ("/v1/audio", 2**20, 200),
        ("/v1/audio", 10 * 2**20, 413),
        ("/v1/voices/wren/index", 2**20, 200),
        ("/v1/jobs", 2**20, 200),
        ("/v1/jobs", 10 * 2**20, 413),
        ("/login", 10**17, 413),
    ],
)
def test_a_request_that_announces_too_much_is_refused(guard: Guard, path: str, bytes: int, status: int) -> None:
    assert answered(guard, method="POST", path=path, headers={"content-length": str(bytes)}) == status


def test_tokens_cant_be_tried_out() -> None:
    access = Access.of("0.0.0.0", "correct hörse")
    guard = Guard(welcomed, access, 2**20)
    right = {"authorization": "Bearer correct hörse".encode().decode("latin-1")}

    def status(headers: dict[str, str], address: str = "192.0.2.7") -> int:
        return answered(guard, headers=headers, client=(address, 5))

    assert status(right) == 200
    assert status({}) == 401
    assert [status({"authorization": "Bearer one and the same"}) for _ in range(30)] == [401] * 30
    assert [status({"authorization": f"Bearer {number}"}) for number in range(9)] == [401] * 9
    assert status(right) == 429
    assert status(right, "192.0.2.8") == 200
    assert status({"cookie": f"a,b=c; menura_session={access.session}"}) == 200  # people who are signed in stay so
    assert status({"cookie": "menura_session=guessed"}) == 401
    assert answered(guard, path="/openapi.json", client=("192.0.2.9", 5)) == 401
    for number in range(10):
        assert status({"authorization": f"Bearer {number}"}, f"2001:db8::{number:x}") == 401
    assert status(right, "2001:db8::ffff") == 429  # one network


def test_a_client_that_sends_no_more_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(security, "_SILENCE_S", 0.05)
    met: list[Any] = []

    async def reading(_scope: Any, receive: Any, _send: Any) -> None:
        met.append(await receive())

    async def receive() -> Any:
        await asyncio.sleep(60)

    guard = Guard(reading, Access.of("127.0.0.1", None), 2**20)
    scope = {"type": "http", "method": "PUT", "path": "/v1/audio", "headers": [(b"host", b"localhost")]}
    asyncio.run(guard(scope, receive, welcomed))
    assert met == [{"type": "http.disconnect"}]


def test_a_connection_without_a_request_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_REQUEST_S", 0.3)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(welcomed, http=run.Protocol, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        with socket.create_connection(listening.getsockname(), timeout=10) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")
            assert slow.recv(100) == b""
        with socket.create_connection(listening.getsockname(), timeout=10) as quick:
            quick.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert quick.recv(100).startswith(b"HTTP/1.1 200 ")
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.mark.parametrize(
    ("details", "advice"),
    [
        (AssetMissingError("rmvpe", "not installed", "Put it into /data/home/x. Or: menura assets import F").details,
         "Ask whoever runs the service to install it; GET /v1/system lists what is missing"),
        (ErrorDetails(kind="decode", problem="p", advice="pip install 'menura[media]'"), "Send it as wav or flac"),
        (ErrorDetails(kind="option", problem="p", advice="Use {index_rate=0}"), "Use {index_rate=0}"),
        (ErrorDetails(kind="resource", subject="database", problem="no password for ann at /data"), None),
        (ErrorDetails(kind="resource", subject="/data/home/a", problem="no permission for /data/home/a/b", advice=None),
         None),
    ],
)  # fmt: skip
def test_errors_speak_to_clients(details: ErrorDetails, advice: str | None) -> None:
    shown = public(details, Path("/data/home"))
    assert shown.advice == advice
    assert "/data" not in shown.text()


def test_a_recording_longer_than_its_header_says_fails(tmp_path: Path) -> None:
    data = bytearray(CLIP.read_bytes())
    data[21], data[22:26] = data[21] & 0xF0, bytes(4)  # FLAC: the number of samples is unknown
    path = tmp_path / "endless"
    path.write_bytes(data)
    assert open_audio(path).info.length_samples is None
    reader = BoundedRecording(path, "talk", most_s=3, advice="Cut it").open()
    with pytest.raises(TooLargeError, match="talk: is longer than 3 s"):
        list(reader.blocks(16_000))
    whole = sum(map(len, BoundedRecording(path, "talk", most_s=60, advice="Cut it").open().blocks(16_000)))
    assert whole == open_audio(CLIP).info.length_samples
    with pytest.raises(TooLargeError):
        BoundedRecording(CLIP, "talk", most_s=3, advice="Cut it").open()


def test_surprises_in_reading_are_the_recordings_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def surprised(*_: object) -> None:
        raise ZeroDivisionError

    recording = BoundedRecording(CLIP, "talk", most_s=60, advice="Cut it")
    reader = recording.open()
    monkeypatch.setattr(AudioReader, "blocks", surprised)
    with pytest.raises(DecodeError, match="talk: can't be read"):
        list(reader.blocks(16_000))


async def pieces(data: bytes, gate: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 5):
        yield data[start : start + 5]
        if gate is not None:
            await gate.wait()


def test_uploads_dont_meet(tmp_path: Path) -> None:
    folder, data = DataFolder(tmp_path / "data", 1000), b"the same bytes"

    async def twice() -> None:
        gate = asyncio.Event()
        both = [asyncio.create_task(folder.receive_once(pieces(data, gate))) for _ in range(2)]
        kept = [asyncio.create_task(folder.receive(pieces(data, gate))) for _ in range(2)]
        await asyncio.sleep(0.05)
        gate.set()
        first, second = [await task for task in both]
        assert first != second
        assert first.read_bytes() == second.read_bytes() == data
        assert {(await task).sha256 for task in kept} == {hashlib.sha256(data).hexdigest()}
        with pytest.raises(TooLargeError):
            await folder.receive(pieces(bytes(1001)))

    asyncio.run(twice())
    assert [path.name for path in (tmp_path / "data" / "audio").iterdir()] == [hashlib.sha256(data).hexdigest()]
    if os.name == "posix":
        assert (tmp_path / "data").stat().st_mode & 0o077 == 0


def test_two_clients_cant_send_one_upload(tmp_path: Path) -> None:
    folder, data = DataFolder(tmp_path / "data", 1000), b"0123456789"

    async def both() -> None:
        gate = asyncio.Event()
        first = asyncio.create_task(folder.receive_part("a key", range(0, 8), 10, pieces(data[:8], gate)))
        await asyncio.sleep(0.05)
        with pytest.raises(ConflictError):
            await folder.receive_part("a key", range(0, 8), 10, pieces(b"x" * 8))
        gate.set()
        assert (await first).received_bytes == 8
        assert (await folder.receive_part("a key", range(5, 10), 10, pieces(data[5:]))).received_bytes == 8
        done = await folder.receive_part("a key", range(8, 10), 10, pieces(b"89 and more"))
        assert done.saved is not None
        assert folder.audio(done.saved.sha256).read_bytes() == data

    asyncio.run(both())


def test_a_full_disk_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = DataFolder(tmp_path / "data", 2**21)
    free = iter([2**40, 2**40, 2**20])
    monkeypatch.setattr(folder, "free_bytes", lambda: next(free))
    with pytest.raises(ResourceError, match="nearly full"):
        asyncio.run(folder.receive(pieces(bytes(2**20))))
    assert not list((tmp_path / "data" / "audio").iterdir())


def test_what_leaves_is_told_before() -> None:
    kept = [Kept(kind="job", id=str(day), since=day * DAY, size_bytes=10) for day in range(5)]
    by_age = leaving(kept, 50, keep_s=3 * DAY, most_bytes=1000, now=4 * DAY)
    assert [(one.what.id, one.at / DAY, one.why) for one in by_age[:2]] == [("0", 3, "age"), ("1", 4, "age")]
    by_size = leaving(kept, 50, keep_s=30 * DAY, most_bytes=25, now=4 * DAY)
    assert [(one.what.id, one.at / DAY, one.why) for one in by_size[:4]] == [
        ("0", 4, "size"),
        ("1", 4, "size"),
        ("2", 4, "size"),
        ("3", 33, "age"),
    ]
    young = leaving(kept[4:], 50, keep_s=30 * DAY, most_bytes=1, now=4 * DAY)
    assert (young[0].at, young[0].why) == (4 * DAY + 3600, "size")


def test_tidying_up(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "data", 1000)
    store = Store(folder.database_url)
    service = Service(
        options=ServeOptions(keep_days=10),
        engine=EngineOptions(),
        home=tmp_path,
        folder=folder,
        store=store,
        runner=cast(Any, None),
        trainings=cast(Any, None),
        changes=Changes(),
    )
    saved = [asyncio.run(folder.receive(pieces(bytes([number])))).sha256 for number in range(3)]
    used = store.add_audio(saved[0], "used", 1, {})
    store.add_audio(saved[1], "unused", 1, {})  # and the third is known to nobody
    job, _ = store.create(NewJob(kind="convert", voice="wren", options={}, inputs=[used]))
    store.cancel(job.id)
    result = folder.result(job.id, 0, "wav")
    sample, lost = folder.sample("x"), folder.result("0123", 0, "wav")
    for path in (result, sample, lost):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"sound")
    half = tmp_path / "data" / "uploads" / ("0" * 64)
    half.write_bytes(b"half")
    ended = store.job(job.id).ended
    assert ended is not None

    def age() -> None:
        """Let all that lies there be two days old."""
        for path in (tmp_path / "data").rglob("*"):
            os.utime(path, (ended - 2 * DAY, ended - 2 * DAY))

    service.tidy(ended + 1)
    assert all(folder.audio(id).exists() for id in saved)  # what just came may not be known yet
    age()
    service.tidy(ended + 1)
    assert [folder.audio(id).exists() for id in saved] == [True, True, False]
    assert (result.exists(), lost.exists(), half.exists()) == (True, False, False)
    told = {one.what.id: one.at for one in service.leaving(ended)}
    assert told[job.id] == ended + 10 * DAY
    age()
    service.tidy(ended + 10 * DAY + 1)
    assert not result.parent.exists()
    with pytest.raises(MenuraError):
        store.job(job.id)
    service.tidy(ended + 10 * DAY + 1)
    age()
    service.tidy(ended + 10 * DAY + 1)
    assert not list((tmp_path / "data" / "audio").iterdir())
    assert sample.exists()
    folder.sweep((), (), (), most_samples=0)
    assert not sample.exists()
    store.close()


def test_exported_voices_stay_for_an_hour_and_four_at_most(tmp_path: Path) -> None:
    folder, now = DataFolder(tmp_path / "data", 2**20), time.time()
    for number, age_s in enumerate((0, 60, 120, 180, 240, 3700)):
        (folder.exports / str(number)).mkdir()
        (folder.exports / str(number) / "voice.zip").write_bytes(b"voice")
        os.utime(folder.exports / str(number), (now - age_s, now - age_s))
    folder.sweep((), (), (), most_samples=0)
    assert sorted(path.name for path in folder.exports.iterdir()) == ["0", "1", "2", "3"]
    os.utime(folder.exports / "1", (now - 3700, now - 3700))
    folder.sweep((), (), (), most_samples=0)
    assert sorted(path.name for path in folder.exports.iterdir()) == ["0", "2", "3"]


def test_without_the_extra_one_line_says_what_to_install() -> None:
    code = "import sys; sys.modules['fastapi'] = None; from menura.cli.main import run; sys.exit(run(['serve']))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "fastapi" in ended.stderr
    assert "menura[serve]" in ended.stderr


@pytest.mark.parametrize("given", [[], ["--open"]])
def test_the_browser_opens_only_when_asked_and_ready(monkeypatch: pytest.MonkeyPatch, given: list[str]) -> None:
    opened: list[str] = []

    def served(_options: ServeOptions, _engine: EngineOptions, on_ready: Any) -> None:
        assert not opened
        on_ready("http://127.0.0.1:7865/")

    monkeypatch.setattr(run, "run", served)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    told = CliRunner().invoke(cli, ["serve", *given])
    assert (told.exit_code, "http://127.0.0.1:7865/" in told.output) == (0, True)
    assert opened == ["http://127.0.0.1:7865/"] * len(given)
