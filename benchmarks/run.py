"""The figures of the README in one go: `menura bench` with the starter voice, then with a full-size one.

    python benchmarks/run.py [--quick] [--suite NAME ...]

Prints tables, and writes `starter.json` and `full-size.json` into the current folder. The suites are by default 12
files of 5 s (cold start among them), 5 minutes, and the memory at 1 and 10 minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

SUITES = ("batch12", "five-minutes", "minutes")


def main() -> int:
    """Runs both; gives the first exit code that isn't 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", nargs="+", default=SUITES, help="suites of menura bench")
    parser.add_argument("--quick", action="store_true", help="small inputs, to see that it works")
    options = parser.parse_args()
    command = [sys.executable, "-m", "menura", "bench", *(["--quick"] if options.quick else [])]
    command += [word for name in options.suite for word in ("--suite", name)]
    starter = subprocess.run([*command, "--json", "starter.json"], check=False).returncode
    full = subprocess.run([*command, "--full-size", "--json", "full-size.json"], check=False).returncode
    return starter or full


if __name__ == "__main__":
    sys.exit(main())
