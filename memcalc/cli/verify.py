"""`memcalc verify`: an estimate beside what was measured."""

from __future__ import annotations

from typing import Annotated

import typer

from memcalc.cli.flags import Asked, about_a_run
from memcalc.cli.output import FormatOption, OutputOption, UnitsOption, choose, page, write


@about_a_run
def main(
    asked: Asked,
    measured: Annotated[
        list[str] | None,
        typer.Option(
            "--measured",
            help="reserved=41.2GiB, or a file: memory_stats() as JSON, a log, a memory snapshot.",
            metavar="FIGURE=SIZE",
        ),
    ] = None,
    within: Annotated[str, typer.Option("--within", help="How far off a figure may be.", metavar="SHARE")] = "10%",
    form: FormatOption = "table",
    output: OutputOption = None,
    units: UnitsOption = "GiB",
) -> None:
    """The run is asked as in estimate. Exit 1 where a figure is further off.

    Figures: peak_allocated (max_memory_allocated), reserved (max_memory_reserved), total (nvidia-smi), components.weights …
    Examples: memcalc verify run.yaml --measured peak_allocated=38.6GiB; memcalc verify run.yaml --measured train.log
    """
    from memcalc.pipeline import estimate_run  # noqa: PLC0415 - not for --help
    from memcalc.render.verification import FORMATS, render  # noqa: PLC0415
    from memcalc.verifying import verified  # noqa: PLC0415
    from memcalc.verifying.measured import measured as read  # noqa: PLC0415

    chosen, sheet = choose(form, FORMATS, output), page(units, output)
    found = read(measured or ())
    answer = verified(asked.question().answer(estimate_run), found, within)
    write(render(answer, chosen, sheet), output)
    if not answer.passed:
        raise typer.Exit(1)
