"""`memcalc check`: hold configs to a budget."""

from __future__ import annotations

from typing import Annotated

import typer

from memcalc.cli.output import OutputOption, UnitsOption, choose, format_option, page, summarise, write


def main(
    configs: Annotated[
        list[str] | None,
        typer.Argument(help="Configs, patterns or models; none: those that the budget file lists.", show_default=False),
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="The budget file: memcalc.yaml, pyproject.toml.", metavar="FILE")
    ] = None,
    max_total: Annotated[
        str | None, typer.Option("--max-total", help="Per GPU, such as 76GiB.", metavar="SIZE")
    ] = None,
    max_peak: Annotated[
        str | None, typer.Option("--max-peak", help="What PyTorch allocates at most.", metavar="SIZE")
    ] = None,
    min_headroom: Annotated[
        str | None, typer.Option("--min-headroom", help="What the GPU must keep free.", metavar="SIZE")
    ] = None,
    max_gpus: Annotated[int | None, typer.Option("--max-gpus", help="GPUs in all.", metavar="N", min=1)] = None,
    max_usd_per_hour: Annotated[
        float | None, typer.Option("--max-usd-per-hour", help="The price of all GPUs.", metavar="USD", min=0)
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", "-g", help="What the configs do not say.", metavar="TEXT")] = None,
    gpus: Annotated[str | None, typer.Option("--gpus", "-n", help="What they do not say.", metavar="N")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of a run, for all configs.", metavar="KEY=VALUE")
    ] = None,
    form: Annotated[str, format_option("table, json, yaml, markdown, github or junit.")] = "table",
    output: OutputOption = None,
    units: UnitsOption = "GiB",
) -> None:
    """Limits come from memcalc.yaml or [tool.memcalc] of pyproject.toml, from each config's own `budget`, and from flags.

    Exit 1 where one is exceeded. Examples: memcalc check train/*.yaml --max-total 76GiB; memcalc check --format junit
    """
    from memcalc.checking import Asked, checked  # noqa: PLC0415 - not for --help
    from memcalc.cli.asked import said  # noqa: PLC0415
    from memcalc.render.check import FORMATS, render  # noqa: PLC0415
    from memcalc.run import Budget  # noqa: PLC0415

    chosen, sheet = choose(form, FORMATS, output), page(units, output)
    own = Budget(max_total=max_total, max_peak=max_peak, min_headroom=min_headroom, max_gpus=max_gpus,
                 max_usd_per_hour=max_usd_per_hour)  # fmt: skip
    asked = Asked(budget=own, said=tuple(said({"gpu": gpu, "gpus": gpus}, change or ())))
    answer = checked(configs or (), asked, budget)
    write(render(answer, chosen, sheet), output)
    if chosen == "github":
        summarise(render(answer, "markdown", sheet))
    if not answer.passed:
        raise typer.Exit(max((result.code for result in answer.results), default=0) or 1)
