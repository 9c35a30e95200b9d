"""`memcalc estimate`: the memory a run takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from memcalc.cli.flags import Asked, about_a_run
from memcalc.cli.output import FormatOption, OutputOption, UnitsOption, choose, page, write

FORMATS = ("table", "json", "yaml", "csv", "markdown")


@about_a_run
def main(
    asked: Asked,
    formula: Annotated[
        str,
        typer.Option(
            "--formula", help="A framework's own published formula beside it: deepspeed, megatron.", metavar="NAME"
        ),
    ] = "",
    fail_if_too_big: Annotated[bool, typer.Option("--fail-if-too-big", help="Exit 1 where it does not fit.")] = False,
    origins: Annotated[
        bool, typer.Option("--origins", help="Where each value of another tool's config is written.")
    ] = False,
    form: FormatOption = "table",
    output: OutputOption = None,
    units: UnitsOption = "GiB",
) -> None:
    """Every flag is also a key of a run file (memcalc schema run); a flag wins over the file.

    Examples: memcalc estimate --model llama-7b --opt adamw8bit; memcalc estimate run.yaml --gpu h100 --set lora.rank=64
    """
    from memcalc.pipeline import estimate_run  # noqa: PLC0415 - not for --help
    from memcalc.render import render  # noqa: PLC0415

    chosen, sheet = choose(form, FORMATS), replace(page(units, output), origins=origins)
    report = asked.question().answer(lambda run, beside: estimate_run(run, beside, formula))
    write(render(report, chosen, sheet), output)
    if fail_if_too_big and report.verdict.fits is False:
        raise typer.Exit(1)
