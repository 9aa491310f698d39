"""Start a program from a small process, and write down what it took.

Linux counts into a program's largest memory that of the process which started it (the new process
has its parent's pages until it becomes the program). So a measuring process that holds networks
must not start the measured program itself. This file imports little and is run by its path.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time


def main(answer: str, command: list[str]) -> None:
    """Run the command to its end and write what it took, as JSON, to the file."""
    start_s = time.perf_counter()
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        _write(answer, {"errno": error.errno, "error": error.strerror})
        return
    if hasattr(os, "wait4"):
        _, status, usage = os.wait4(process.pid, 0)
        code = process.returncode = os.waitstatus_to_exitcode(status)
        cpu_s, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss
    else:  # Windows
        code, cpu_s, peak = process.wait(), 0.0, 0
    peak_mb = peak / (2**20 if sys.platform == "darwin" else 2**10)
    wall_s = time.perf_counter() - start_s
    _write(answer, {"exit_code": code, "wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": peak_mb})


def _write(answer: str, fields: dict[str, object]) -> None:
    with open(answer, "w", encoding="utf-8") as file:
        json.dump(fields, file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
