"""Environment variables that libraries read when they are loaded. Nothing is set by importing this."""

from __future__ import annotations

import os

from menura.system.device import default_threads

_OPENMP_WAIT = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""How long OpenMP's threads wait busily for each other: about 10 µs (GCC's runtime) and 1 ms (Intel's and LLVM's).

By default it is 3 ms and 200 ms at every barrier. Beside other busy programs that takes the time from the very threads
that are waited for: with eight of them on two cores, 7 s of speech took 65 s instead of 23 s.
"""


def prepare_own_process() -> None:
    """Set up the environment of a process that is Menura's own, before torch is loaded; what the user set stays."""
    silence_onnxruntime()
    os.environ.setdefault("OMP_NUM_THREADS", str(default_threads()))
    if not os.environ.keys() & {*_OPENMP_WAIT, "OMP_WAIT_POLICY"}:
        os.environ.update(_OPENMP_WAIT)


def silence_onnxruntime() -> None:
    """Switch off ONNX Runtime's telemetry; its wheels number the computer and report to their maker.

    Call it before the import: there is no other way that keeps it from writing its number.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
