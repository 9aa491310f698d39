"""`menura serve`, as its clients meet it."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

from menura import Converter, EngineOptions, read_spans
from menura.export.voice import export_voice
from menura.options import ConversionOptions
from menura.voices.library import find_voice
from support.server import Service

CLIP = Path(__file__).parents[2] / "src" / "menura" / "assets" / "demo" / "librivox_0870.flac"


@pytest.fixture(scope="module")
def service(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("service") / "data", home) as service:
        yield service


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.5 s of a human voice."""
    samples, rate = soundfile.read(CLIP, dtype="float32", stop=24_000)
    path = tmp_path_factory.mktemp("short") / "talk.wav"
    soundfile.write(path, samples, rate)
    return path


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten minutes of it."""
    samples, rate = soundfile.read(CLIP, dtype="float32")
    path = tmp_path_factory.mktemp("long") / "long.flac"
    soundfile.write(path, np.tile(samples, 85), rate)
    return path


def test_a_result_is_what_the_command_writes(service: Service, short: Path, home: Path, tmp_path: Path) -> None:
    talk, rate = soundfile.read(short)
    short = tmp_path / "talk.wav"
    soundfile.write(short, np.stack([talk, np.roll(talk, 5000)], axis=1), rate)
    asked = {"transpose": 2, "format": "flac", "effects": "reverb, limiter threshold=-3", "channels": "stereo"}
    job = service.job(service.send(short), **asked)
    assert job["state"] == "queued"
    job = service.ended(job["id"])
    (item,) = job["items"]
    assert (job["state"], item["state"], item["name"], item["error"]) == ("done", "done", "talk.wav", None)
    assert item["stages"]["synthesis"] > 0
    assert item["transpose"] == 2
    answer = service.client.get(item["result"])
    assert answer.headers["content-type"] == "audio/flac"
    assert "talk.flac" in answer.headers["content-disposition"]
    with Converter(EngineOptions(home=home, threads=1)) as converter:
        converter.convert(short, tmp_path / "own.flac", ConversionOptions(voice="tiny", **asked))  # type: ignore[arg-type]
    assert answer.content == (tmp_path / "own.flac").read_bytes()
    part = service.client.get(item["result"], headers={"Range": "bytes=4-9"})
    assert (part.status_code, part.content) == (206, answer.content[4:10])


def test_spans_are_converted_as_by_the_command(service: Service, short: Path, home: Path, tmp_path: Path) -> None:
    spans = [{"start": 0.1, "end": 0.6, "voice": "tiny", "transpose": 2}, {"start": 0.7, "end": 1.2, "speaker": "Eve"}]
    options = {"speakers": "Eve=wren"}
    body = {"inputs": [service.send(short)], "voice": "tiny", "options": options}
    with Converter(EngineOptions(home=home, threads=1)) as converter:
        own = ConversionOptions(voice="tiny", spans=read_spans(spans), **options)
        converter.convert(short, tmp_path / "own.wav", own)
        converter.convert(short, tmp_path / "streamed.wav", dataclasses.replace(own, loudness="voice"))
    answers = [service.client.post("/v1/jobs", json=body | {"spans": given}) for given in (spans, json.dumps(spans))]
    answers.append(service.client.post("/v1/jobs", json=body | {"options": options | {"spans": spans}}))
    for answer in answers:
        assert answer.status_code == 202
        (item,) = service.ended(answer.json()["id"])["items"]
        assert item["state"] == "done"
        assert service.client.get(item["result"]).content == (tmp_path / "own.wav").read_bytes()
    for loudness, file in (({}, "streamed.wav"), ({"loudness": "source"}, "own.wav")):
        given = {"voice": "tiny", "options": json.dumps(options | {"spans": spans} | loudness)}
        direct = service.client.post("/v1/convert", params=given, content=short.read_bytes())
        assert direct.content[44:] == (tmp_path / file).read_bytes()[44:]
    two = {"inputs": [service.send(short), service.send(CLIP)], "spans": spans}
    refused = service.client.post("/v1/jobs", json=body | two)
    assert (refused.status_code, refused.json()["option"]) == (422, "spans")


def test_one_bad_recording_stops_no_other(service: Service, short: Path) -> None:
    broken = service.client.put("/v1/audio", params={"name": "broken.mp3"}, content=b"\xff\xfb" + bytes(3000)).json()
    assert broken["error"]["kind"] == "decode"
    job = service.ended(service.job(broken["id"], service.send(short))["id"])
    assert job["state"] == "partly"
    assert [item["state"] for item in job["items"]] == ["failed", "done"]
    assert job["items"][0]["error"]["subject"] == "broken.mp3"
    assert str(service.data) not in json.dumps(job)
    archive = zipfile.ZipFile(io.BytesIO(service.client.get(f"/v1/jobs/{job['id']}/zip").content))
    assert archive.namelist() == ["talk.wav"]
    assert archive.testzip() is None
    retried = service.client.post(f"/v1/jobs/{job['id']}/retry").json()
    assert [item["state"] for item in retried["items"]] == ["queued", "done"]
    assert service.ended(job["id"])["state"] == "partly"


def test_events_are_replayed(service: Service, short: Path) -> None:
    job = service.ended(service.job(service.send(short))["id"])
    states, last = [], None
    with service.client.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("id: "):
                last = int(line[4:])
            if line.startswith("data: ") and (state := json.loads(line[6:]).get("state")):
                states.append(state)
                if len(states) == 5:
                    break
    assert states == ["queued", "running", "running", "done", "done"]
    assert last is not None
    with service.client.stream(
        "GET", f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": str(last - 1)}
    ) as stream:
        lines = iter(stream.iter_lines())
        assert next(line for line in lines if line.startswith("id: ")) == f"id: {last}"


def test_pitch_before_and_after_is_told(service: Service, short: Path) -> None:
    job = service.ended(service.job(service.send(short), voice="wren", transpose=5)["id"])
    path = f"{job['items'][0]['result'].removesuffix('result')}f0"
    curves = service.client.get(path).json()
    before, after = (np.array(curves[which]["hz"]) for which in ("source", "result"))
    both = (before > 0) & (after > 0)
    assert np.count_nonzero(both) > 40
    assert np.median(12 * np.log2(after[both] / before[both])) == pytest.approx(5, abs=0.3)
    assert service.client.get(path).json() == curves
    assert service.client.get(path.replace("/0/", "/1/")).status_code == 404


def test_a_jobs_recordings_are_moved_alike(service: Service, tmp_path: Path) -> None:
    """Unless each is to be judged alone."""
    ids = []
    for hz in (96, 103, 110):
        tone = sum(np.sin(2 * np.pi * hz * n * np.arange(24_000) / 16_000) / n for n in range(1, 8))
        soundfile.write(tmp_path / f"{hz}.wav", 0.1 * np.asarray(tone), 16_000)
        ids.append(service.send(tmp_path / f"{hz}.wav"))
    for options, shifts in (({}, 1), ({"transpose": "auto"}, 3)):
        items = service.ended(service.job(*ids, voice="wren", **options)["id"])["items"]
        assert len({item["transpose"] for item in items}) == shifts


def test_an_idempotency_key_makes_one_job(service: Service, short: Path) -> None:
    body = {"inputs": [service.send(short)], "voice": "tiny"}
    first, again = (
        service.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "abc"}).json()["id"] for _ in range(2)
    )
    assert first == again
    assert service.client.get(f"/v1/jobs/{first}", params={"wait": 30}).json()["state"] == "done"
    other = service.client.post("/v1/jobs", json=body | {"voice": "wren"}, headers={"Idempotency-Key": "abc"})
    assert (other.status_code, other.json()["kind"]) == (409, "conflict")


OF_A_PATH: dict[str, object] = {"start": 0, "end": 1, "speaker": "A", "voice": "/etc/passwd"}


@pytest.mark.parametrize(
    ("body", "option"),
    [
        ({"options": {"transpose": 99}}, "transpose"),
        ({"options": {"index": "/etc/passwd"}}, "index"),
        ({"options": {"effects": "/etc/effects.json"}}, "effects"),
        ({"options": {"no_such": 1}}, "no_such"),
        ({"voice": "../../etc/passwd"}, "voice"),
        ({"options": {"spans": "/etc/passwd"}}, "spans"),
        ({"spans": "0,1,/etc/passwd"}, "spans"),
        ({"spans": [{"start": 0, "speaker": "A", "end": 1}], "options": {"speakers": "A=../x.pth"}}, "spans"),
        ({"spans": [OF_A_PATH], "options": {"speakers": f"{OF_A_PATH['voice']}=tiny"}}, "spans"),
        ({"spans": [{"start": 0, "end": 1, "index": "/etc/passwd"}]}, "spans"),
        ({"spans": []}, "spans"),
        ({"spans": "0,1,tiny\n" + "#" * 2**20}, "spans"),
        ({"options": {"spans": 5}}, "spans"),
        ({"options": {"spans": [5]}}, "spans"),
        ({"inputs": ["0" * 64]}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_is_wrong_is_said_by_field(service: Service, short: Path, body: dict[str, object], option: str) -> None:
    answer = service.client.post("/v1/jobs", json={"inputs": [service.send(short)], "voice": "tiny"} | body)
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["option"] == option
    assert answer.json()["problem"]


def test_an_upload_goes_on_after_an_interruption(service: Service, short: Path) -> None:
    data = short.read_bytes()
    cut = len(data) // 3
    parameters = {"upload": "a-key-of-mine", "name": "parts.wav"}

    def put(start: int, end: int) -> httpx.Response:
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        return service.client.put("/v1/audio", params=parameters, content=data[start:end], headers=headers)

    assert put(0, cut).status_code == 202
    assert service.client.get("/v1/audio/uploads/a-key-of-mine").json() == {"received_bytes": cut}
    assert put(cut + 5, len(data)).json() == {"received_bytes": cut}  # a gap: nothing is taken
    whole = put(cut, len(data))
    assert whole.status_code == 201
    assert whole.json()["id"] == service.send(short)
    assert service.client.get(whole.json()["url"]).content == data


def test_a_recording_that_came_before_is_known_by_its_new_name(service: Service, short: Path) -> None:
    def sent(data: bytes, name: str) -> dict[str, object]:
        return dict(service.client.put("/v1/audio", params={"name": name}, content=data).json())

    first, again = sent(short.read_bytes(), "first.wav"), sent(short.read_bytes(), "again.wav")
    assert first["audio_s"]
    assert again == first | {"name": "again.wav"}
    for name in ("one.wav", "two.wav"):
        assert name in json.dumps(sent(b"RIFF and nothing else", name)["error"])


def test_a_short_job_doesnt_wait_for_a_long_one(service: Service, short: Path, long: Path) -> None:
    running = service.job(service.send(long), voice="wren")
    service.until(running["id"], lambda job: job["items"][0]["audio_done_s"] > 0)
    quick = service.job(service.send(short), voice="wren")
    before = service.client.get(f"/v1/jobs/{running['id']}").json()["items"][0]["audio_done_s"]
    assert service.ended(quick["id"])["state"] == "done"
    still = service.client.get(f"/v1/jobs/{running['id']}").json()
    assert still["state"] == "running"
    assert still["items"][0]["audio_done_s"] - before <= 40  # two segments
    cancelled = service.client.post(f"/v1/jobs/{running['id']}/cancel").json()
    assert cancelled["state"] in ("cancelling", "cancelled")
    job = service.ended(running["id"])
    assert (job["state"], job["items"][0]["state"], job["items"][0]["result"]) == ("cancelled", "cancelled", None)
    assert service.client.delete(f"/v1/jobs/{running['id']}").status_code == 204
    assert service.client.get(f"/v1/jobs/{running['id']}").status_code == 404


def test_a_direct_conversion_streams_wav(service: Service, short: Path) -> None:
    answer = service.client.post("/v1/convert", params={"voice": "tiny"}, content=short.read_bytes())
    assert answer.headers["content-type"] == "audio/wav"
    assert len(answer.content) == 44 + 2 * 36_000
    flac = service.client.post(
        "/v1/convert", params={"voice": "tiny", "options": '{"format": "flac"}'}, content=short.read_bytes()
    )
    samples, rate = soundfile.read(io.BytesIO(flac.content))
    assert (len(samples), rate) == (36_000, 24_000)
    talk, rate = soundfile.read(short, dtype="float32")
    wide = io.BytesIO()
    soundfile.write(wide, np.stack([talk, -0.4 * talk], axis=1), rate, format="WAV")
    query = {"voice": "tiny", "options": '{"channels": "stereo"}'}
    streamed = service.client.post("/v1/convert", params=query, content=wide.getvalue()).content
    assert soundfile.read(io.BytesIO(streamed))[0].shape == (36_000, 2)
    refused = service.client.post("/v1/convert", params={"voice": "tiny"}, content=b"no sound")
    assert (refused.status_code, refused.json()["kind"]) == (422, "decode")


def test_clients_of_rvc_python_work(service: Service, short: Path) -> None:
    client = service.client
    assert "tiny" in client.get("/models").json()["models"]
    assert client.post("/models/nobody").status_code == 400
    assert client.post("/models/tiny").json() == {"message": "Model tiny loaded successfully"}
    assert client.post("/params", json={"params": {"f0up_key": 99}}).status_code == 400
    assert client.post("/params", json={"params": {"f0up_key": 3, "f0method": "harvest"}}).status_code == 200
    assert client.get("/params").json()["f0up_key"] == 3
    sound = base64.b64encode(short.read_bytes()).decode()
    answer = client.post("/convert", json={"audio_data": sound})
    assert answer.headers["content-type"] == "audio/wav"
    assert len(answer.content) == 44 + 2 * 36_000
    assert client.post("/set_models_dir", json={"models_dir": "/etc"}).status_code == 400


def parts_of(**shares: float) -> list[dict[str, object]]:
    return [{"voice": voice, "share": share} for voice, share in shares.items()]


def test_voices_are_imported_renamed_and_removed(service: Service, home: Path, short: Path) -> None:
    client, weights = service.client, (home / "voices" / "tiny" / "voice.safetensors").read_bytes()
    query = {"filename": "Ännchen.safetensors", "rights": "my own"}
    assert client.post("/v1/voices", params=query | {"rights": ""}, content=weights).status_code == 422
    answer = client.post("/v1/voices", params=query | {"name": "guest"}, content=weights)
    assert answer.status_code == 201, answer.text
    assert client.post("/v1/voices", params=query | {"name": "guest"}, content=weights).status_code == 409
    assert client.get("/v1/voices/guest").json()["card"]["rights"] == "my own"
    renamed = client.post("/v1/voices/guest/rename", json={"name": "friend"})
    assert renamed.json()["name"] == "friend"
    assert client.get("/v1/voices/guest").status_code == 404
    assert client.get("/v1/voices/friend").json()["network"]["speaker_names"] == []
    sample = client.get("/v1/voices/friend/sample")
    assert sample.headers["content-type"] == "audio/wav"
    assert client.post("/v1/voices/wren/rename", json={"name": "x"}).status_code == 422
    refused = client.post("/v1/voices/blend", json={"name": "x", "parts": parts_of(friend=1, wren=1)})
    assert (refused.status_code, "don't match" in refused.json()["problem"]) == (422, True)
    assert client.post("/v1/voices/blend", json={"name": "x", "parts": parts_of(friend=1)}).status_code == 422
    path = str(home / "voices" / "tiny" / "voice.safetensors")
    unknown = client.post("/v1/voices/blend", json={"name": "x", "parts": parts_of(**{path: 1, "friend": 1})})
    assert unknown.status_code == 404
    broken = client.put("/v1/voices/friend/index", content=b"no index")
    assert (broken.status_code, broken.json()["kind"]) == (422, "index_file")
    assert str(service.data) not in broken.text
    assert client.delete("/v1/voices/friend").status_code == 204
    assert client.delete("/v1/voices/wren").status_code == 422
    assert client.post("/v1/voices", params=query | {"filename": "x.exe"}, content=weights).status_code == 422


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_other_sites_can_change_nothing(service: Service, headers: dict[str, str], status: int) -> None:
    before = service.client.get("/v1/system").json()["disk"]
    answer = service.client.put("/v1/audio", content=b"anything", headers=headers)
    assert answer.status_code == status
    assert service.client.get("/v1/system").json()["disk"] == before


def test_every_answer_has_the_guards_headers(service: Service) -> None:
    for path in ("/", "/v1/system", "/static/app.js", "/nowhere"):
        answer = service.client.get(path)
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers


def test_the_pages_are_there_in_both_languages(service: Service, short: Path) -> None:
    job = service.ended(service.job(service.send(short, "<b>&.wav"))["id"])
    for path in ("/", "/jobs", f"/jobs/{job['id']}", "/voices", "/voices/wren", "/system", "/help", "/login"):
        english, chinese = (
            service.client.get(path, headers={"Accept-Language": language}) for language in ("en", "zh-CN,zh;q=0.9")
        )
        assert english.status_code == chinese.status_code == 200
        assert '<html lang="en">' in english.text
        assert '<html lang="zh-Hans">' in chinese.text
        assert "<b>" not in english.text
    assert service.client.get("/jobs/none").status_code == 404


def test_head_answers_as_get_does_without_a_body(service: Service, short: Path) -> None:
    client, audio = service.client, service.send(short)
    job = service.ended(service.job(audio)["id"])
    result = f"/v1/jobs/{job['id']}/items/0/result"
    paths = [
        "/",
        "/jobs",
        f"/jobs/{job['id']}",
        "/voices/wren",
        "/static/app.js",
        "/openapi.json",
        "/v1/voices",
        result,
    ]
    paths += [f"/v1/audio/{audio}", f"/v1/audio/{audio}/peaks", "/v1/voices/tiny/sample", "/v1/jobs/none", "/nowhere"]
    for path in (*paths, "/v1/convert", f"/v1/jobs/{job['id']}/zip", "/v1/audio/uploads/anything"):
        get, head = client.get(path), client.head(path, headers={"Range": "bytes=0-9"})
        assert (head.status_code, head.content) == (get.status_code, b""), path
        unlike = {name for name, value in get.headers.items() if head.headers.get(name) != value}
        assert unlike <= {"date", "transfer-encoding"}, path
    part = client.get(result, headers={"Range": "bytes=10-19"})
    assert (part.status_code, len(part.content)) == (206, 10)
    assert client.head("/v1/events").status_code == 200  # at once, though its answer has no end


def test_a_voice_is_exported_as_the_command_line_does(service: Service, home: Path, tmp_path: Path) -> None:
    client, weights = service.client, (home / "voices" / "tiny" / "voice.safetensors").read_bytes()
    given = {"filename": "keeper.safetensors", "rights": "mine"}
    assert client.post("/v1/voices", params=given, content=weights).status_code == 201
    for form in ("pth", "safetensors", "onnx"):
        answer = client.get("/v1/voices/keeper/export", params={"format": form})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-disposition"] == 'attachment; filename="keeper.zip"'
        expected = export_voice(find_voice("keeper", home), form, tmp_path / form)
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.namelist() == [path.name for path in expected]
            assert json.loads(archive.read("card.json"))["rights"] == "mine"
            for path in expected if form != "onnx" else ():
                assert archive.read(path.name) == path.read_bytes()
        part = client.get("/v1/voices/keeper/export", params={"format": form}, headers={"Range": "bytes=5-9"})
        assert (part.status_code, part.content, part.headers["etag"]) == (
            206,
            answer.content[5:10],
            answer.headers["etag"],
        )
        head = client.head("/v1/voices/keeper/export", params={"format": form})
        assert int(head.headers["content-length"]) == len(answer.content)
    assert len(list((service.data / "exports").iterdir())) == 3
    refused = client.get("/v1/voices/wren/export", params={"format": "pth"})
    assert (refused.status_code, refused.json()["subject"]) == (422, "wren")
    assert client.get("/v1/voices/wren/export", params={"format": "exe"}).status_code == 422
    assert client.get("/v1/voices/nobody/export").status_code == 404
    assert len(list((service.data / "exports").iterdir())) == 3
    for kept in (service.data / "exports").glob("*/*"):
        kept.unlink()  # as a removal that was broken off leaves it
    assert client.get("/v1/voices/keeper/export").status_code == 200
    assert list((service.data / "incoming").iterdir()) == []
    assert client.delete("/v1/voices/keeper").status_code == 204


def test_metrics_and_health(service: Service) -> None:
    assert service.client.get("/healthz").json() == {"status": "ok"}
    assert service.client.get("/readyz").status_code == 200
    metrics = service.client.get("/metrics").text
    assert re.search(r'^menura_jobs\{state="done"\} [1-9]', metrics, re.MULTILINE)
    assert re.search(r"^menura_audio_seconds_total [1-9]", metrics, re.MULTILINE)
    schema = service.client.get("/v1/options", params={"language": "zh"}).json()
    assert schema["properties"]["protect"]["title"] == "保护辅音"
    assert "index" not in schema["properties"]
    rate = schema["properties"]["index_rate"]
    assert rate["default"] is None
    assert rate["anyOf"] == [{"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"}]


def test_a_token_keeps_others_out(home: Path, tmp_path: Path) -> None:
    with Service(tmp_path / "data", home, "--token", "correct horse") as service:
        client = service.client
        assert client.get("/v1/voices").status_code == 401
        assert client.get("/healthz").status_code == 200
        assert client.get("/v1/voices", params={"token": "correct horse"}).status_code == 401
        assert client.get("/v1/voices", headers={"Authorization": "Bearer correct horse"}).status_code == 200
        page = client.get("/", headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["location"]) == (303, "/login?back=%2F")
        assert client.head("/", headers={"Accept": "text/html"}).status_code == 303
        assert client.post("/login", data={"token": "wrong horse"}).status_code == 401
        signed_in = client.post("/login", data={"token": "correct horse"})
        assert "HttpOnly" in signed_in.headers["set-cookie"]
        assert client.get("/v1/voices").status_code == 200


def test_killed_at_thirty_moments_nothing_is_lost_or_doubled(home: Path, short: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "support.killed", str(tmp_path / "data"), str(home), str(short), "7", "30"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) >= 20


def test_the_service_killed_under_requests_goes_on(home: Path, short: Path, tmp_path: Path) -> None:
    with Service(tmp_path / "data", home) as service:
        id = service.send(short)
        jobs: list[str] = []
        for round in range(3):
            jobs += [service.job(id, id, id, seed=10 * round + number)["id"] for number in range(3)]
            time.sleep(0.1 + 0.3 * round)
            service.kill()
            service.start()
        for job in map(service.ended, jobs):
            assert job["state"] == "done"
            for item in job["items"]:
                samples, _ = soundfile.read(io.BytesIO(service.client.get(item["result"]).content))
                assert len(samples) == 36_000
        listed = service.client.get("/v1/jobs", params={"limit": 200}).json()["jobs"]
        assert sorted(job["id"] for job in listed) == sorted(jobs)
        left = [path for path in service.data.rglob("*") if path.name.endswith((".part", ".tmp"))]
        assert not left
    assert service.process.returncode == 0


def test_termination_parks_a_long_job(home: Path, long: Path, tmp_path: Path) -> None:
    with Service(tmp_path / "data", home) as service:
        job = service.job(service.send(long), voice="wren")
        service.until(job["id"], lambda job: job["items"][0]["audio_done_s"] > 0)
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(httpx.get, f"{service.address}/v1/jobs/{job['id']}?wait=60", timeout=60)
            time.sleep(1)
            begun = time.monotonic()
            assert service.stop() == 0
            assert time.monotonic() - begun < 10
            assert waiting.result().json()["state"] == "running"
        assert "Traceback" not in service.said()
        service.start()
        again = service.until(job["id"], lambda job: job["items"][0]["audio_done_s"] > 0)
        assert again["state"] == "running"


def test_a_full_queue_says_when_to_come_again(home: Path, short: Path, tmp_path: Path) -> None:
    with Service(tmp_path / "data", home, "--queue", "3", "--most-mb", "1") as service:
        id = service.send(short)
        answer = service.client.post("/v1/jobs", json={"inputs": [id] * 4, "voice": "tiny"})
        assert (answer.status_code, answer.json()["kind"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) > 0
        large = service.client.put("/v1/audio", content=bytes(2 * 2**20))
        assert (large.status_code, large.json()["kind"]) == (413, "too_large")
        command = [sys.executable, "-m", "menura", "serve", "--port", "0", "--data", str(service.data)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert second.returncode == 2
        assert "in use by another service" in second.stderr
