"""The command line: one small file per command, imported only when it is asked for."""

from __future__ import annotations

from importlib import import_module
from inspect import getdoc
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from memcalc import __version__
from memcalc.errors import UsageError, nearest_names, shorten

if TYPE_CHECKING:
    from collections.abc import Callable

# command: (module below memcalc.cli, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "estimate": ("estimate", "The memory a run takes per GPU, itemised, and whether it fits."),
    "explain": ("explain", "Where each byte of a run comes from, and which peak binds."),
    "max": ("max", "The largest batch, sequence, LoRA rank or model that still fits."),
    "compare": ("compare", "Runs side by side, or a sweep over values, with the differences explained."),
    "recommend": ("recommend", "What makes a run fit, or fit cheaper: ranked changes, GPUs and how many of them."),
    "check": ("check", "Hold configs to a memory budget; exit 1 where one is exceeded."),
    "diff": ("diff", "What changed between two configs, or since a git revision, and why."),
    "verify": ("verify", "An estimate beside what was measured; exit 1 where it is further off."),
    "models": ("models", "List, filter and show model presets."),
    "gpus": ("gpus", "List, filter and show GPU presets."),
    "optimizers": ("optimizers", "List, filter and show optimizers; what one keeps for a tensor."),
    "report": ("report", "A saved answer in another format: table, markdown, html …"),
    "schema": ("schema", "The JSON Schema of a run file or a report, for editors."),
}


_FORMATS = frozenset({"json", "yaml", "csv", "markdown", "html", "jsonl", "github", "junit"})


class Command(TyperCommand):
    """A command that knows what other tools call its flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401, D102 - typer's own click is private
        try:
            return super().parse_args(ctx, args)
        except Exception as problem:
            error: Any = problem
            if hasattr(error, "possibilities") and hasattr(error, "option_name"):  # there is no such option
                error.possibilities = self._instead(error.option_name) or error.possibilities
            elif "unexpected extra argument" in str(getattr(error, "message", "")):
                error.message += "; a name of several words stands in quotes"
            raise

    def _instead(self, flag: str) -> list[str]:
        """The flag that another tool's word stands for; `--set` for a key that has none."""
        from memcalc.run.elsewhere import own_word  # noqa: PLC0415 - only on the way to an error

        own = own_word(flag)
        flags = {name for parameter in self.params for name in parameter.opts}
        if flag.lstrip("-") in _FORMATS and "--format" in flags:
            return [f"--format {flag.lstrip('-')}"]
        found = [] if own is None else [f"--{own.replace('_', '-')}", f"--set {own}=VALUE"]
        return [name for name in found if name.split(" ")[0] in flags][:1]


class LazyGroup(TyperGroup):
    """Commands that are imported when they run or help lists them, and not before."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002, D102 - typer's own click is private
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002, D102
        if cmd_name not in COMMANDS:
            near = nearest_names(cmd_name, COMMANDS)
            meant = "--help" if cmd_name == "help" else _of_a_run(cmd_name) or (near[0] if near else "")
            hint = f"did you mean {meant}? " if meant else ""
            raise UsageError(f"unknown command {shorten(cmd_name)!r}; {hint}there are {', '.join(COMMANDS)}")
        return command(cmd_name, import_module(f"memcalc.cli.{COMMANDS[cmd_name][0]}").main)


def _of_a_run(word: str) -> str:
    """The command that a model or a file without one is meant for; nothing for other words."""
    from pathlib import Path  # noqa: PLC0415 - only on the way to an error

    from memcalc.models import is_model_name  # noqa: PLC0415
    from memcalc.paths import is_file  # noqa: PLC0415

    return f"estimate {shorten(word)}" if is_model_name(word) or is_file(Path(word)) else ""


def command(name: str, main: Callable[..., None]) -> Any:  # noqa: ANN401
    """The command of one function, under its name and its line of help."""
    app, line = typer.Typer(add_completion=False, rich_markup_mode=None), COMMANDS[name][1]
    app.command(name, cls=Command, help=f"{line}\n\n{getdoc(main) or ''}", short_help=line)(main)
    return typer.main.get_command(app)


def run(words: list[str]) -> int:
    """Run a command line and return its exit code; errors of memcalc's own pass through."""
    app = typer.Typer(
        cls=LazyGroup, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False,
        help="What GPU memory a training run takes, before it starts.",
    )  # fmt: skip
    app.callback()(_root)
    try:
        app(args=words, prog_name="memcalc")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    return 0


def _root(
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Show the version and leave.", is_eager=True)
    ] = False,
) -> None:
    if version:
        typer.echo(f"memcalc {__version__}")
        raise typer.Exit
