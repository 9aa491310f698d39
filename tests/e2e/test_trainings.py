"""Training by the service: from recordings that were sent to a voice in the library."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile

from e2e.test_train import CLIPS, shrink
from menura.options import EngineOptions
from menura.server.store import ConflictError, Store
from menura.server.trainings import Trainings
from menura.train.experiment.settings import WarmStart, load_experiment, save_experiment
from support.examples import Examples
from support.server import Service

RIGHTS = "read for LibriVox, in the public domain"
SMALL = {"content": "menura-starter", "sample_rate": "24k", "base": "none", "batch_size": 2}


class Trainer:
    """What a client does with /v1/trainings."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def post(self, *inputs: str, name: str = "reader", **options: Any) -> Any:
        body = {"name": name, "inputs": inputs, "rights": RIGHTS, "options": SMALL | options}
        return self.service.client.post("/v1/trainings", json=body)

    def made(self, *inputs: str, name: str = "reader", **options: Any) -> str:
        """The id of a training of a tiny network."""
        answer = self.post(*inputs, name=name, **options)
        assert answer.status_code == 201, answer.text
        id = str(answer.json()["id"])
        shrink(self.service.data / "trainings" / id)
        return id

    def get(self, id: str) -> Any:
        return self.service.client.get(f"/v1/trainings/{id}").json()

    def act(self, id: str, action: str, **body: Any) -> Any:
        return self.service.client.post(f"/v1/trainings/{id}/{action}", json=body or None)

    def until(self, id: str, condition: Callable[[Any], bool], timeout_s: float = 60) -> Any:
        deadline = time.monotonic() + timeout_s
        while not condition(training := self.get(id)):
            assert time.monotonic() < deadline, training
            time.sleep(0.05)
        return training

    def ended(self, id: str) -> Any:
        return self.until(id, lambda training: training["state"] in ("stopped", "failed", "done"))


@pytest.fixture(scope="module")
def service(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("service") / "data", home) as service:
        yield service


@contextlib.contextmanager
def another_process(service: Service) -> Iterator[Trainings]:
    """What another process of the service, over the same folder and database, knows of trainings."""
    store = Store(f"sqlite:///{service.data / 'menura.db'}")
    yield Trainings(service.data / "trainings", EngineOptions(), store, lambda _id: None)
    store.close()


@pytest.fixture
def trainer(service: Service) -> Trainer:
    return Trainer(service)


@pytest.fixture
def clips(service: Service) -> list[str]:
    return [service.send(path) for path in CLIPS]


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """1.5 s of a human voice."""
    samples, rate = soundfile.read(CLIPS[0], dtype="float32", stop=24_000)
    soundfile.write(tmp_path / "talk.wav", samples, rate)
    return tmp_path / "talk.wav"


def test_a_clone_is_a_training_with_little_to_choose(trainer: Trainer, clips: list[str]) -> None:
    client = trainer.service.client
    body = {"name": "twin", "inputs": clips, "rights": RIGHTS, "clone": True, "options": {"longest": 2}}
    assert client.post("/v1/trainings", json=body | {"options": {"steps": 4}}).status_code == 422
    answer = client.post("/v1/trainings", json=body)
    assert answer.status_code == 201, answer.text
    id = str(answer.json()["id"])
    folder = trainer.service.data / "trainings" / id
    shrink(folder)
    made = load_experiment(folder)
    assert (made.warm_start.origin, made.schedule.longest_s) == ("heron", 120)
    schedule = dataclasses.replace(made.schedule, steps=4, batch_size=2)
    save_experiment(folder, dataclasses.replace(made, warm_start=WarmStart(), schedule=schedule))
    trainer.act(id, "start", options={"workers": 1})
    done = trainer.until(id, lambda training: training["state"] in ("failed", "done"), timeout_s=240)
    assert (done["state"], done["step"], done["error"]) == ("done", 4, None)
    assert trainer.act(id, "export", name="twin").status_code == 201
    assert client.get("/v1/voices/twin").json()["card"]["source"] == "cloned with Menura"
    assert client.get(f"/train/{id}").status_code == 200
    assert client.delete("/v1/voices/twin").status_code == 204
    assert client.delete(f"/v1/trainings/{id}").status_code == 204


@pytest.mark.slow
def test_from_recordings_to_a_voice_in_the_library(trainer: Trainer, clips: list[str]) -> None:
    client, id = trainer.service.client, trainer.made(*clips, steps=4)
    examples = Examples(client)
    new = trainer.get(id)
    assert (new["state"], new["step"], new["steps"], new["stage"]) == ("new", 0, 4, None)
    assert 15 < new["audio_s"] < 40
    assert any("are little" in note["problem"] for note in new["notes"])
    assert [part["name"] for part in new["recordings"]] == [path.name for path in CLIPS]
    early = trainer.act(id, "export", name="reader")
    assert (early.status_code, early.json()["kind"]) == (409, "conflict")

    assert trainer.act(id, "start", options={"workers": 1}).status_code == 202
    assert trainer.act(id, "start").status_code == 409
    examples.begins("/v1/trainings/{id}/events", id=id)
    assert client.delete(f"/v1/trainings/{id}").status_code == 409
    waiting = trainer.made(*clips, name="second", steps=2000)
    assert examples("post", "/v1/trainings/{id}/start", id=waiting).json()["waits_for"] == "reader"
    assert trainer.get(waiting)["state"] == "queued"
    assert examples("post", "/v1/trainings/{id}/stop", id=waiting).json()["state"] == "new"

    done = trainer.ended(id)
    assert (done["state"], done["step"], done["error"]) == ("done", 4, None)
    assert done["curves"]["step"] == [1, 2, 3, 4]
    assert all(value > 0 for value in done["curves"]["total"])
    name = done["previews"][0].rpartition("/")[2]
    made = examples("get", "/v1/trainings/{id}/previews/{name}", id=id, name=name)
    assert made.headers["content-type"] == "audio/flac"
    assert made.content.startswith(b"fLaC")
    assert "00000004.0.flac" in " ".join(done["previews"])
    assert client.get(f"/v1/trainings/{id}/previews/..%2f..%2ftraining.json").status_code == 404
    with client.stream("GET", f"/v1/trainings/{id}/events") as stream:
        line = next(line for line in stream.iter_lines() if line.startswith("data: "))
    assert json.loads(line[6:])["state"] == "done"

    assert trainer.act(id, "export", name="../reader").status_code == 422
    voice = examples("post", "/v1/trainings/{id}/export", id=id, name="reader")
    assert (voice.status_code, voice.json()["has_index"]) == (201, True), voice.text
    assert trainer.act(id, "export", name="reader").status_code == 409
    card = client.get("/v1/voices/reader").json()["card"]
    assert (card["name"], card["rights"]) == ("reader", RIGHTS)
    job = trainer.service.ended(trainer.service.job(clips[0], voice="reader")["id"])
    assert job["state"] == "done"
    assert client.delete("/v1/voices/reader").status_code == 204
    assert client.delete(f"/v1/trainings/{id}").status_code == 204
    assert client.get(f"/v1/trainings/{id}").status_code == 404
    assert not (trainer.service.data / "trainings" / id).exists()
    assert trainer.service.said() == ""


@pytest.mark.slow
def test_any_process_may_stop_a_run(trainer: Trainer, clips: list[str]) -> None:
    id = trainer.made(*clips, steps=2000)
    trainer.act(id, "start", options={"workers": 1})
    trainer.until(id, lambda training: training["step"] >= 2)
    assert trainer.service.ended(trainer.service.job(clips[0])["id"])["state"] == "done"
    with another_process(trainer.service) as other:
        state, progress, _ = other.state(other.record(id))
        assert (state, progress.stage, progress.total) == ("running", "training", 2000)
        with pytest.raises(ConflictError):
            other.start(id, {})
        with pytest.raises(ConflictError):
            other.remove(id)
        other.stop(id)
    stopped = trainer.ended(id)
    assert (stopped["state"], stopped["error"]) == ("stopped", None)
    trainer.act(id, "start")
    trainer.until(id, lambda training: training["step"] > stopped["step"])
    assert trainer.act(id, "stop").json()["state"] in ("stopping", "stopped")
    stopped = trainer.ended(id)
    assert (stopped["state"], stopped["stage"], stopped["left_s"]) == ("stopped", None, None)
    assert stopped["previews"]


def test_what_is_refused_is_said_by_field(trainer: Trainer, clips: list[str], short: Path) -> None:
    client, service = trainer.service.client, trainer.service
    broken = client.put("/v1/audio", params={"name": "broken.mp3"}, content=b"\xff\xfb" + bytes(3000)).json()["id"]
    fine = {"name": "reader", "inputs": clips, "rights": RIGHTS, "options": SMALL}
    for change, status, about, words in (
        ({"rights": " "}, 422, "rights", "empty"),
        ({"rights": None}, 422, "rights", "string"),
        ({"name": "a/b"}, 422, "name", "name"),
        ({"inputs": ["0" * 64]}, 404, "inputs", "recording"),
        ({"inputs": [service.send(short)]}, 422, None, "too little"),
        ({"inputs": [broken]}, 422, None, "none of 1 recordings"),
        ({"options": {"colour": 1}}, 422, "colour", "no such option"),
        ({"options": {"config": "/etc/passwd"}}, 422, "config", "no such option"),
        ({"options": SMALL | {"steps": 0}}, 422, "steps", "outside"),
        ({"options": SMALL | {"base": "/etc/passwd"}}, 404, "voice", "no voice"),
        ({"options": SMALL | {"content": "contentvec"}}, 409, None, "not installed"),
    ):
        answer = client.post("/v1/trainings", json=fine | change)
        problem = answer.json()
        assert (answer.status_code, problem["option"]) == (status, about), answer.text
        assert words in problem["problem"]
        assert str(service.data) not in answer.text
        assert str(service.data.parent) not in answer.text
    left_out = trainer.post(*clips, broken).json()
    assert [note["subject"] for note in left_out["notes"] if "left out" in note["problem"]] == ["broken.mp3"]
    assert str(service.data) not in json.dumps(left_out)
    assert client.delete(left_out["url"]).status_code == 204
    for path in ("0" * 16, "..", "%2e%2e", "nothing"):
        assert client.get(f"/v1/trainings/{path}").status_code == 404
    assert trainer.act("0" * 16, "start").status_code == 404
    ids = [training["id"] for training in client.get("/v1/trainings").json()["trainings"]]
    assert {path.name for path in (service.data / "trainings").iterdir()} == set(ids)


def test_the_pages_are_there_in_both_languages(trainer: Trainer, clips: list[str], short: Path) -> None:
    client, odd = trainer.service.client, trainer.service.send(short, "<b>&.wav")
    id = trainer.post(*clips, odd, name="O'Brien & co").json()["id"]
    for path in ("/train", f"/train/{id}"):
        english, chinese = (
            client.get(path, headers={"Accept-Language": language}).text for language in ("en", "zh-CN,zh;q=0.9")
        )
        assert "O&#39;Brien &amp; co" in english
        assert "<b>" not in english
        assert "未开始" in chinese
        assert "Batch size" not in chinese
    missing = client.get("/train/none")
    assert (missing.status_code, "deleted" in missing.text) == (404, True)
    assert client.delete(f"/v1/trainings/{id}").status_code == 204
    options = client.get("/v1/options", params={"of": "trainings", "language": "zh"}).json()["properties"]
    assert options["denoise"]["title"] == "降噪"
    assert "config" not in options


@pytest.mark.slow
def test_a_run_outlives_the_service(trainer: Trainer, clips: list[str]) -> None:
    service, id = trainer.service, trainer.made(*clips, steps=2000)
    folder = service.data / "trainings" / id
    trainer.act(id, "start", options={"workers": 1})
    running = trainer.until(id, lambda training: training["step"] >= 3 and training["left_s"])
    prepared = {path: path.stat().st_mtime_ns for path in (folder / "features").iterdir()}
    service.kill()
    service.start()
    # The run ends by itself, when it sees that nobody listens any more.
    killed = trainer.until(id, lambda training: training["state"] != "running")
    assert (killed["state"], killed["stage"], killed["error"]) == ("stopped", None, None)
    assert killed["step"] >= running["step"]

    trainer.act(id, "start")
    trainer.until(id, lambda training: training["step"] > killed["step"])
    begun = time.monotonic()
    assert service.stop() == 0
    assert time.monotonic() - begun < 10
    service.start()
    stopped = trainer.get(id)
    assert stopped["state"] == "stopped"
    assert stopped["step"] > killed["step"]
    assert stopped["curves"]["step"] == list(range(1, stopped["step"] + 1))
    assert {path: path.stat().st_mtime_ns for path in (folder / "features").iterdir()} == prepared
