"""Files are fetched whole, from where they should be, however servers and networks behave."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from menura.errors import DownloadError, MenuraError, ResourceError
from menura.system import download as module
from menura.system.download import Download, fetch, is_public
from menura.system.files import parts_folder
from support.origin import Origin, Served, redirect, serving

CONTENT = bytes(range(256)) * 4096
HTTPS = "https:/" + "/"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_S", 0.0)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serving() as origin:
        yield origin


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "weights.pth"


def wanted(origin: Origin, path: str = "/file", **fields: Any) -> Download:
    return Download(**{"url": origin.url + path, "most_bytes": 10**7, "allow_private": True} | fields)


def refused(download: Download, target: Path, said: str, kind: type[MenuraError] = DownloadError) -> None:
    with pytest.raises(kind, match=said):
        fetch(download, target)
    assert not target.is_file()


def test_a_file_is_fetched_and_its_hash_told(origin: Origin, target: Path) -> None:
    origin.files["/file"] = Served(CONTENT)
    progress: list[tuple[int, int | None]] = []
    assert fetch(wanted(origin, sha256=SHA256), target, lambda *at: progress.append(at)) == SHA256
    assert target.read_bytes() == CONTENT
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert progress == sorted(progress)
    assert os.listdir(target.parent) == [target.name]
    assert origin.asked[0][1]["host"] == origin.url.removeprefix("http://")


@pytest.mark.parametrize("chunked", [False, True])
def test_what_broke_off_goes_on_where_it_stopped(origin: Origin, target: Path, chunked: bool) -> None:
    origin.files["/file"] = Served(CONTENT, breaks_after=[300_000, 200_000])
    assert fetch(wanted(origin), target) == SHA256
    assert origin.ranges == [None, "bytes=300000-", "bytes=500000-"]
    assert origin.asked[1][1]["if-range"] == '"1"'


def test_a_later_call_goes_on_from_an_earlier_one(
    origin: Origin, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.files["/file"] = Served(CONTENT, breaks_after=[100_000] * module._ATTEMPTS)
    refused(wanted(origin), target, r"broke off 5 times; 0\.5 MB are kept")
    asked = len(origin.asked)
    assert fetch(wanted(origin), target) == SHA256
    assert origin.ranges[asked:] == ["bytes=500000-"]
    origin.files["/other"] = Served(CONTENT, breaks_after=[100_000] * module._ATTEMPTS)
    refused(wanted(origin, "/other"), target.with_name("new"), "broke off")
    origin.files["/file"] = Served(CONTENT)
    assert fetch(wanted(origin), target.with_name("new")) == SHA256  # another address: none of it is used
    assert origin.ranges[-1] is None


def test_a_killed_process_leaves_what_the_next_one_goes_on_from(origin: Origin, target: Path) -> None:
    origin.files["/file"] = Served(CONTENT, claims_bytes=len(CONTENT), breaks_after=[400_000])
    code = (
        "import os, sys; from pathlib import Path; from menura.system.download import Download, fetch\n"
        "download = Download(url=sys.argv[1], most_bytes=10**7, allow_private=True)\n"
        "fetch(download, Path(sys.argv[2]), lambda got, total: got >= 300_000 and os.kill(os.getpid(), 9))"
    )
    done = subprocess.run([sys.executable, "-c", code, origin.url + "/file", str(target)], check=False)
    assert done.returncode == -9
    assert not target.exists()
    assert fetch(wanted(origin), target) == SHA256
    assert origin.ranges[-1] is not None


def test_a_server_without_ranges_sends_all_again(origin: Origin, target: Path) -> None:
    origin.files["/file"] = Served(CONTENT, ranges=False, breaks_after=[300_000])
    assert fetch(wanted(origin), target) == SHA256
    assert target.read_bytes() == CONTENT
    assert origin.ranges == [None, "bytes=300000-"]


@pytest.mark.parametrize("heeds", [True, False])
def test_a_file_that_changes_between_attempts_is_never_mixed(origin: Origin, target: Path, heeds: bool) -> None:
    changed = Served(CONTENT[::-1], etag='"2"', heeds_if_range=heeds)
    origin.files["/file"] = Served(CONTENT, breaks_after=[300_000], after=changed)
    fetch(wanted(origin), target)
    assert target.read_bytes() == CONTENT[::-1]


def test_without_a_validator_only_a_known_file_is_gone_on_with(origin: Origin, target: Path) -> None:
    origin.files["/file"] = Served(CONTENT, etag=None, breaks_after=[300_000])
    fetch(wanted(origin), target)
    assert origin.ranges == [None, None]
    origin.files["/file"] = Served(CONTENT, etag=None, breaks_after=[300_000])
    fetch(wanted(origin, sha256=SHA256), target)
    assert origin.ranges[2:] == [None, "bytes=300000-"]
    changed = Served(CONTENT, etag=None)
    origin.files["/file"] = Served(CONTENT[::-1], etag=None, breaks_after=[300_000], after=changed)
    assert fetch(wanted(origin, sha256=SHA256), target) == SHA256  # what was kept was another file's
    assert target.read_bytes() == CONTENT


def test_another_file_than_the_one_wanted_is_refused(origin: Origin, target: Path) -> None:
    origin.files["/file"] = Served(CONTENT)
    refused(wanted(origin, sha256="0" * 64), target, f"has the SHA-256 {SHA256}, not 0000")
    refused(wanted(origin, size_bytes=5), target, "has 1048576 bytes, not 5")
    assert os.listdir(target.parent) == []


def test_sizes_are_bounded_before_and_while_reading(origin: Origin, target: Path) -> None:
    origin.files["/file"] = Served(CONTENT)
    refused(wanted(origin, most_bytes=1_000_000), target, "larger than 1 MB")
    origin.files["/file"] = Served(CONTENT, chunked=True)
    refused(wanted(origin, most_bytes=1_000_000), target, "larger than 1 MB")
    assert fetch(wanted(origin), target) == SHA256
    assert os.listdir(target.parent) == [target.name]


def test_lies_about_the_length(origin: Origin, target: Path) -> None:
    origin.files["/file"] = Served(CONTENT, claims_bytes=len(CONTENT) - 1000)  # it sends too much
    refused(wanted(origin, sha256=SHA256), target, "has the SHA-256")
    fetch(wanted(origin), target)
    assert target.read_bytes() == CONTENT[:-1000]
    target.unlink()
    origin.files["/file"] = Served(CONTENT, claims_bytes=len(CONTENT) + 1000, ranges=False)  # and too little
    refused(wanted(origin), target, "broke off 5 times")
    origin.files["/long"] = Served(CONTENT, claims_bytes=10**15)
    refused(wanted(origin, "/long"), target, "larger than 10 MB")
    refused(wanted(origin, "/long", most_bytes=10**16), target, "no room for 1000000000 MB", ResourceError)


def test_answers_that_are_no_file(origin: Origin, target: Path) -> None:
    refused(wanted(origin, "/missing"), target, "/missing: the server answers 404 Not Found")
    origin.files["/file"] = Served(CONTENT, headers={"Content-Encoding": "gzip"})
    refused(wanted(origin), target, "the server answers 200")
    origin.files["/cut"] = Served(CONTENT, cut_head=True)
    refused(wanted(origin, "/cut"), target, "doesn't say how long the file is")
    origin.files["/file"] = Served(CONTENT, breaks_after=[300_000], after=Served(b"", status=416))
    refused(wanted(origin), target, "the server answers 416")


def test_redirects_are_followed_and_bounded(origin: Origin, target: Path) -> None:
    origin.files |= {
        "/a": redirect("/b c"),
        "/b%20c": redirect(f"{origin.url}/file?x=1#part"),
        "/file?x=1": Served(CONTENT),
    }
    assert fetch(wanted(origin, "/a"), target) == SHA256
    target.unlink()
    origin.files["/loop"] = redirect("/loop")
    refused(wanted(origin, "/loop"), target, "over more than 8 addresses")
    assert [path for path, _ in origin.asked].count("/loop") == 9
    origin.files["/a"] = redirect("ftp://127.0.0.1/file")
    refused(wanted(origin, "/a"), target, "is no https address")


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *(
            "255.255.255.255",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fe80::1%eth0",
            "fec0::1",
            "fc00::1",
            "ff02::1",
            "2001:db8::1",
        ),
        *(
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "2002:7f00:1::",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
        ),
    ],
)
def test_addresses_that_are_not_the_internet_s(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_addresses_that_are(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1/file", "is not encrypted. Take an https address, or add allow_private"),
        ("https://127.0.0.1/file", "127.0.0.1/file: is an address of this machine"),
        ("https://localhost/file", "localhost/file: is an address of this machine"),
        ("https://[::1]:9/file", "/file: is an address of this machine"),
        (HTTPS + "0x7f000001/file", "address of this machine|can't be reached"),
        (HTTPS + "user:secret@localhost/file", "is no https address"),
        ("file:///etc/passwd", "is no https address"),
        ("https:///file", "is no https address"),
        ("https://[::1/file", "can't be reached"),
        ("https://localhost:port/file", "can't be reached"),
    ],
)
def test_addresses_that_are_refused(target: Path, url: str, said: str) -> None:
    refused(Download(url=url, most_bytes=10), target, said)


def test_a_name_is_looked_up_once_and_what_was_checked_is_called(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [["10.0.0.1", "1.1.1.1"], ["127.0.0.1"]]
    called = []

    def look_up(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        assert host == "evil.example"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers.pop(0)]

    def call(place: tuple[str, int], timeout: float) -> socket.socket:
        called.append(place)
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", call)
    download = Download(url="https://evil.example/file", most_bytes=10)
    refused(download, target, r"can't be reached \(refused\)")
    refused(download, target, "is an address of this machine")
    assert called == [("1.1.1.1", 443)]


@pytest.fixture
def secure(internet: Origin) -> Origin:
    internet.files["/file"] = Served(CONTENT)
    return internet


def test_https_is_checked(secure: Origin, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download = wanted(secure, allow_private=False)
    assert fetch(download, target) == SHA256
    target.unlink()
    monkeypatch.delenv("SSL_CERT_FILE")
    refused(download, target, "can't be reached .*certificate verify failed")


@pytest.mark.parametrize(
    "place", [HTTPS + "127.0.0.2:{port}/file", "https://[::1]:{port}/file", "http://127.0.0.1:{port}/"]
)
def test_redirects_lead_into_no_private_network(secure: Origin, target: Path, place: str) -> None:
    secure.files["/away"] = redirect(place.format(port=secure.server_address[1]))
    refused(wanted(secure, "/away", allow_private=False), target, "address of this machine|is not encrypted")
    assert [path for path, _ in secure.asked] == ["/away"]


class Proxy(threading.Thread):
    """Takes one CONNECT, and passes bytes on."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.head = b""

    def run(self) -> None:
        client, _ = self.listening.accept()
        while not self.head.endswith(b"\r\n\r\n"):
            self.head += client.recv(1)
        host, port = self.head.split()[1].decode().split(":")
        with client, socket.create_connection((host, int(port))) as server:
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            back = threading.Thread(target=self._pass_on, args=(server, client))
            back.start()
            self._pass_on(client, server)
            back.join()
        self.listening.close()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return


def test_the_environment_s_proxy_is_used(secure: Origin, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy()
    proxy.start()
    address = f"127.0.0.1:{proxy.listening.getsockname()[1]}"
    monkeypatch.setenv("HTTPS_PROXY", "http:/" + f"/me:a%20b@{address}")
    url = secure.url.replace("127.0.0.1", "localhost") + "/file"
    refused(Download(url=HTTPS + "127.0.0.2/file", most_bytes=10**7), target, "127.0.0.2/file: is an address")
    assert fetch(Download(url=url, most_bytes=10**7, allow_private=True), target) == SHA256
    proxy.join()
    assert base64.b64encode(b"me:a b") in proxy.head
    monkeypatch.setenv("HTTPS_PROXY", "socks5://localhost:1080")
    other = Download(url="https://evil.example/", most_bytes=1, allow_private=True)
    refused(other, target.with_name("new"), "is no HTTP proxy")
    monkeypatch.setenv("NO_PROXY", "localhost")
    target.unlink()
    assert fetch(Download(url=url, most_bytes=10**7, allow_private=True), target) == SHA256


def test_slow_servers_are_given_up(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_S", 0.2)
    stop = threading.Event()

    def trickle(listening: socket.socket, first: bytes) -> None:
        while not stop.is_set():
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            with connection:
                try:
                    connection.sendall(first)
                    while not stop.wait(0.05):
                        connection.sendall(b"X")
                except OSError:
                    continue

    head = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n"
    for first, said in ((head, "no whole answer in time"), (head + b"\r\n", "broke off 5 times")):
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.settimeout(0.1)
            monkeypatch.setattr(module, "_PATIENCE_S", 0.1)
            thread = threading.Thread(target=trickle, args=(listening, first))
            thread.start()
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
            try:
                refused(Download(url=url, most_bytes=10**6, allow_private=True), target, said)
            finally:
                stop.set()
                thread.join()
                stop.clear()


def test_one_process_at_a_time(origin: Origin, target: Path) -> None:
    origin.files["/file"] = Served(CONTENT)

    def again(got: int, total: int | None) -> None:
        with pytest.raises(DownloadError, match="is being fetched by another process"):
            fetch(wanted(origin), target)

    assert fetch(wanted(origin), target, again) == SHA256
    assert not parts_folder(target).exists()


def test_a_full_disk_and_a_closed_folder(origin: Origin, tmp_path: Path) -> None:
    refused(wanted(origin), tmp_path, "is a folder", ResourceError)
    (tmp_path / "file").write_bytes(b"")
    refused(wanted(origin), tmp_path / "file" / "x", "is not a folder", ResourceError)
