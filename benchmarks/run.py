"""The figures of the README in one go: `menura bench` with the starter voice, then with a full-size one.

    python -m benchmarks.run [--quick] [--suite NAME ...]

Prints tables, and writes `starter.json` and `full-size.json` into the current folder. The suites are by default 12
files of 5 s (cold start among them), 5 minutes, and the memory at 1 and 10 minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks import full_size

SUITES = ("batch12", "five-minutes", "minutes")


def main() -> int:
    """Run both; the first exit code that isn't 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", default=SUITES, help="suites of menura bench")
    parser.add_argument("--quick", action="store_true", help="small inputs, to see that it works")
    given = parser.parse_args()
    options = ["--quick"] if given.quick else []
    options += [word for name in given.suite for word in ("--suite", name)]
    command = [sys.executable, "-m", "menura", "bench", *options, "--json", "starter.json"]
    starter = subprocess.run(command, check=False).returncode
    return starter or full_size.main([*options, "--json", "full-size.json"])


if __name__ == "__main__":
    sys.exit(main())
