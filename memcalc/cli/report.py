"""`memcalc report`: a saved answer in another format."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from memcalc.cli.output import OutputOption, UnitsOption, choose, format_option, page, write
from memcalc.errors import Fault, RunInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.report import Report

MAJOR = "1"


def main(
    saved: Annotated[str, typer.Argument(help="What estimate --format json wrote; - reads standard input.")],
    origins: Annotated[
        bool, typer.Option("--origins", help="Where each value of another tool's config is written.")
    ] = False,
    form: Annotated[str, format_option("table, json, yaml, csv, markdown or html.")] = "table",
    output: OutputOption = None,
    units: UnitsOption = "GiB",
) -> None:
    """Nothing is estimated anew. Example: memcalc report saved.json --format html --output report.html"""  # noqa: D400
    from memcalc.reading import read_document  # noqa: PLC0415 - not for --help
    from memcalc.render import FORMATS, render  # noqa: PLC0415

    chosen, sheet = choose(form, FORMATS, output), replace(page(units, output), origins=origins)
    document = read_document(saved)
    write(render(_report(document.data, document.source), chosen, sheet), output)


def _report(data: Mapping[str, object], source: str) -> Report:
    """The report in a document; RunInvalid where it is another kind, a later version, or damaged."""
    from memcalc.report import Report  # noqa: PLC0415

    kind, version = data.get("kind"), str(data.get("schema_version", ""))
    if kind != "estimate":
        raise RunInvalid([Fault("kind", f"{kind!r} is not an estimate: only those are shown anew")], source)
    if version.partition(".")[0] != MAJOR:
        raise RunInvalid(
            [Fault("schema_version", f"{version!r} can't be read here, {MAJOR}.x can; update memcalc")], source
        )
    from pydantic import ValidationError  # noqa: PLC0415 - slow to load

    try:
        return Report.model_validate(data)
    except ValidationError as error:
        faults = [Fault(".".join(map(str, item["loc"])), item["msg"]) for item in error.errors(include_url=False)]
        raise RunInvalid(faults, source) from None
