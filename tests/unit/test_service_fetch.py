"""What the service fetches for its clients, and what it doesn't."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from menura.options import EngineOptions, ServeOptions
from menura.server import fetching
from menura.server.app import create_app
from menura.server.security import Access
from menura.server.service import Service, opened
from menura.system import download
from support.origin import Origin, Served, redirect
from support.voicefiles import write_voice


class Client:
    """Of a service in this process."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._transport = httpx.ASGITransport(create_app(service, Access.of("127.0.0.1", None)))

    def __call__(self, method: str, path: str, **further: Any) -> httpx.Response:
        async def answer() -> httpx.Response:
            async with httpx.AsyncClient(transport=self._transport, base_url="http://localhost") as client:
                return await client.request(method, path, **further)

        return asyncio.run(answer())


Start = Callable[..., Client]
HTTPS = "https:/" + "/"
IS_PUBLIC = download.is_public


@pytest.fixture
def weights(tmp_path: Path) -> bytes:
    return write_voice(tmp_path / "made.pth").read_bytes()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a service in this process."""
    monkeypatch.setattr(download, "_PAUSE_S", 0.0)
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Client:
            engine = EngineOptions(home=tmp_path / "home", device="cpu")
            service = stack.enter_context(opened(ServeOptions(data=tmp_path / "data", **options), engine))
            return Client(service)

        yield start


def asked(client: Client, url: str, **further: Any) -> Any:
    return client("POST", "/v1/voices/fetch", json={"url": url, "rights": "mine", **further})


def test_a_voice_is_fetched_with_its_hash_and_rights(
    start: Start, internet: Origin, weights: bytes, tmp_path: Path
) -> None:
    internet.files["/store"] = Served(weights)
    internet.files["/guest.pth"] = redirect("/store")
    url, sha256 = f"{internet.url}/guest.pth", hashlib.sha256(weights).hexdigest()
    client = start()
    answer = asked(client, url, sha256=sha256.upper())
    assert answer.status_code == 201, answer.text
    document = answer.json()
    assert (document["url"], document["sha256"], document["voices"][0]["licence"]) == (url, sha256, "mine")
    card = client("GET", "/v1/voices/guest").json()["card"]
    assert {key: card[key] for key in ("url", "sha256", "rights")} == {"url": url, "sha256": sha256, "rights": "mine"}
    assert (asked(client, url).status_code, asked(client, url).json()["option"]) == (409, "name")
    internet.files["/guest.pth?key=secret"] = internet.files["/guest.pth"]
    other = asked(client, f"{url}?key=secret", name="other")
    assert (other.status_code, other.json()["url"]) == (201, url)
    assert "secret" not in client("GET", "/v1/voices/other").text
    assert list((tmp_path / "data" / "incoming").iterdir()) == []
    assert not (tmp_path / "home" / "cache" / "downloads").exists()


def test_a_repository_brings_its_index(start: Start, internet: Origin, weights: bytes) -> None:
    listed = {"siblings": [{"rfilename": "guest.pth"}, {"rfilename": "README.md"}]}
    internet.files["/api/models/owner/guest/revision/main"] = Served(json.dumps(listed).encode())
    internet.files["/owner/guest/resolve/main/guest.pth"] = Served(weights)
    answer = asked(start(), "owner/guest")
    assert (answer.status_code, answer.json()["voices"][0]["name"]) == (201, "guest")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (HTTPS + "10.0.0.1/voice.pth", "is an address of this machine or its own network"),
        (HTTPS + "[::ffff:10.0.0.1]/voice.pth", "is an address of this machine or its own network"),
        (HTTPS + "169.254.169.254/latest/meta-data/voice.pth", "is an address of this machine or its own network"),
        ("http://127.0.0.1/voice.pth", "is not encrypted"),
        ("file:///etc/voice.pth", "is no https address"),
        ("ORIGIN/inside.pth", "is an address of this machine or its own network"),
        ("ORIGIN/plain.pth", "is not encrypted"),
        ("ORIGIN/page.html", "names no .pth, .safetensors or .zip file"),
        ("ORIGIN/rebound.pth", "is an address of this machine or its own network"),
    ],
)
def test_private_places_are_refused_beside_the_field(
    start: Start, internet: Origin, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.setattr(download, "is_public", lambda address: address == "127.0.0.1" or IS_PUBLIC(address))
    answers = iter([[(0, 0, 0, "", ("10.1.2.3", 443))]])  # of a name that meant another address when it was written
    lookup = socket.getaddrinfo
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *args, **kw: next(answers) if host == "rebinding.example" else lookup(host, *args, **kw),
    )
    internet.files["/inside.pth"] = redirect(HTTPS + "192.168.0.1/voice.pth")
    internet.files["/plain.pth"] = redirect("http://127.0.0.1/voice.pth")
    internet.files["/rebound.pth"] = redirect(HTTPS + "rebinding.example/voice.pth")
    answer = asked(start(), url.replace("ORIGIN", internet.url))
    document = answer.json()
    assert (answer.status_code, document["problem"], document["option"]) == (422, said, "url")
    assert "allow_private" not in answer.text


def test_too_much_and_another_file_are_refused(start: Start, internet: Origin, weights: bytes, tmp_path: Path) -> None:
    internet.files["/guest.pth"] = Served(weights)
    internet.files["/large.pth"] = Served(bytes(2 * 2**20))
    client = start(most_mb=1)
    large = asked(client, f"{internet.url}/large.pth").json()
    assert (large["kind"], large["option"]) == ("download", "url")
    other = asked(client, f"{internet.url}/guest.pth", sha256="0" * 64)
    assert (other.status_code, other.json()["option"]) == (502, "url")
    assert f"has the SHA-256 {hashlib.sha256(weights).hexdigest()}" in other.json()["problem"]
    assert client("GET", "/v1/voices/guest").status_code == 404
    assert list((tmp_path / "data" / "incoming").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "proxy", "status"),
    [
        ({"host": "0.0.0.0", "token": "correct horse"}, "", 403),
        ({"allow_host": ("studio.example",)}, "", 403),
        ({"fetch": "never"}, "", 403),
        ({"fetch": "always", "allow_host": ("studio.example",)}, "", 422),
        ({"fetch": "always"}, "http://127.0.0.1:9", 403),
        ({}, "http://127.0.0.1:9", 422),
    ],
)
def test_who_may_have_voices_fetched(
    start: Start, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], proxy: str, status: int
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if proxy:
        monkeypatch.setenv("https_proxy", proxy)
    client = start(**options)
    answer = asked(client, HTTPS + "127.0.0.1/voice.pth")
    assert answer.status_code == status, answer.text
    page = client("GET", "/voices", headers={"Accept": "text/html"}).text
    assert ('id="url"' in page) == (status != 403)


def test_one_at_a_time_and_the_service_s_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    answers: list[Any] = []

    def slow(_place: str, _folder: Path, _options: object, on_progress: Callable[..., None], *_: object) -> None:
        begun.set()
        assert go_on.wait(20)
        on_progress(1, None)

    monkeypatch.setattr(fetching, "fetch_voice", slow)
    client, url = start(), HTTPS + "example.org/voice.pth"
    first = threading.Thread(target=lambda: answers.append(asked(client, url)))
    first.start()
    assert begun.wait(20)
    second = asked(client, url)
    assert (second.status_code, second.json()["kind"]) == (429, "queue_full")
    assert int(second.headers["retry-after"]) > 0
    client.service.close()
    first.join(20)
    go_on.set()
    assert answers[0].json()["problem"] == "the service ends"


def test_a_thread_that_can_t_start_locks_nobody_out(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    client, url = start(), HTTPS + "127.0.0.1/voice.pth"

    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", none_left)
        with pytest.raises(RuntimeError, match="new thread"):
            fetching.fetch_for_client(client.service, url, client.service.folder.exports, None)
    assert asked(client, url).json()["kind"] != "queue_full"
