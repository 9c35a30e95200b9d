"""`memcalc schema`: JSON Schemas for editors and for tools that read the output."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from memcalc.cli.output import OutputOption, write
from memcalc.errors import UsageError, nearest_names

KINDS = ("run", "report", "budget", "explanation", "recommendation", "maximum", "comparison")


def main(
    kind: Annotated[
        str, typer.Argument(help="run, report, budget, explanation, recommendation, maximum or comparison.")
    ] = "run",
    output: OutputOption = None,
) -> None:
    """Example: memcalc schema run --output run.schema.json"""  # noqa: D400
    if kind not in KINDS:
        near = nearest_names(kind, KINDS)
        raise UsageError(
            f"unknown schema {kind!r}; {f'did you mean {near[0]}? ' if near else ''}there are {', '.join(KINDS)}"
        )
    write(json.dumps(_schema(kind), indent=2), output)


def _schema(kind: str) -> dict[str, object]:
    if kind == "run":
        from memcalc.faults import schema  # noqa: PLC0415

        return schema()
    if kind == "budget":
        from memcalc.checking.budgets import schema as of_budgets  # noqa: PLC0415

        return of_budgets()
    if kind == "explanation":
        from memcalc.explanation.values import Explanation  # noqa: PLC0415

        return Explanation.model_json_schema()
    if kind == "recommendation":
        from memcalc.recommender.values import Recommendation  # noqa: PLC0415

        return Recommendation.model_json_schema()
    if kind == "maximum":
        from memcalc.maximum import Maximum  # noqa: PLC0415

        return Maximum.model_json_schema()
    if kind == "comparison":
        from memcalc.comparison import Comparison  # noqa: PLC0415

        return Comparison.model_json_schema()
    from memcalc.report import Report  # noqa: PLC0415

    return Report.model_json_schema()
