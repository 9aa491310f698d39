"""The service's API keeps to what it says of itself, whoever calls."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import numpy as np
import pytest
import soundfile

from support.examples import Examples
from support.full_size import make_index
from support.server import Service

CLIP = Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"
_CHECKED = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance")
_FUZZ_S = 40.0
_FUZZING = hypothesis.settings(
    max_examples=8, deadline=None, database=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
)


@pytest.fixture(scope="module")
def service(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    data = tmp_path_factory.mktemp("contract") / "data"
    with Service(data, home, "--most-mb", "8", "--most-hours", "0.02") as service:
        yield service
        assert "Traceback" not in service.said()


@pytest.fixture(scope="module")
def examples(service: Service) -> Examples:
    return Examples(service.client)


def endless(path: Path, seconds: float) -> Path:
    """A recording whose header doesn't say its length."""
    samples, rate = soundfile.read(CLIP, dtype="float32")
    soundfile.write(path, np.resize(samples, round(seconds * rate)), rate, format="FLAC")
    data = bytearray(path.read_bytes())
    data[21], data[22:26] = data[21] & 0xF0, bytes(4)
    path.write_bytes(data)
    return path


def test_every_example_of_jobs_works(service: Service, examples: Examples) -> None:
    recording = examples("put", "/v1/audio", CLIP.read_bytes()).json()["id"]
    accepted = examples("post", "/v1/jobs")
    job = accepted.json()["id"]
    assert accepted.headers["location"] == f"/v1/jobs/{job}"
    service.ended(job)
    for _, path in sorted(examples.left):
        if path.startswith("/v1/audio/{id}"):
            examples("get", path, id=recording)
        elif path.startswith("/v1/jobs/{id}") and path.rpartition("/")[2] not in ("events", "cancel", "retry"):
            examples("get", path, id=job)
    examples.begins("/v1/jobs/{id}/events", id=job)
    assert [one["id"] for one in examples("get", "/v1/jobs").json()["jobs"]] == [job]
    assert examples("get", "/v1/audio/uploads/{key}", key="no such upload").json() == {"received_bytes": 0}
    assert len(examples("post", "/v1/convert", CLIP.read_bytes()).content) > 100_000
    many = service.job(*[recording] * 30)["id"]
    late = examples("post", "/v1/jobs").json()
    assert late["waiting"]["why"] == "others"
    assert late["waiting"]["recordings_before"] > 1
    for id in (late["id"], many):
        assert examples("post", "/v1/jobs/{id}/cancel", id=id).json()["state"] in ("cancelling", "cancelled")
    failed = service.job(service.client.put("/v1/audio", content=b"no sound").json()["id"])["id"]
    assert service.ended(failed)["state"] == "failed"
    assert examples("post", "/v1/jobs/{id}/retry", id=failed).json()["items"][0]["error"] is None
    for id in (late["id"], many, failed):
        service.ended(id)
    examples("delete", "/v1/jobs/{id}", id=job)


def test_every_example_of_voices_works(examples: Examples, home: Path, tmp_path: Path) -> None:
    weights = (home / "voices" / "tiny" / "voice.safetensors").read_bytes()
    examples("post", "/v1/voices", weights)
    examples("put", "/v1/voices/{name}/index", make_index(tmp_path, 64, 384).read_bytes(), name="guest")
    for path in ("/v1/voices", "/v1/voices/{name}", "/v1/voices/{name}/sample"):
        examples("get", path)
    assert examples("post", "/v1/voices/{name}/rename", name="guest").json()["name"] == "friend"
    examples("delete", "/v1/voices/{name}", name="friend")
    blend = examples("post", "/v1/voices/blend", name="finch").json()
    assert blend["licence"] == "wren: Apache-2.0; heron: Apache-2.0"
    examples("delete", "/v1/voices/{name}", name="finch")
    assert len(examples("get", "/v1/voices/{name}/export").content) > 1_000_000
    examples.left.discard(("post", "/v1/voices/fetch"))  # of the Internet: test_service_fetch has one
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("stranger.safetensors", weights)
    examples("post", "/upload_model", archive.getvalue())
    examples("delete", "/v1/voices/{name}", name="stranger")


def test_every_example_of_trainings_works(service: Service, examples: Examples, tmp_path: Path) -> None:
    samples, rate = soundfile.read(CLIP, dtype="float32")
    soundfile.write(tmp_path / "long.flac", np.tile(samples, 3), rate)
    made = examples("post", "/v1/trainings", inputs=service.send(tmp_path / "long.flac"))
    for path in ("/v1/trainings", "/v1/trainings/{id}"):
        examples("get", path, id=made.json()["id"])
    examples("delete", "/v1/trainings/{id}", id=made.json()["id"])


def test_every_other_example_works(examples: Examples) -> None:
    for path in ("/healthz", "/readyz", "/v1/options", "/v1/system", "/metrics", "/models", "/params"):
        examples("get", path)
    for path in ("/params", "/set_device", "/models/{name}"):
        examples("post", path)
    assert examples("post", "/set_models_dir").status_code == 400
    examples("post", "/convert_file", CLIP.read_bytes())
    talk = base64.b64encode(CLIP.read_bytes()).decode()
    assert len(examples("post", "/convert", audio_data=talk).content) > 100_000
    examples.begins("/v1/events", told=False)
    # Of a training that runs: test_trainings has them.
    assert {path.rpartition("/")[2] for _, path in examples.left} == {"start", "stop", "export", "events", "{name}"}
    assert {path.split("/")[2] for _, path in examples.left} == {"trainings"}


def test_fuzzed_it_keeps_to_its_schema_and_tells_no_path(service: Service, home: Path) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_url(f"{service.address}/openapi.json").exclude(path_regex="events$|fetch$")
    job = service.ended(service.job(service.send(CLIP))["id"])
    known = {"id": [job["id"], job["items"][0]["input"]], "name": ["wren", "tiny"], "position": [0, 1]}
    secret = (str(service.data.parent), str(home), str(Path.home()))
    checks = [schemathesis.checks.CHECKS.get_one(name) for name in _CHECKED]
    operations = [result.ok() for result in schema.get_all_operations()]
    deadline, sent = time.monotonic() + _FUZZ_S, 0
    for operation in operations:
        if (operation.method, operation.path) == ("delete", "/v1/voices/{name}"):
            known["name"] = ["nobody"]

        @hypothesis.settings(
            max_examples=8,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(), real=hypothesis.strategies.randoms(use_true_random=False))
        def one(case: Any, real: Any) -> None:
            nonlocal sent
            if time.monotonic() > deadline:
                return
            for name in set(case.path_parameters or ()) & set(known) if real.random() < 0.5 else ():
                case.path_parameters[name] = real.choice(known[name])
            answer = case.call_and_validate(checks=checks, timeout=30)
            sent += 1
            assert not any(place.encode() in answer.content for place in secret), answer.content

        one()
    assert sent > 5 * len(operations)


def spoken(service: Service, request: bytes, *, ends: bool = False) -> bytes:
    """What the service says to raw bytes, until it has no more to say; `ends`: they are all that it will get."""
    host, _, port = service.address.rpartition("//")[2].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        if ends:
            connection.shutdown(socket.SHUT_WR)
        said = b""
        while piece := connection.recv(65536):
            said += piece
        return said


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /v1/voices HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.0\r\n\r\n", 421),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /static/../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /static/%2e%2e/%2e%2e/__init__.py HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"GET /v1/jobs/%0d%0aX:%20y HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        (b"OPTIONS /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
        (b"PUT /v1/audio HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n", 413),
    ],
    ids=lambda value: value if isinstance(value, int) else value[:40].decode(),
)
def test_odd_requests_get_plain_answers(service: Service, request_: bytes, status: int) -> None:
    said = spoken(service, request_)
    assert said.startswith(b"HTTP/1.1 %d " % status), said[:500]
    assert b"evil" not in said
    assert b"root:" not in said


def test_a_header_has_an_end(service: Service) -> None:
    with contextlib.suppress(ConnectionResetError):  # refused before it was read
        said = spoken(service, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 400 ")


def test_a_client_that_goes_away_leaves_nothing(service: Service) -> None:
    before = sorted(service.data.rglob("*"))
    half = b"PUT /v1/audio HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\nabc"
    assert spoken(service, half, ends=True) == b""
    assert service.client.put("/v1/audio", content=iter([bytes(2**20)] * 10)).status_code == 413
    assert service.client.post("/v1/jobs", content=iter([b"[" * 2**20] * 6)).status_code == 413
    assert sorted(path for path in service.data.rglob("*") if "db" not in path.name) == [
        path for path in before if "db" not in path.name
    ]


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": ["\\ud800"]}',
        b'{"inputs": ["%s"], "options": {"\\ud800": 1}}' % (b"0" * 64),
        b'{"inputs": ["%s"], "options": {"transpose": NaN}}' % (b"0" * 64),
        b'{"inputs": ["%s"], "options": {"seed": %s}}' % (b"0" * 64, b"9" * 5000),
        b"[" * 100_000,
        b'{"inputs": ',
        b"\xff",
    ],
    ids=range(7),
)
def test_odd_json_is_refused(service: Service, body: bytes) -> None:
    answer = service.client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_recording_longer_than_allowed_fails_while_it_runs(service: Service, tmp_path: Path) -> None:
    path = endless(tmp_path / "endless.flac", 75)
    sent = service.client.put("/v1/audio", content=path.read_bytes()).json()
    assert sent["audio_s"] is None
    job = service.ended(service.job(sent["id"])["id"])
    assert (job["state"], job["items"][0]["error"]["kind"]) == ("failed", "too_large")
    peaks = service.client.get(f"/v1/audio/{sent['id']}/peaks")
    assert (peaks.status_code, peaks.json()["kind"]) == (413, "too_large")


def test_an_archive_that_unpacks_to_much_is_refused(service: Service) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for number in range(5):
            packed.writestr(f"{number}.pth", bytes(8 * 2**20))
    many = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 60_000, 60_000, 2**30, 0, 0)
    for content in (archive.getvalue(), many):
        answer = service.client.post("/v1/voices", params={"filename": "bomb.zip", "rights": "mine"}, content=content)
        assert (answer.status_code, answer.json()["kind"]) == (413, "too_large")
    assert list((service.data / "incoming").iterdir()) == []


def test_a_stream_that_fails_isnt_taken_for_complete(service: Service, tmp_path: Path) -> None:
    samples, rate = soundfile.read(CLIP, dtype="float32")
    path = tmp_path / "long.wav"
    soundfile.write(path, np.resize(samples, 120 * rate), rate)
    with service.client.stream("POST", "/v1/convert", params={"voice": "wren"}, content=path.read_bytes()) as answer:
        received = answer.iter_bytes()
        assert next(received)[:4] == b"RIFF"
        (source,) = (service.data / "incoming").iterdir()
        with source.open("r+b") as file:
            file.truncate(file.seek(0, io.SEEK_END) // 2)
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            list(received)
    assert "broken off" in service.said()
    assert list((service.data / "incoming").iterdir()) == []
