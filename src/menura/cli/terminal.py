"""The one place through which commands print: text is escaped and bounded; streams may be closed or of any kind."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from menura.system.files import write_whole

_LONGEST_LINE, _LINE_EDGE = 2000, 900
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_REMARKS = (b"[src/libmpg123", b"Note: ", b"Warning: Xing", b"Warning: Encountered", b"\n")


def open_standard_streams() -> None:
    """Give the process the standard streams that whoever started it has closed, and let them take any text."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # the lowest free descriptor is the closed one; no recording may get it
            descriptor = os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def drop_decoder_remarks() -> None:
    """Pass on what native code writes to descriptor 2, less the remarks; Python keeps a descriptor of its own.

    A damaged MP3 causes one for every frame. libsndfile has no switch for them; a library must not touch descriptors.
    """
    if sys.__stderr__ is None:  # it was closed: nobody reads it, and losing the stand-in would close 2
        return
    try:
        own = os.dup(2)
    except OSError:  # no standard error
        return
    encoding, errors = sys.stderr.encoding, sys.stderr.errors
    sys.stderr = open(own, "w", buffering=1, encoding=encoding, errors=errors)  # noqa: SIM115  (for the process)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)
    threading.Thread(target=_pass_on, args=(reading, own), daemon=True).start()


def _pass_on(reading: int, target: int) -> None:
    # No file object: Python aborts if it ends while a thread holds such a one's lock.
    rest = b""
    while data := os.read(reading, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if not (line + b"\n").startswith(_REMARKS):
                os.write(target, line + b"\n")


def printable(text: str) -> str:
    """One line without control characters, which names and files may bring; of a very long one its two ends."""
    text = _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    if len(text) > _LONGEST_LINE:
        cut = len(text) - 2 * _LINE_EDGE
        text = f"{text[:_LINE_EDGE]} ... ({cut} characters) ... {text[-_LINE_EDGE:]}"
    return text


def say(text: str = "", *, err: bool = False) -> None:
    """Print one line. Raises OSError as `_output_errors` says; so do the other functions for standard output."""
    with _output_errors():
        (sys.stderr if err else sys.stdout).write(f"{printable(text)}\n")


def say_lines(lines: Iterable[str], *, err: bool = False) -> None:
    for line in lines:
        say(line, err=err)


def table(rows: Iterable[Sequence[str]], *, numbers: bool = False) -> Iterator[str]:
    """Lines with rows in columns; all but the first column to the right if they are numbers."""
    rows = list(rows)
    widths = [max(map(columns_of, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        gaps = [" " * (width - columns_of(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = [gap + cell if numbers else cell + gap for cell, gap in zip(row, gaps, strict=True)]
        yield "  ".join([row[0] + gaps[0], *cells[1:]]).rstrip()


def _complain(colour: str, text: str) -> None:
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    name = f"\x1b[{colour}mmenura:\x1b[0m" if coloured else "menura:"
    with contextlib.suppress(OSError, ValueError):  # standard error is gone as well
        sys.stderr.write(f"{name} {printable(text)}\n")
        sys.stderr.flush()


note, fail = partial(_complain, "2"), partial(_complain, "31")
"""Print a remark on standard error, faint; or what went wrong, in red."""


def warn(text: str) -> None:
    """Print what went half wrong, in yellow."""
    _complain("33", f"warning: {text}")


def say_json(value: object) -> None:
    """Print one JSON document on standard output, in ASCII where the stream isn't UTF-8."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    with _output_errors():
        sys.stdout.write(_json(value, ascii=not unicode))


def write_json(value: object, path: Path) -> None:
    """Write one JSON document to a file, which appears when it is complete. Raises ResourceError."""
    write_whole(path, _json(value).encode())


def pass_on(path: Path) -> None:
    """Write a file's bytes to standard output."""
    with path.open("rb") as file, _output_errors():
        shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
        sys.stdout.buffer.flush()


def flush() -> None:
    with _output_errors():
        sys.stdout.flush()


class LiveLine:
    """A live line on standard error, where that is a terminal; `text` says what to show in a number of columns."""

    _INTERVAL_S = 0.1
    _PULSE_S = 0.5

    def __init__(self, text: Callable[[int], str]) -> None:
        self._text, self._stream = text, sys.stderr
        self.live = self._stream.isatty()
        self._width, self._next_s = 0, 0.0
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="progress", daemon=True)
        if self.live:
            self._pulse.start()

    def show(self) -> None:
        """Draw the line, unless it was drawn a moment ago."""
        if self.live and time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + self._INTERVAL_S
            columns = 80
            with contextlib.suppress(OSError, ValueError):  # of this stream: standard output may go elsewhere
                columns = int(os.environ.get("COLUMNS") or os.get_terminal_size(self._stream.fileno()).columns) or 80
            with self._lock:
                self._draw(cut(printable(self._text(columns - 1)), columns - 1))

    def tell(self, *lines: str, to: Callable[[str], None] = say) -> None:
        """Print lines above it: by `say`, `note`, `warn` or `fail`."""
        with self._lock:
            self._draw("")
            for line in lines:
                to(line)
            flush()

    def close(self) -> None:
        self._ended.set()
        if self.live:
            self._pulse.join()
            self._draw("")

    def _beat(self) -> None:
        while not self._ended.wait(self._PULSE_S):
            self.show()

    def _draw(self, text: str) -> None:
        width = columns_of(text)
        if width or self._width:
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(f"\r{text}{' ' * (self._width - width)}" + ("" if text else "\r"))
                self._stream.flush()
        self._width = width


def clock(seconds: float) -> str:
    """0:07, 1:46, 2:03:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def columns_of(text: str) -> int:
    """Columns that a text takes on a terminal: East Asian wide characters take two."""
    return sum(map(_columns, text))


def cut(text: str, columns: int) -> str:
    """The start of a text that fits into columns, with an ellipsis where some is missing."""
    if columns_of(text) <= columns:
        return text
    kept = sum(used < columns for used in itertools.accumulate(map(_columns, text)))
    return f"{text[:kept]}…"


def cut_start(text: str, columns: int) -> str:
    """The end of a text that fits into columns."""
    return cut(text[::-1], columns)[::-1]


def _columns(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


@contextlib.contextmanager
def _output_errors() -> Iterator[None]:
    """Where standard output can't be written, the error says so; BrokenPipeError where its reader has gone."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from error


def _json(value: object, *, ascii: bool = False) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=ascii) + "\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # lone surrogates become JSON's own escapes
