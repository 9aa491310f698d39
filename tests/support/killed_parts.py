"""A long recording whose conversion is killed at many moments. Run as a program: it must fork, and early.

python -m support.killed_parts RECORDING HOME SEED KILLS
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

import menura.loading.loader
import menura.pipeline.engine  # noqa: F401
from menura.converter import Converter
from menura.options import ConversionOptions, EngineOptions
from menura.system.files import parts_folder

OPTIONS = ConversionOptions(voice="tiny", part_length=20, bit_depth=32)


def main() -> None:
    """Says how many parts there were, and how many of them the last run found, or fails."""
    recording, home, chance = Path(sys.argv[1]), Path(sys.argv[2]), random.Random(int(sys.argv[3]))
    torch.set_num_threads(1)
    output, engine = recording.with_name("killed.wav"), EngineOptions(home=home, threads=1, device="cpu")
    complete: dict[str, int] = {}
    for _ in range(int(sys.argv[4])):
        process = os.fork()
        if process == 0:
            Converter(engine).convert(recording, output, OPTIONS)
            os._exit(0)
        wanted, deadline = len(complete) + chance.randint(0, 1), time.monotonic() + 60
        while len(done(output)) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        now = done(output)
        assert complete.items() <= now.items(), "a part was made twice"
        complete = now
    converter = Converter(engine)
    result = converter.convert(recording, output, OPTIONS)
    assert result.parts_resumed == len(complete), (result.parts_resumed, complete)
    whole = converter.convert(
        recording, recording.with_name("whole.wav"), ConversionOptions(voice="tiny", bit_depth=32)
    )
    assert (whole.parts, whole.seams_s, whole.notes) == (0, result.seams_s, result.notes)
    sounds = [soundfile.read(path, dtype="float32")[0] for path in (output, recording.with_name("whole.wav"))]
    np.testing.assert_array_equal(*sounds)
    left = sorted(path.name for path in recording.parent.iterdir())
    assert left == sorted([recording.name, "killed.wav", "whole.wav"]), left
    print(result.parts, result.parts_resumed)  # noqa: T201


def done(output: Path) -> dict[str, int]:
    """Which parts' sounds are complete, and since when."""
    return {path.name: path.stat().st_mtime_ns for path in parts_folder(output).glob("*.sound-*-facts")}


if __name__ == "__main__":
    main()
