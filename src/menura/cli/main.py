"""`menura`: the process edge. Commands raise; here errors become one line and an exit code."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from menura import __version__
from menura.cli.remarks import drop_decoder_remarks
from menura.errors import MenuraError, details_of
from menura.system.interrupts import TerminatedError, check_interrupts, hear_interrupts

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + 2
EXIT_BROKEN_PIPE = 128 + 13
EXIT_TERMINATED = 128 + 15

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "convert": ("menura.cli.convert:convert", "Convert recordings into a voice."),
    "voices": ("menura.cli.voices:voices", "List, describe, import and remove voices."),
    "assets": ("menura.cli.assets:assets", "List the networks' weights: found, missing, where from."),
    "train": ("menura.cli.train:train", "Train a voice from recordings."),
    "evaluate": ("menura.cli.evaluate:evaluate", "Judge a conversion by networks and measures."),
    "bench": ("menura.cli.bench:bench", "Measure speed and memory on this machine."),
    "doctor": ("menura.cli.doctor:doctor", "Say what this installation has and lacks."),
}
"""Where each command lives, and its line in the help: modules are imported only when their command runs."""


class LazyGroup(click.Group):
    """A group that imports a command's module when it is called."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of the help."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in self._lazy.items()])


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, message="menura %(version)s")
def cli() -> None:
    """Voice conversion that takes any length.

    \b
    menura convert talk.wav -o talk-wren.wav --transpose auto   one file, into the starter voice, at its pitch
    menura convert talks/ -o out/ --voice mine.pth              a folder, into an RVC voice
    """  # noqa: D301  (click's mark for "leave these lines as they are")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process.

    Args:
        argv: arguments without the program's name; by default the process's own.
    """
    if "_MENURA_COMPLETE" in os.environ:
        cli(prog_name="menura")
    hear_interrupts()
    drop_decoder_remarks()
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run the command line and return its exit code; errors are told in one line each on standard error."""
    try:
        _invoke(argv)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return _flushed(stop.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _told("interrupted; nothing half-written was left.", EXIT_INTERRUPTED)
    except TerminatedError:
        return _told("terminated; nothing half-written was left.", EXIT_TERMINATED)
    except BrokenPipeError:
        # Whoever read our output has gone. Nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.UsageError as error:
        place = error.ctx.command_path if error.ctx else "menura"
        return _told(f"{_one_line(error.format_message())} See '{place} --help'.", EXIT_USAGE)
    except Exception as error:  # noqa: BLE001  (the process edge: no traceback for users)
        return _told(_message(error), getattr(error, "exit_code", EXIT_FAILURE))
    return 0


def _invoke(argv: Sequence[str]) -> None:
    # Not click's own main(): it would print tracebacks' worth of lines and swallow what is told here.
    try:
        with cli.make_context("menura", list(argv)) as context:
            cli.invoke(context)
    finally:
        check_interrupts()  # instead of a success, or of an error that may come of it


def _flushed(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        return _told(_message(error), EXIT_FAILURE)
    return code


def _message(error: Exception) -> str:
    if isinstance(error, (MenuraError, MemoryError)):
        from menura.cli.derive import flag_with

        return _one_line(details_of(error).text(flag_with))
    if isinstance(error, OSError) and error.strerror:
        return _of_system(error)
    if isinstance(error, click.ClickException):
        return _one_line(error.format_message())
    return f"unexpected {type(error).__name__}: {_one_line(str(error))} (MENURA_DEBUG=1 shows where; please report it)."


def _of_system(error: OSError) -> str:
    if error.filename:
        return f"{error.filename}: {error.strerror}."
    if _from_output(error):
        return f"standard output: {error.strerror}."
    # A write's error doesn't name its file. Whoever writes one should; this is for what does not.
    advice = "free space on the disks that are written" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "try again"
    return f"{error.strerror}: {advice} (MENURA_DEBUG=1 shows where)."


def _from_output(error: OSError) -> bool:
    """Whether printing failed: by click, or the commands' modules, which write no files themselves."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = frame.tb_frame.f_globals.get("__name__", "") if frame else ""
    return module.startswith(("click.", "menura.cli."))


def _told(message: str, code: int) -> int:
    if os.environ.get("MENURA_DEBUG") == "1":
        traceback.print_exc()
    click.echo(f"menura: {message}", err=True)
    return code


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
