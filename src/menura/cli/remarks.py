"""Keeps libmpg123's remarks off the command's standard error: a damaged MP3 causes one for every frame.

libsndfile has no switch for them, and a library must not touch its process's descriptors; the command may.
"""

from __future__ import annotations

import os
import sys
import threading

_REMARKS = (b"[src/libmpg123", b"Note: ", b"Warning: Xing", b"Warning: Encountered", b"\n")


def drop_decoder_remarks() -> None:
    """Pass on what native code writes to descriptor 2, less the remarks; Python keeps a descriptor of its own."""
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
