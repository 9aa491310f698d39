"""Another program on the same recordings in turn with Menura, both from process start to end.

python -m benchmarks.compare 'other-converter --model voice.pth --input {in} --output {out}' --voice voice.pth
python -m benchmarks.compare './batch.sh {in_dir} {out_dir}' --suite five-minutes --rounds 3
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from menura.bench.suites import SUITES, Recordings, Timed, convert_command, timed
from menura.cli.terminal import table
from menura.errors import MenuraError, OptionError
from menura.options import ConversionOptions, EngineOptions
from menura.voices.assets import cache_folder, home_folder

IN, OUT, IN_FOLDER, OUT_FOLDER = "{in}", "{out}", "{in_dir}", "{out_dir}"
_SHELL_WORDS = {"|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "2>&1", "&>"}
_MOST_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A command with places for what it reads and writes; no shell is involved."""

    words: tuple[str, ...]
    folders: bool
    """Whether it takes a folder of recordings at once, rather than one recording each time it is started."""

    def command(self, source: Path, output: Path) -> list[str]:
        """The words with their places filled; what is filled in is never split or interpreted."""
        places = (IN_FOLDER, OUT_FOLDER) if self.folders else (IN, OUT)
        filled = dict(zip(places, (str(source), str(output)), strict=True))
        pattern = re.compile("|".join(map(re.escape, places)))
        return [pattern.sub(lambda found: filled[found[0]], word) for word in self.words]


def parse_program(command: str) -> Program:
    """Understand a command as a POSIX shell splits it into words.

    Args:
        command: with `{in}` and `{out}` for one recording, or `{in_dir}` and `{out_dir}` for a folder of them.

    Raises:
        OptionError: its places are missing or mixed, it needs a shell, or the program isn't there.
    """
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise OptionError(None, f"{command!r} can't be split into words ({error})", "Check its quotes") from None
    files, folders = (
        tuple(any(place in word for word in words) for place in places)
        for places in ((IN, OUT), (IN_FOLDER, OUT_FOLDER))
    )
    if any(files) == any(folders) or not (all(files) or all(folders)):
        raise OptionError(
            None,
            f"the command needs {IN} and {OUT} (started once for every recording), or {IN_FOLDER} and {OUT_FOLDER} "
            "(started once for a folder of them)",
        )
    shell = next((word for word in words if word in _SHELL_WORDS), None)
    if shell is not None:
        raise OptionError(None, f"'{shell}' means something to a shell only, and none is used", "Write a script")
    if shutil.which(words[0]) is None:
        raise OptionError(words[0], "no such program")
    return Program(words=words, folders=all(folders))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A start of the other program that failed."""

    input: str
    exit_code: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Both programs on the same recordings, from process start to end, one after the other in turn."""

    command: str
    starts: int
    """Of each program."""
    audio_s: float
    """That both converted."""
    wall_s: float
    """The other program's, over all that it converted."""
    menura_wall_s: float
    """Menura's over the same."""
    peak_mb: float
    menura_peak_mb: float
    failures: tuple[Failure, ...]

    @property
    def times_menura(self) -> float | None:
        """How many times as long as Menura it takes; None if it converted nothing."""
        return self.wall_s / self.menura_wall_s if self.menura_wall_s else None


def compare(program: Program, menura: Program, recordings: Recordings, rounds: int = 1) -> Comparison:
    """Run both in turn; of several rounds each start's best counts.

    Args:
        program: the other one.
        menura: taking recordings as the other does.
        recordings: what both convert.
        rounds: how often.

    Raises:
        MenuraError: Menura itself failed.
        OSError: a program can't be started.
    """
    sources = (recordings.folder,) if program.folders else recordings.paths
    ours: dict[Path, list[Timed]] = {source: [] for source in sources}
    theirs: dict[Path, list[Timed]] = {source: [] for source in sources}
    failures: dict[Path, Failure] = {}
    for _ in range(rounds):
        for source in sources:
            own, problem = _run(menura, source, recordings)
            if problem is not None:
                raise MenuraError(source, f"Menura itself failed: {problem}")
            other, problem = _run(program, source, recordings)
            if problem is not None:
                failures[source] = Failure(input=str(source), exit_code=other.exit_code, error=problem)
            ours[source].append(own)
            theirs[source].append(other)
    done = [source for source in sources if source not in failures]
    return Comparison(
        command=shlex.join(program.words),
        starts=len(sources),
        audio_s=recordings.seconds * len(done) * (len(recordings.paths) if program.folders else 1),
        wall_s=_best_s(theirs, done),
        menura_wall_s=_best_s(ours, done),
        peak_mb=_peak_mb(theirs),
        menura_peak_mb=_peak_mb(ours),
        failures=tuple(failures.values()),
    )


def _run(program: Program, source: Path, recordings: Recordings) -> tuple[Timed, str | None]:
    """Run a program once: how long it took, and what went wrong."""
    with tempfile.TemporaryDirectory(prefix="menura-bench-") as folder:
        output = Path(folder) if program.folders else Path(folder) / source.name
        took = timed(program.command(source, output))
        made = sum(path.is_file() and path.stat().st_size > 0 for path in Path(folder).rglob("[!.]*"))
    wanted = len(recordings.paths) if program.folders else 1
    if took.exit_code != 0:
        return took, (took.last_line or "nothing on standard error")[:_MOST_CHARACTERS]
    if made < wanted:
        return took, f"exit code 0, but {made} of {wanted} files written"
    return took, None


def _best_s(taken: dict[Path, list[Timed]], sources: Sequence[Path]) -> float:
    return sum(min(run.wall_s for run in taken[source]) for source in sources)


def _peak_mb(taken: dict[Path, list[Timed]]) -> float:
    return max(run.peak_mb for runs in taken.values() for run in runs)


def menura_program(options: ConversionOptions, engine: EngineOptions, *, folders: bool) -> Program:
    """Menura itself, taking recordings as the other program does."""
    source, output = (IN_FOLDER, OUT_FOLDER) if folders else (IN, OUT)
    return Program(words=tuple(convert_command([source], output, options, engine)), folders=folders)


def tables(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """One row for each length."""
    header = ("in turn", "audio s", "other, s", "menura, s", "times", "other, MB", "menura, MB", "failed")
    yield from table([header, *map(_row, comparisons)], numbers=True)


def _row(each: Comparison) -> Sequence[str]:
    return (
        f"{each.starts} starts",
        f"{each.audio_s:.1f}",
        f"{each.wall_s:.2f}",
        f"{each.menura_wall_s:.2f}",
        "" if each.times_menura is None else f"{each.times_menura:.2f}",
        f"{each.peak_mb:.0f}",
        f"{each.menura_peak_mb:.0f}",
        str(len(each.failures)),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 if a start of the other program failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", help="with {in} and {out}, or {in_dir} and {out_dir}; no shell is used")
    parser.add_argument("--suite", choices=tuple(SUITES), default="batch12", help="what to convert")
    parser.add_argument("--quick", action="store_true", help="much shorter inputs, to check that everything runs")
    parser.add_argument("--rounds", type=int, default=1, help="the best of each start counts")
    parser.add_argument("--voice", default=ConversionOptions().voice)
    parser.add_argument("--index", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON as well")
    given = parser.parse_args(arguments)
    program = parse_program(given.command)
    options = ConversionOptions(voice=given.voice, index=given.index)
    engine = EngineOptions(device=given.device, threads=given.threads, home=given.home)
    menura = menura_program(options, engine, folders=program.folders)
    sounds = SUITES[given.suite].recordings(cache_folder(home_folder(given.home)) / "bench", quick=given.quick)
    found = [compare(program, menura, sound, given.rounds) for sound in sounds]
    print("\n".join(tables(found)))
    if given.json is not None:
        fields = [{**dataclasses.asdict(each), "times_menura": each.times_menura} for each in found]
        given.json.write_text(json.dumps(fields, indent=2), encoding="utf-8")
    failures = [failure for each in found for failure in each.failures]
    for failure in failures:
        print(f"{failure.input}: exit code {failure.exit_code}: {failure.error}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
