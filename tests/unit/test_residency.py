"""Models are loaded once, by one thread, and leave by a budget of bytes."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path

import pytest
import torch

from menura.errors import ResourceError
from menura.loading.loader import ModelPool
from menura.loading.request import ModelKey
from menura.models.weights import network_bytes
from support.gpus import fake_memory
from support.tiny import tiny_voice


def key(name: str) -> ModelKey:
    return ModelKey(kind="voice", path=f"/voices/{name}", size_bytes=1, modified_ns=1, variant="")


class Model:
    def __init__(self, resident_bytes: int = 1) -> None:
        self.resident_bytes = resident_bytes


def get(pool: ModelPool, name: str, size: int = 40) -> Model:
    return pool.get(key(name), lambda: Model(size))


def test_the_least_recently_used_leave_when_bytes_run_out() -> None:
    pool = ModelPool(budget_bytes=100)
    a = get(pool, "a")
    get(pool, "b")
    assert get(pool, "a") is a
    assert pool.resident_bytes == 80
    get(pool, "c")  # b leaves: a was used after it
    assert pool.resident_bytes == 80
    assert get(pool, "a") is a
    assert pool.loads() == {"voice:a": 1, "voice:b": 1, "voice:c": 1}
    get(pool, "b")
    assert pool.loads()["voice:b"] == 2


def test_what_left_and_is_still_used_is_found() -> None:
    pool = ModelPool(budget_bytes=100)
    a = get(pool, "a", 60)
    get(pool, "b", 60)  # a leaves
    assert pool.resident_bytes == 60
    assert get(pool, "a") is a
    assert pool.loads() == {"voice:a": 1, "voice:b": 1}
    pool.clear()
    assert get(pool, "a") is not a


class FullCard:
    """Models take its memory until nothing holds them."""

    def __init__(self, size: int) -> None:
        self.size, self.failures = size, 0
        self.held: weakref.WeakSet[Model] = weakref.WeakSet()

    def load(self, size: int) -> Model:
        if sum(model.resident_bytes for model in self.held) + size > self.size:
            self.failures += 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        model = Model(size)
        self.held.add(model)
        return model


def test_where_memory_runs_out_the_others_leave_and_it_is_tried_again() -> None:
    pool, card = ModelPool(budget_bytes=1000), FullCard(100)
    used = pool.get(key("used"), lambda: card.load(40))
    pool.get(key("idle"), lambda: card.load(40))
    new = pool.get(key("new"), lambda: card.load(50))
    assert (card.failures, pool.resident_bytes) == (1, 50)
    assert pool.get(key("used"), lambda: card.load(40)) is used  # not a second time beside itself
    with pytest.raises(ResourceError, match=r"not enough memory.*device"):
        pool.get(key("large"), lambda: card.load(30))
    assert (card.failures, len(card.held)) == (3, 2)
    assert pool.get(key("new"), lambda: card.load(50)) is new


def test_other_errors_of_a_load_are_not_tried_again() -> None:
    pool, calls = ModelPool(budget_bytes=100), []

    def fail() -> Model:
        calls.append(1)
        raise RuntimeError("shapes can't be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        pool.get(key("a"), fail)
    assert len(calls) == 1


def test_one_that_is_larger_than_the_budget_stays_alone() -> None:
    pool = ModelPool(budget_bytes=100)
    get(pool, "small", 10)
    large = get(pool, "large", 1000)
    assert get(pool, "large", 1000) is large
    assert pool.resident_bytes == 1000
    get(pool, "small", 10)
    assert pool.resident_bytes == 10


def test_by_default_a_part_of_the_free_memory_is_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2**26 < ModelPool().budget_bytes < 2**45
    fake_memory(monkeypatch, free=6, reserved=3, allocated=1)
    assert ModelPool(device=torch.device("cuda")).budget_bytes == 4 * 2**30  # half of 6 and the 2 kept for reuse


def test_one_thread_loads_while_others_wait_and_other_models_are_not_held_up() -> None:
    pool, begun, go_on = ModelPool(budget_bytes=1000), threading.Event(), threading.Event()
    count = 0

    def slow() -> Model:
        nonlocal count
        count += 1
        begun.set()
        assert go_on.wait(30)
        return Model()

    got: list[Model] = []
    threads = [threading.Thread(target=lambda: got.append(pool.get(key("slow"), slow))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(30)
    assert get(pool, "other") is not None  # while the slow one is under way
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert count == 1
    assert len(got) == 4
    assert len(set(map(id, got))) == 1


def test_a_failed_load_is_told_and_can_be_tried_again() -> None:
    pool = ModelPool(budget_bytes=100)

    def fail() -> Model:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        pool.get(key("a"), fail)
    assert pool.loads() == {}
    assert get(pool, "a") is get(pool, "a")


def test_a_key_is_the_file_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "voice.pth"
    path.write_bytes(b"one")
    before = ModelKey.of("voice", path)
    assert ModelKey.of("voice", path) == before
    path.write_bytes(b"three")
    assert ModelKey.of("voice", path) != before
    assert ModelKey.of("voice", path, "fp16") != ModelKey.of("voice", path)
    assert ModelKey.of("voice", tmp_path).size_bytes == 5


def test_a_network_knows_its_bytes() -> None:
    layer = torch.nn.Linear(3, 2)
    layer.register_buffer("table", torch.zeros(5, dtype=torch.float64))
    assert network_bytes(layer) == 4 * (3 * 2 + 2) + 8 * 5
    tied = torch.nn.ModuleList([layer, layer])
    assert network_bytes(tied) == network_bytes(layer)
    assert network_bytes(tiny_voice()) > 1000


def test_files_of_one_name_are_told_apart() -> None:
    pool = ModelPool(budget_bytes=1000)
    for name in ("wren/voice.safetensors", "heron/voice.safetensors", "mine/a.pth", "yours/a.pth", "b.pth"):
        get(pool, name)
    names = ("voice:wren", "voice:heron", "voice:/voices/mine/a.pth", "voice:/voices/yours/a.pth", "voice:b.pth")
    assert pool.loads() == dict.fromkeys(names, 1)
