"""How a cluster is divided, and what is said where that can't be."""

from __future__ import annotations

import socket
import sys

import pytest

from menura.errors import OptionError
from menura.jobs.ray import Node, connected, divide_cluster
from menura.options import BatchOptions, EngineOptions, ServeOptions

CPU, GPU = Node(cpus=8, gpus=0), Node(cpus=16, gpus=4)


@pytest.mark.parametrize(
    ("nodes", "engine", "workers", "expected"),
    [
        ([CPU, CPU], EngineOptions(), None, (4, 4, 0, "cpu")),
        ([CPU, Node(cpus=2, gpus=0)], EngineOptions(), None, (2, 4, 0, "cpu")),
        ([Node(cpus=2, gpus=0)] * 3, EngineOptions(), None, (3, 2, 0, "cpu")),
        ([CPU, CPU], EngineOptions(threads=1), None, (16, 1, 0, "cpu")),
        ([CPU, CPU], EngineOptions(), 8, (8, 2, 0, "cpu")),
        ([CPU, CPU], EngineOptions(), 1, (1, 8, 0, "cpu")),
        ([CPU, CPU], EngineOptions(), 99, (99, 1, 0, "cpu")),
        ([CPU, GPU], EngineOptions(), None, (4, 4, 1, "cuda")),
        ([GPU], EngineOptions(device="cuda:1", threads=8), None, (2, 8, 1, "cuda")),
        ([GPU], EngineOptions(device="cpu"), None, (4, 4, 0, "cpu")),
    ],
)
def test_shares(nodes: list[Node], engine: EngineOptions, workers: int | None, expected: tuple[object, ...]) -> None:
    assert divide_cluster(nodes, engine, workers) == expected


def test_no_room() -> None:
    with pytest.raises(OptionError, match="no machine of the cluster has 9 CPUs"):
        divide_cluster([CPU], EngineOptions(threads=9), 1)
    with pytest.raises(OptionError, match="GPU"):
        divide_cluster([CPU], EngineOptions(device="cuda"), None)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_DEDUP_LOGS_SKIP_REGEX", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(OptionError, match=r"pip install 'menura\[ray\]'"), connected("local"):
        pass


def test_nobody_answers() -> None:
    """Told at once: Ray itself would try for minutes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(OptionError, match=f"no cluster answers at {address}"), connected(address):
            pass


def test_addresses() -> None:
    for good in ("auto", "local", "10.0.0.1:6379", "head:6379"):
        assert BatchOptions(ray=good).ray == good
    for bad in ("talks", "talks/day", "ray://localhost:1", ""):
        for options in (BatchOptions, ServeOptions):
            with pytest.raises(OptionError, match="is not"):
                options(ray=bad)
    with pytest.raises(OptionError, match="Add ray"):
        ServeOptions(workers=2)
