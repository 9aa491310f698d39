"""What is printed: escaped, bounded, and to streams of any kind or none."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from menura.cli import terminal
from menura.cli.terminal import LiveLine, columns_of, cut, cut_start, fail, printable, say, say_json, write_json

TEXTS = st.text(st.characters(codec=None, categories=None), max_size=60)


@given(TEXTS)
def test_what_is_printed_is_one_line_without_control_characters(text: str) -> None:
    assert not any(character < " " or "\x7f" <= character < "\xa0" for character in printable(text))
    assert len(printable(text).splitlines()) <= 1
    printable(text).encode("utf-8")


def test_escapes_show_what_was_there() -> None:
    assert printable("a\n\x1b[31mred\u202e\udcff") == r"a\n\x1b[31mred\u202e\udcff"
    assert printable("Ærø 録音.wav") == "Ærø 録音.wav"


def test_long_lines_keep_their_ends() -> None:
    line = printable("begin" + "x" * 200_000 + "end")
    assert len(line) < 2100
    assert line.startswith("beginx")
    assert line.endswith("xend")


@given(TEXTS, st.integers(1, 40))
def test_cut_text_fits(text: str, columns: int) -> None:
    for made in (cut(text, columns), cut_start(text, columns)):
        assert columns_of(made) <= columns
        assert made == text or "…" in made


def test_wide_characters_take_two_columns() -> None:
    assert columns_of("録音a") == 5
    assert columns_of("e\u0301") == 1
    assert cut("録音録音", 5) == "録音…"
    assert cut_start("録音録音", 5) == "…録音"


VALUE = {"input": "録音\U0001f600.wav", "bytes": "\udcff", "latin": "é"}


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "utf-8", "UTF8", "gbk"])
def test_json_parses_in_any_encoding(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
    say_json(VALUE)
    sys.stdout.flush()
    assert json.loads(raw.getvalue().decode(encoding)) == VALUE


def test_json_in_a_file_parses(tmp_path: Path) -> None:
    write_json(VALUE, tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == VALUE


def test_colour_only_where_a_terminal_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    def shown(kind: type[io.StringIO]) -> str:
        monkeypatch.setattr("sys.stderr", stream := kind())
        fail("no.")
        return stream.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert shown(Screen) == "\x1b[31mmenura:\x1b[0m no.\n"
    assert shown(io.StringIO) == "menura: no.\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown(Screen) == "menura: no.\n"


def test_nothing_else_prints() -> None:
    folder = Path(terminal.__file__).parent
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if path.name != "terminal.py":
            assert "click.echo" not in text, f"{path}: print through menura.cli.terminal"


def test_a_full_standard_output_is_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stdout", Full())
    with pytest.raises(OSError, match="No space left") as caught:
        say("text")
    assert caught.value.filename == "standard output"


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", ["--version", "help", "voices list", "voices list --json"])
def test_closed_standard_streams(closed: str, arguments: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -m menura {arguments} {closed}', sys.executable],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_recording_never_gets_a_closed_streams_descriptor(tmp_path: Path) -> None:
    code = (
        "from menura.cli.terminal import open_standard_streams; open_standard_streams()\n"
        f"file = open({str(tmp_path / 'x.wav')!r}, 'w'); assert file.fileno() > 2, file.fileno(); print('shown')"
    )
    done = subprocess.run(["sh", "-c", 'exec "$0" -c "$1" >&- <&-', sys.executable, code], timeout=60, check=False)
    assert done.returncode == 0


def test_names_that_are_not_unicode_are_printed(tmp_path: Path) -> None:
    code = "from menura.cli.terminal import *; open_standard_streams(); say('a\\udcff \\u9332')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONIOENCODING": "cp1252"}, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, rb"a\udcff \u9332" + b"\n")


def test_a_line_told_above_the_live_one_stands_by_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(LiveLine, "_INTERVAL_S", 0.0)
    monkeypatch.setattr(LiveLine, "_PULSE_S", 60.0)
    with contextlib.closing(LiveLine(lambda _columns: "at work")) as line:
        line.show()
        line.tell("done: one", to=partial(say, err=True))
        line.show()
    shown = capsys.readouterr().err
    assert shown == "\rat work\r       \rdone: one\n\rat work\r       \r"
