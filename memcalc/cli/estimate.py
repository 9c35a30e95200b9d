"""`memcalc estimate`: the memory a run takes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from memcalc.cli.flags import Asked, about_a_run
from memcalc.cli.output import OutputOption, UnitsOption, choose, format_option, page, write

if TYPE_CHECKING:
    from pathlib import Path

    from memcalc.cli.lines import Estimated
    from memcalc.render.page import Page
    from memcalc.report import Report
    from memcalc.run import Run
    from memcalc.run.question import Question

FORMATS = ("table", "json", "yaml", "csv", "markdown", "html", "jsonl")


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
    per_rank: Annotated[
        bool, typer.Option("--per-rank", help="Every distinct kind of rank: first, middle and last pipeline stage.")
    ] = False,
    origins: Annotated[
        bool, typer.Option("--origins", help="Where each value of another tool's config is written.")
    ] = False,
    form: Annotated[str, format_option("table, json, jsonl, yaml, csv, markdown or html.")] = "table",
    output: OutputOption = None,
    units: UnitsOption = "GiB",
) -> None:
    """Every flag is also a key of a run file (memcalc schema run); a flag wins over the file.

    Examples: memcalc estimate --model llama-7b --opt adamw8bit; memcalc estimate run.yaml --gpu h100 --set lora.rank=64

    With --format jsonl: a run per line (JSON, standard input or a file) gives a report per line.
    """
    from memcalc.pipeline import estimate_run  # noqa: PLC0415 - not for --help
    from memcalc.render import render  # noqa: PLC0415

    def estimated(run: Run, beside: Path | None) -> Report:
        return estimate_run(run, beside, formula, per_rank=per_rank)

    chosen, sheet = choose(form, FORMATS, output), replace(page(units, output), origins=origins)
    if chosen == "jsonl":
        _stream(asked, estimated, output)
        return
    question = asked.question()
    report = question.answer(estimated)
    if chosen == "table" and report.verdict.level == "too-big":
        sheet = replace(sheet, remedy=_remedy(question, report, sheet))
    write(render(report, chosen, sheet), output)
    if fail_if_too_big and report.verdict.fits is False:
        raise typer.Exit(1)


def _remedy(question: Question, report: Report, sheet: Page) -> str:
    """The cheapest single change with which the run fits, in words; the one that goes furthest where none will do."""
    from memcalc.checking.fixes import fix  # noqa: PLC0415 - only where a run is too big
    from memcalc.render.check import remedy  # noqa: PLC0415

    found = fix(question.run, question.beside, report, lambda other: other.verdict.fits is True)
    more = "others" if found and found.enough else "several at once, or other GPUs"
    return f"{remedy(found, sheet)}; {more}: memcalc recommend"


def _stream(asked: Asked, estimated: Estimated, output: str | None) -> None:
    """One run per line in, one report per line out; the worst exit code of them all."""
    from memcalc.cli.asked import said  # noqa: PLC0415
    from memcalc.cli.lines import answers  # noqa: PLC0415

    worst, kept = 0, []
    for line, code in answers(asked.source or "-", said(asked.flags, asked.changes), estimated):
        worst = max(worst, code)
        if output is None:
            write(line, None)
        else:
            kept.append(line)
    if output is not None:
        write("\n".join(kept), output)
    if worst:
        raise typer.Exit(worst)
