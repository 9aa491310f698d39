"""Another program, run on the same recordings in turn with Menura."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from menura.bench.inputs import Recordings
from menura.bench.process import Timed, timed
from menura.errors import MenuraError, OptionError

IN, OUT, IN_FOLDER, OUT_FOLDER = "{in}", "{out}", "{in_dir}", "{out_dir}"
_SHELL_WORDS = {"|", "||", "&", "&&", ";", ">", ">>", "<", "2>", "2>&1", "&>"}
_TOLD_CHARACTERS = 300


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
        raise OptionError(f"compare: {command!r} can't be split into words ({error}); check its quotes.") from None
    files, folders = (
        tuple(any(place in word for word in words) for place in places)
        for places in ((IN, OUT), (IN_FOLDER, OUT_FOLDER))
    )
    if any(files) == any(folders) or not (all(files) or all(folders)):
        raise OptionError(
            f"compare: the command needs {IN} and {OUT} (started once for every recording), or {IN_FOLDER} and "
            f"{OUT_FOLDER} (started once for a folder of them)."
        )
    shell = next((word for word in words if word in _SHELL_WORDS), None)
    if shell is not None:
        raise OptionError(f"compare: '{shell}' means something to a shell only, and none is used; write a script.")
    if shutil.which(words[0]) is None:
        raise OptionError(f"compare: there is no program '{words[0]}' that can be run; check its path.")
    return Program(words=words, folders=all(folders))


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A start of the other program that gave nothing."""

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
                raise MenuraError(f"{source}: Menura itself failed: {problem}")
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
        return took, (took.last_words or "it said nothing on standard error")[:_TOLD_CHARACTERS]
    if made < wanted:
        return took, f"it ended well, but wrote {made} of {wanted} file{'s' * (wanted > 1)}"
    return took, None


def _best_s(taken: dict[Path, list[Timed]], sources: Sequence[Path]) -> float:
    return sum(min(run.wall_s for run in taken[source]) for source in sources)


def _peak_mb(taken: dict[Path, list[Timed]]) -> float:
    return max(run.peak_mb for runs in taken.values() for run in runs)
