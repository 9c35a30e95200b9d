"""`memcalc diff`: what changed between two configs, or since a git revision."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memcalc.cli.output import OutputOption, UnitsOption, choose, format_option, page, write
from memcalc.errors import MemcalcError, UsageError
from memcalc.paths import exists

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from memcalc.checking.budgets import BudgetFile
    from memcalc.differing import Difference, Version
    from memcalc.run.question import Question

MARKER = "memcalc-diff"


def main(
    configs: Annotated[
        list[str] | None,
        typer.Argument(help="Two configs or models, A and B; with --base any number.", show_default=False),
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", help="Compare each config with itself at this git revision.", metavar="REV")
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", "-g", help="For both sides.", metavar="TEXT")] = None,
    gpus: Annotated[str | None, typer.Option("--gpus", "-n", help="For both sides.", metavar="N")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of a run, for both sides.", metavar="KEY=VALUE")
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option("--fail-on", help="Exit 1 where a total grows by more: any, 1GiB, 5%.", metavar="GROWTH"),
    ] = None,
    marker: Annotated[
        str, typer.Option("--marker", help="The hidden mark of a Markdown comment.", metavar="WORD")
    ] = MARKER,
    form: Annotated[str, format_option("table, json, yaml or markdown.")] = "table",
    output: OutputOption = None,
    units: UnitsOption = "GiB",
) -> None:
    """Each component before and after, and the key of the run that did it. With --base and no config: those of memcalc.yaml.

    What memcalc.yaml sets for configs that do not say it (`set`) holds here too, on both sides.

    Examples: memcalc diff a.yaml b.yaml; memcalc diff --base main train/*.yaml --format markdown
    """
    from memcalc.cli.asked import said  # noqa: PLC0415 - not for --help
    from memcalc.render.diff import FORMATS, render  # noqa: PLC0415

    chosen, sheet = choose(form, FORMATS, output), page(units, output)
    told = said({"gpu": gpu, "gpus": gpus}, change or ())
    _allowed(fail_on or "any", 0)  # refused before anything is answered
    answer = _between(configs or (), told) if base is None else _since(base, configs or (), told)
    write(render(answer, chosen, sheet, marker), output)
    if any(pair.error for pair in answer.pairs) or (fail_on and _grown(answer, fail_on)):
        raise typer.Exit(1)


def _between(configs: Sequence[str], told: list[tuple[str, Any]]) -> Difference:
    from memcalc.checking.budgets import find  # noqa: PLC0415
    from memcalc.differing import Version, compared  # noqa: PLC0415

    if len(configs) != 2:
        raise UsageError(f"diff compares two configs, and {len(configs)} are named; or name --base REV to compare with")
    file = find(Path.cwd())
    before, after = (Version(config, lambda config=config: _question(config, told, file)) for config in configs)  # type: ignore[misc]
    return compared([(configs[1], before, after)], alone=True)


def _since(base: str, configs: Sequence[str], told: list[tuple[str, Any]]) -> Difference:
    from memcalc.checking.budgets import find  # noqa: PLC0415
    from memcalc.checking.sources import configs as opened  # noqa: PLC0415
    from memcalc.differing import Version, compared  # noqa: PLC0415
    from memcalc.differing.revisions import checked_out  # noqa: PLC0415

    with ExitStack() as stack:
        file = find(Path.cwd())
        paths = opened(configs, file)
        old, root = stack.enter_context(checked_out(base, Path(paths[0])))
        asked = partial(_question, told=told, file=file)
        sides: list[tuple[str, Version, Version]] = []
        for config in paths:
            inside = Path(config).resolve()
            if root.resolve() not in inside.parents:
                raise UsageError(f"{config} is not in the repository {root}")
            then = old / inside.relative_to(root.resolve())
            earlier = _asks(partial(asked, str(then), within=inside), old, f"{base}:")
            sides.append((
                config,
                Version(f"{base}:{config}", earlier if exists(then) else None),
                Version(config, partial(asked, config) if exists(Path(config)) else None),
            ))  # fmt: skip
        for config, before, after in sides:
            if before.ask is None and after.ask is None:
                raise UsageError(f"{config} is neither here nor in {base}")
        return compared(sides, alone=len(sides) == 1)


def _asks(asked: Callable[[], Question], hidden: Path, shown: str) -> Callable[[], Question]:
    """The question of a revision, whose folder `hidden` is called `shown` in what is wrong with it."""

    def ask() -> Question:
        try:
            return asked()
        except MemcalcError as error:
            raise type_of(error)(str(error).replace(f"{hidden}/", shown)) from None

    return ask


def type_of(error: MemcalcError) -> type[MemcalcError]:
    """The class that takes a message alone and has the exit code of `error`."""
    from memcalc.errors import UnreadableInput  # noqa: PLC0415

    return {2: UsageError, 4: UnreadableInput}.get(error.exit_code, _Invalid)


class _Invalid(MemcalcError):  # noqa: N818 - reads as the sentence it prints
    exit_code = 3


def _question(
    config: str, told: Sequence[tuple[str, Any]], file: BudgetFile | None, within: Path | None = None
) -> Question:
    from memcalc.checking import opened  # noqa: PLC0415

    return opened(config, told, file, within)


def _grown(answer: Difference, most: str) -> bool:
    """Whether a config that was there before takes more than `most` on top of what it took."""
    for pair in answer.pairs:
        if pair.before is None or pair.after is None:
            continue
        before, after = (answer.runs[i].memory.total for i in (pair.before, pair.after))
        if after - before > _allowed(most, before):
            return True
    return False


def _allowed(most: str, before: int) -> float:
    """Bytes by which a total may grow: none, a size, or a percentage of what it was."""
    from memcalc.units import parse_bytes, parse_share  # noqa: PLC0415

    if most == "any":
        return 0
    try:
        return float(parse_share(most) * before) if most.endswith("%") else parse_bytes(most)
    except ValueError as error:
        raise UsageError(f"--fail-on: {error}") from error
