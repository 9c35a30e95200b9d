"""`memcalc schema`: JSON Schemas for editors and for tools that read the output."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Annotated, Any

import typer

from memcalc.cli.flags import told_of_flags
from memcalc.cli.output import OutputOption, write
from memcalc.errors import UsageError, nearest_names

DOCUMENTS = {
    "report": ("memcalc.report", "Report"),
    "check": ("memcalc.checking.values", "Check"),
    "diff": ("memcalc.differing.values", "Difference"),
    "explanation": ("memcalc.explanation.values", "Explanation"),
    "recommendation": ("memcalc.recommender.values", "Recommendation"),
    "maximum": ("memcalc.maximum", "Maximum"),
    "comparison": ("memcalc.comparison", "Comparison"),
    "verification": ("memcalc.verifying.values", "Verification"),
}
WITHOUT_FLAGS = {  # keys of a run file that are no flags of their own -> what they say
    "train": "Names of tensors that alone learn: whole parts of a name, as in a shell, or a regular expression.",
    "freeze": "Names of tensors that do not learn, as in train.",
    "companions": "Further models on the GPU: reference, reward, value, teacher, ema, encoder.",
    "parallel": "How layers, sequences and experts are divided among ranks.",
    "budget": "What memcalc check holds the run to.",
}
KINDS = ("run", "budget", *DOCUMENTS)


def main(
    kind: Annotated[
        str,
        typer.Argument(
            help="run, report, budget, check, diff, explanation, recommendation, maximum, comparison or verification."
        ),
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
        from memcalc.run.faults import schema  # noqa: PLC0415

        return _described(schema())
    if kind == "budget":
        from memcalc.checking.budgets import schema as of_budgets  # noqa: PLC0415

        return of_budgets()
    module, name = DOCUMENTS[kind]
    schema_of: dict[str, object] = getattr(import_module(module), name).model_json_schema()
    return schema_of


def _described(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with what the help says of each key, before what is said of its shorthand."""
    for key, told in {**told_of_flags(), **WITHOUT_FLAGS}.items():
        if key in schema["properties"]:
            part = schema["properties"][key]
            more = part.get("description", "")
            part["description"] = f"{told} {more[:1].upper()}{more[1:]}".strip()
    return schema
