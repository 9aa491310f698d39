"""`menura`: the process edge. Commands raise; here errors become one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

from menura import __version__
from menura.cli import terminal
from menura.cli.commands import LazyGroup, advice_on_option
from menura.cli.derive import flag_with
from menura.cli.remarks import drop_decoder_remarks
from menura.errors import details_of
from menura.system.device import prepare_own_process
from menura.system.interrupts import TerminatedError, check_interrupts, handle_signals

EXIT_USAGE = 2
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE, EXIT_TERMINATED = 128 + 2, 128 + 13, 128 + 15  # as shells say after a signal

_COMMANDS = {
    "convert": ("menura.cli.convert:convert", "Convert recordings to a voice."),
    "voices": ("menura.cli.voices:voices", "List, describe, import and remove voices."),
    "assets": ("menura.cli.assets:assets", "List model weights, or import them from Applio or RVC WebUI."),
    "train": ("menura.cli.train:train", "Train a voice from recordings."),
    "evaluate": ("menura.cli.evaluate:evaluate", "Measure the quality of a conversion."),
    "bench": ("menura.cli.bench:bench", "Measure speed and memory on this machine."),
    "doctor": ("menura.cli.doctor:doctor", "Check this installation."),
    "completion": ("menura.cli.commands:completion", "Print a script for completion in bash, zsh or fish."),
    "help": ("menura.cli.commands:help_", "Show the help of a command."),
}
_COMPUTING = ("convert", "train", "evaluate", "bench")
"""Commands that load torch."""
_STOPPED = "finished work is kept, and no partial files are left."


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, "-V", "--version", message="menura %(version)s")
def cli() -> None:
    """Voice conversion for recordings of any length.

    \b
    menura convert talk.wav -o talk-wren.wav           one file, to the starter voice 'wren'
    menura convert talks/ -o out/ --voice mine.pth     a folder, to an RVC voice
    """  # noqa: D301  (click's mark for "leave these lines as they are")
    if click.get_current_context().invoked_subcommand in _COMPUTING:
        from menura.system.memory import check_address_space

        check_address_space()


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave the process.

    Args:
        argv: arguments without the program's name; by default the process's own.
    """
    terminal.open_standard_streams()
    if "_MENURA_COMPLETE" in os.environ:
        cli(prog_name="menura")
    prepare_own_process()
    handle_signals()
    drop_decoder_remarks()
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Run the command line and return its exit code; every error is one line on standard error."""
    try:
        code = _invoke(argv)
        terminal.flush()
    except (KeyboardInterrupt, click.Abort):
        return _failed(f"interrupted; {_STOPPED}", EXIT_INTERRUPTED)
    except TerminatedError:
        return _failed(f"terminated; {_STOPPED}", EXIT_TERMINATED)
    except BrokenPipeError:
        # Whoever read our output has gone. Nothing may be flushed into the pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except click.exceptions.NoArgsIsHelpError as error:
        terminal.say_lines(error.format_message().splitlines(), err=True)
        return EXIT_USAGE
    except click.UsageError as error:
        return _failed(_usage(error), EXIT_USAGE)
    except Exception as error:  # noqa: BLE001  (the process edge: no traceback for users)
        return _failed(_message(error), getattr(error, "exit_code", 1))
    return code


def _invoke(argv: Sequence[str]) -> int:
    # Not click's own main(): it prints several lines and hides what is reported here.
    try:
        with cli.make_context("menura", list(argv)) as context:
            cli.invoke(context)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    finally:
        check_interrupts()  # instead of a success, or of an error that may come of it
    return 0


def _usage(error: click.UsageError) -> str:
    place = error.ctx.command_path if error.ctx else "menura"
    if isinstance(error, click.NoSuchOption):
        return f"no such option {error.option_name}.{advice_on_option(error)} See '{place} --help'."
    message = " ".join(error.format_message().split())
    return f"{message[:1].lower()}{message[1:]} See '{place} --help'."


def _message(error: Exception) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    details = details_of(error)
    if details.kind == "unexpected":
        return f"{details.problem} (MENURA_DEBUG=1 shows where; please report it)."
    if details.kind == "system" and details.subject is None and isinstance(error, OSError):
        if "click" in traceback.extract_tb(error.__traceback__)[-1].filename:  # which prints helps
            return f"standard output: {details.text()}"
        # A write's error doesn't name its file. Whoever writes one should; this is for what does not.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "Free space on the disks that are written" if full else "Try again"
        return f"{details.text()} {advice} (MENURA_DEBUG=1 shows where)."
    return details.text(flag_with)


def _failed(message: str, code: int) -> int:
    if os.environ.get("MENURA_DEBUG") == "1":
        traceback.print_exc()
    terminal.fail(message)
    return code


if __name__ == "__main__":
    main()
