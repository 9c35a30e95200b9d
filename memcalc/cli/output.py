"""Where answers go: stdout or a file, in the format asked for."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memcalc.errors import UnreadableInput, UsageError, nearest_names, shorten
from memcalc.render.page import Page
from memcalc.units import unit_name

if TYPE_CHECKING:
    from collections.abc import Sequence


def format_option(known: str) -> typer.models.OptionInfo:
    """The flag for the format; `known` is for its help."""
    option: typer.models.OptionInfo = typer.Option("--format", "-f", help=known, metavar="FORMAT")
    return option


FormatOption = Annotated[str, format_option("table, json, yaml, csv or markdown.")]
OutputOption = Annotated[str | None, typer.Option("--output", "-o", help="Write to this file.", metavar="FILE")]
UnitsOption = Annotated[str, typer.Option("--units", help="GiB, GB, MiB, MB, B … or auto.", metavar="UNIT")]

_ENDINGS = {".json": "json", ".jsonl": "jsonl", ".yaml": "yaml", ".yml": "yaml", ".csv": "csv", ".md": "markdown",
            ".html": "html", ".htm": "html", ".xml": "junit"}  # fmt: skip
NARROW, WIDE = 40, 100


def choose(name: str, known: Sequence[str], output: str | None = None) -> str:
    """The format as it is written here, the end of an output file's name where none is; UsageError names the nearest."""
    ending = _ENDINGS.get(Path(output).suffix.lower()) if output and name == "table" else None
    if ending in known:
        return str(ending)
    if name.lower() in known:
        return name.lower()
    near = nearest_names(name, known)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(f"unknown format {name!r}; {hint}this command knows {', '.join(known)}")


def page(units: str, output: str | None) -> Page:
    """The page for this terminal, pipe or file."""
    try:
        unit = unit_name(units)
    except ValueError as error:
        raise UsageError(f"--units: {error}") from error
    terminal = output is None and sys.stdout is not None and sys.stdout.isatty()
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size((80, 24)).columns if terminal or "COLUMNS" in os.environ else 80
    return Page(min(max(width, NARROW), WIDE), unit, colour)


def write(text: str, output: str | None) -> None:
    """Put the whole text out; a reader that went away is no error, a file that can't be written is."""
    whole = text if text.endswith("\n") else text + "\n"
    if output is not None and output != "-":
        _write_file(Path(output), whole)
        return
    if sys.stdout is None:
        raise CannotWrite("standard output is closed")
    try:
        _say(whole)
    except BrokenPipeError:  # the reader has seen enough
        _hush()
    except OSError as error:
        _hush()
        raise CannotWrite(f"standard output can't be written: {error.strerror or error}") from error


def _say(text: str) -> None:
    try:
        sys.stdout.write(text)
    except UnicodeEncodeError:  # a terminal or pipe that takes ASCII only
        sys.stdout.buffer.write(text.encode(sys.stdout.encoding or "ascii", "replace"))
    sys.stdout.flush()


def _hush() -> None:
    """What is left to be written goes nowhere: the interpreter writes it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def summarise(markdown: str) -> None:
    """Append to the summary of the step, where GitHub runs it (GITHUB_STEP_SUMMARY names its file)."""
    file = os.environ.get("GITHUB_STEP_SUMMARY")
    if not file:
        return
    try:
        with Path(file).open("a", encoding="utf-8") as summary:
            summary.write(markdown)
    except OSError as error:
        raise CannotWrite(f"GITHUB_STEP_SUMMARY: {file} can't be written: {error.strerror or error}") from error


def _write_file(path: Path, text: str) -> None:
    """Write beside the target and move into place: a failure leaves what was there; a device or a pipe is written to."""
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, "utf-8")
        else:
            _replace(path.resolve(), text)
    except (OSError, ValueError) as error:
        raise CannotWrite(
            f"{shorten(str(path))} can't be written: {getattr(error, 'strerror', '') or error}"
        ) from error


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.tmp")
    try:
        draft.write_text(text, "utf-8")
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


class CannotWrite(UnreadableInput):
    """An output file that can't be written."""
