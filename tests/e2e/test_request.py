"""One command looks everything up once."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from menura.cli.main import run
from menura.loading import request as resolver

_watching: list[Callable[[str, tuple[object, ...]], None]] = []
sys.addaudithook(lambda event, arguments: [watch(event, arguments) for watch in _watching] and None)


@pytest.mark.parametrize("explain", [False, True], ids=["convert", "explain"])
def test_voices_f0_and_request_are_read_once(
    talk: Path, home: Path, monkeypatch: pytest.MonkeyPatch, *, explain: bool
) -> None:
    Path("f0.csv").write_text("0,200\n1.5,210\n")
    folder = Path("talks")
    folder.mkdir()
    for name in ("a.wav", "b.wav"):
        (folder / name).write_bytes(talk.read_bytes())
    counts: collections.Counter[str] = collections.Counter()

    def count(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith("f0.csv"):
            counts["f0"] += 1
        if event == "os.scandir" and str(arguments[0]) == str(home / "voices"):
            counts["voices"] += 1

    def resolve(*arguments: object) -> object:
        counts["resolve"] += 1
        return resolver.resolve(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("menura.loading.resolve", resolve)
    monkeypatch.setattr("menura.converter.resolve", resolve)
    _watching.append(count)
    try:
        more = ["--explain"] if explain else ["-o", "converted", "--threads", "1"]
        assert run(["convert", "talks", "--voice", "tiny", "--f0-file", "f0.csv", *more]) == 0
    finally:
        _watching.clear()
    assert counts == {"resolve": 1, "f0": 1, "voices": 1}
