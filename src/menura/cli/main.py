"""`menura`: the process edge. Commands raise; here errors become one line and an exit code."""

from __future__ import annotations

import difflib
import errno
import gc
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import click
from click.shell_completion import get_completion_class

from menura import __version__
from menura.cli import terminal
from menura.cli.derive import flag_with
from menura.errors import details_of
from menura.system.device import prepare_own_process
from menura.system.interrupts import TerminatedError, check_interrupts, handle_signals

EXIT_USAGE = 2
EXIT_INTERRUPTED, EXIT_BROKEN_PIPE, EXIT_TERMINATED = 128 + 2, 128 + 13, 128 + 15  # as shells say after a signal

_COMMANDS = {
    "convert": ("menura.cli.convert:convert", "Convert recordings to a voice."),
    "voices": ("menura.cli.library:voices", "List, describe, import and remove voices."),
    "assets": ("menura.cli.library:assets", "List, fetch and verify model weights, or import them."),
    "f0": ("menura.cli.f0:f0", "Estimate the pitch of a recording; compare methods, export curves."),
    "clone": ("menura.cli.clone:clone", "Make a voice of a person from a minute of recordings."),
    "train": ("menura.cli.train:train", "Train a voice from recordings."),
    "serve": ("menura.cli.serve:serve", "Serve a page and an HTTP API."),
    "effects": ("menura.cli.effects:effects", "List effects, and apply them to recordings."),
    "evaluate": ("menura.cli.evaluate:evaluate", "Measure the quality of a conversion."),
    "bench": ("menura.cli.bench:bench", "Measure speed and memory on this machine."),
    "doctor": ("menura.cli.doctor:doctor", "Check this installation."),
    "completion": ("menura.cli.main:completion", "Print a script for completion in bash, zsh or fish."),
    "help": ("menura.cli.main:help_", "Show the help of a command."),
}
_COMPUTING = ("convert", "f0", "clone", "train", "serve", "evaluate", "bench")
"""Commands that load torch."""
_STOPPED = "finished work is kept; run the same command to resume."

_OTHER_NAMES = {
    "--voice": "-v --model --model-name --pth-path",
    "--index": "--index-path",
    "--index-rate": "--search-feature-ratio --feature-ratio",
    "--content": "--embedder-model",
    "--speaker-id": "--sid",
    "--transpose": "--pitch --key --f0-up-key --f0up-key",
    "--f0": "--f0-method --f0method",
    "--f0-repair": "--rmvpe-high-register --high-register",
    "--f0-smoothing": "--filter-radius",
    "--proposed-pitch": "--proposed-pitch-threshold",
    "--autotune": "--f0-autotune --f0-autotune-strength",
    "--f0-file": "--f0-curve",
    "--clean-output": "--clean-strength",
    "--rms-mix-rate": "--volume-envelope --volume",
    "--format": "--export-format",
    "--sample-rate": "--resample-sr --sampling-rate",
    "--output": "--output-path --opt --opt-path",
    "--dataset": "--dataset-path",
    "--size": "--rvc-version",
    "--steps": "--total-epoch --epochs",
    "--patience": "--overtraining-threshold --overtraining-detector",
    "--workers": "--cpu-cores",
    "--device": "--gpu",
    "--pretrained-g": "--g-pretrained-path",
    "--pretrained-d": "--d-pretrained-path",
    "--index-method": "--index-algorithm",
}
"""What Applio, RVC WebUI and habit call our options."""
_OPTIONS = {other: name for name, others in _OTHER_NAMES.items() for other in others.split()}
_SENTENCES = {
    "--input": "Give inputs without an option: menura convert INPUT",
    "--input-path": "Give inputs without an option: menura convert INPUT",
    "--split-audio": "It isn't needed: recordings of any length are processed in segments",
    "--hop-length": "It isn't needed: the hop is 10 ms",
    "--clean-audio": "Give a strength: --clean-output 0.5, or --clean-input 0.5",
    "--formant-shifting": "It is an effect: --effects 'formant timbre=1.2'",
    "--post-process": "Name the effects: --effects 'reverb room=0.3, limiter'",
}


class LazyGroup(click.Group):
    """Imports a command's module when it is called, and names the nearest where there is none of a name."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            close = difflib.get_close_matches(args[0].lower(), _COMMANDS, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise click.UsageError(f"no such command '{args[0]}'.{hint}", ctx) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = pkgutil.resolve_name(_COMMANDS[cmd_name][0])
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in _COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
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


@click.command(name="help")
@click.argument("command", nargs=-1)
def help_(command: tuple[str, ...]) -> None:
    """Show the help of COMMAND, such as 'convert' or 'voices import'."""
    with cli.make_context("menura", [*command, "--help"]) as asked:
        cli.invoke(asked)


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print a script that completes menura's commands and options in SHELL.

    \b
    bash, in ~/.bashrc:   eval "$(menura completion bash)"
    zsh, in ~/.zshrc:     eval "$(menura completion zsh)"
    fish:                 menura completion fish > ~/.config/fish/completions/menura.fish
    """  # noqa: D301  (click's mark for "leave these lines as they are")
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(cli, {}, "menura", "_MENURA_COMPLETE")  # its source() would ask the bash of this machine
    terminal.say_lines((script.source_template % script.source_vars()).splitlines())


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line with `argv`, by default the process's own arguments, and leave the process."""
    terminal.open_standard_streams()
    if "_MENURA_COMPLETE" in os.environ:
        cli(prog_name="menura")
    prepare_own_process()
    handle_signals()
    terminal.drop_decoder_remarks()
    code = run(sys.argv[1:] if argv is None else argv)
    gc.freeze()  # Python would look for garbage among all objects before it ends: .3 s where torch was loaded
    sys.exit(code)


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
        return f"no such option {error.option_name}.{_advice(error)} See '{place} --help'."
    message = " ".join(error.format_message().split())
    return f"{message[:1].lower()}{message[1:]} See '{place} --help'."


def _advice(error: click.NoSuchOption) -> str:
    """What an option that doesn't exist may have meant."""
    asked = error.option_name.replace("_", "-").lower()
    known = {name for parameter in error.ctx.command.params for name in parameter.opts} if error.ctx else set()
    for name in (asked, _OPTIONS.get(asked)):
        if name in known:
            return f" Did you mean {name}?"
    if asked in _SENTENCES:
        return f" {_SENTENCES[asked]}."
    close = difflib.get_close_matches(asked, known, n=2)
    return f" Did you mean {' or '.join(close)}?" if close else ""


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
