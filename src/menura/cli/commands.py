"""What is around the commands: a group that imports them when called, near misses, help, completion."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import get_completion_class

from menura.cli.terminal import say_lines

_OTHER_NAMES = {
    "--voice": "-v --model --model-name --pth-path",
    "--index": "--index-path",
    "--index-rate": "--search-feature-ratio --feature-ratio",
    "--speaker-id": "--sid",
    "--transpose": "--pitch --key --f0-up-key --f0up-key",
    "--f0": "--f0-method --f0method",
    "--f0-file": "--f0-curve",
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
    "--embedder-model": "It isn't needed: the voice says which content encoder it uses",
    "--hop-length": "It isn't needed: the hop is 10 ms",
    "--filter-radius": "It isn't needed: it belongs to F0 methods that Menura doesn't have",
    "--f0-autotune": "Menura has no autotune yet",
    "--clean-audio": "Menura has no noise reduction yet",
    "--formant-shifting": "Menura has no formant shift yet",
    "--post-process": "Menura has no effects yet",
}


def advice_on_option(error: click.NoSuchOption) -> str:
    """What an option that doesn't exist may have meant."""
    asked = error.option_name.replace("_", "-").lower()
    command = error.ctx.command if error.ctx else None
    known = {name for parameter in command.params for name in parameter.opts} if command else set()
    for name in (asked, _OPTIONS.get(asked)):
        if name in known:
            return f" Did you mean {name}?"
    if asked in _SENTENCES:
        return f" {_SENTENCES[asked]}."
    close = difflib.get_close_matches(asked, known, n=2)
    return f" Did you mean {' or '.join(close)}?" if close else ""


class LazyGroup(click.Group):
    """A group that imports a command's module when it is called, and names the nearest where there is none of a name.

    Args:
        lazy: "module:attribute" of each command, and its line in the help.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = lazy

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            close = difflib.get_close_matches(args[0].lower(), self._lazy, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise click.UsageError(f"no such command '{args[0]}'.{hint}", ctx) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module, _, attribute = self._lazy[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in self._lazy.items()])


@click.command(name="help")
@click.argument("command", nargs=-1)
@click.pass_context
def help_(ctx: click.Context, command: tuple[str, ...]) -> None:
    """Show the help of COMMAND, such as 'convert' or 'voices import'."""
    root = ctx.find_root()
    with root.command.make_context(root.info_name, [*command, "--help"]) as asked:
        root.command.invoke(asked)


@click.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a script that completes menura's commands and options in SHELL.

    \b
    bash, in ~/.bashrc:   eval "$(menura completion bash)"
    zsh, in ~/.zshrc:     eval "$(menura completion zsh)"
    fish:                 menura completion fish > ~/.config/fish/completions/menura.fish
    """  # noqa: D301  (click's mark for "leave these lines as they are")
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(ctx.find_root().command, {}, "menura", "_MENURA_COMPLETE")
    say_lines((script.source_template % script.source_vars()).splitlines())
