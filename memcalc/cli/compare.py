"""`memcalc compare`: runs side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from memcalc.cli.flags import Asked, about_a_run
from memcalc.cli.output import FormatOption, OutputOption, UnitsOption, choose, page, write

if TYPE_CHECKING:
    from memcalc.run.question import Question


@about_a_run
def main(
    asked: Asked,
    more: Annotated[
        list[str] | None, typer.Argument(help="Further models, run files or configs.", show_default=False)
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option("--sweep", help="Values of a key: optimizer=adamw,lion or seq_len=1024..8192.", metavar="KEY=A,B"),
    ] = None,
    form: FormatOption = "table",
    output: OutputOption = None,
    units: UnitsOption = "GiB",
) -> None:
    """Flags hold for every run. The first run is what the others are held against: each difference with its cause.

    Examples: memcalc compare a.yaml b.yaml; memcalc compare llama-3-8b --precision bf16 --gpu h100
    --sweep optimizer=adamw,adamw-8bit,adafactor --sweep seq_len=1024..8192
    """
    from memcalc.cli.asked import choices  # noqa: PLC0415 - not for --help
    from memcalc.comparison import compare_questions  # noqa: PLC0415
    from memcalc.render.comparison import FORMATS, render  # noqa: PLC0415

    chosen, sheet = choose(form, FORMATS, output), page(units, output)
    axes: dict[str, tuple[Any, ...]] = dict(choices(text, "--sweep") for text in sweep or [])
    questions: list[tuple[str, Question]] = [(asked.source or "", _question(asked, axes))]
    questions += [(source, _question(asked._replace(source=source), axes)) for source in more or []]
    write(render(compare_questions(questions, axes), chosen, sheet), output)


def _question(asked: Asked, axes: dict[str, tuple[Any, ...]]) -> Question:
    """The run of one source; a model that is swept need not be named."""
    flags = dict(asked.flags)
    if "model" in axes and asked.source is None and flags.get("model") is None:
        flags["model"] = str(axes["model"][0])
    return asked._replace(flags=flags).question()
