"""`memcalc explain`: where each byte comes from."""

from __future__ import annotations

from typing import Annotated

import typer

from memcalc.cli.flags import Asked, about_a_run
from memcalc.cli.output import FormatOption, OutputOption, UnitsOption, choose, page, write


@about_a_run
def main(
    asked: Asked,
    everything: Annotated[bool, typer.Option("--all", help="Every row of every section.")] = False,
    form: FormatOption = "table",
    output: OutputOption = None,
    units: UnitsOption = "GiB",
) -> None:
    """Takes the flags of estimate. Which peak binds, what persists, what autograd keeps, what is live at the peak.

    Examples: memcalc explain llama-2-7b --precision bf16; memcalc explain run.yaml --all --format markdown
    """
    from memcalc.explanation import explain_run  # noqa: PLC0415 - not for --help
    from memcalc.render.explanation import FORMATS, render  # noqa: PLC0415

    chosen, sheet = choose(form, FORMATS, output), page(units, output)
    write(render(asked.question().answer(explain_run), chosen, sheet, everything=everything), output)
