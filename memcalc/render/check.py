"""The answer of `memcalc check`: one line per config that keeps within its budget, the whole story of one that does not."""

from __future__ import annotations

from importlib import import_module
from textwrap import wrap
from typing import TYPE_CHECKING

from memcalc.render.plain import dumped
from memcalc.render.summary import TITLES
from memcalc.render.text import to_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.text import Text

    from memcalc.checking.values import Check, Fix, Held, Result
    from memcalc.render.page import Page

FORMATS = ("table", "json", "yaml", "markdown", "github", "junit")
LIMITS = {
    "max_total": "total", "max_peak": "allocated peak", "min_headroom": "headroom", "max_gpus": "GPUs",
    "max_usd_per_hour": "cost per hour", "gpu": "memory of the GPU",
}  # fmt: skip


def render(answer: Check, form: str, page: Page) -> str:
    """The answer in one of FORMATS."""
    if form == "table":
        return to_text(_lines(answer, page), page)
    if form in ("json", "yaml"):
        return dumped(answer, form)
    text: str = import_module(f"memcalc.render.check_{form}").render(answer, page)
    return text


def _lines(answer: Check, page: Page) -> Iterator[Text]:
    from rich.text import Text  # noqa: PLC0415 - json needs no rich

    for result in answer.results:
        sign, style = ("✓", "green") if result.passed else ("✗", "bold red")
        yield Text(f"{sign} {result.source}", style=style)
        for line in (part for text in story(result, page) for part in wrap(text, page.width - 4)):
            yield Text(f"    {line}")
    yield Text()
    yield Text(summary(answer), style="bold")


def summary(answer: Check) -> str:
    """How many keep within their budget."""
    kept, all_of_them = sum(result.passed for result in answer.results), len(answer.results)
    where = f" ({answer.budget})" if answer.budget else ""
    return f"{kept} of {all_of_them} within budget{where}" if all_of_them != 1 else (
        f"within budget{where}" if kept else f"over budget{where}"
    )  # fmt: skip


def story(result: Result, page: Page) -> Iterator[str]:
    """What a person needs to know of one config, a sentence each."""
    if result.error:
        yield from result.error.splitlines()
        return
    if not result.limits:
        yield f"{page.size(result.total or 0)}; no limit holds for it, and no GPU is named"
    if result.passed:
        yield from (kept(limit, page) for limit in result.limits[:1])
    else:
        yield from _broken(result, page)
    yield from (f"warning: {warning}" for warning in result.warnings)


def _broken(result: Result, page: Page) -> Iterator[str]:
    """The limits that do not hold, what takes the most, and what would do."""
    yield from (exceeded(limit, page) for limit in result.limits if not limit.passed)
    if result.largest:
        part = result.largest
        yield f"largest: {TITLES[part.component]}, {page.size(part.bytes)}, {100 * part.share:.0f} % of the peak"
    yield remedy(result.fix, page)


def kept(limit: Held, page: Page) -> str:
    """A limit that holds."""
    word = "at least" if limit.path == "min_headroom" else "of at most"
    return f"{name_of(limit)}: {shown(limit, limit.actual, page)}, {word} {shown(limit, limit.limit, page)}"


def exceeded(limit: Held, page: Page) -> str:
    """A limit that does not hold: by how much, and where it is written."""
    if limit.actual is None:
        return f"{name_of(limit)}: not known (name a GPU that has a price); the limit is written at {limit.where}"
    word = "below" if limit.path == "min_headroom" else "over"
    share = f" ({100 * limit.excess / limit.limit:.1f} %)" if limit.limit else ""
    return (f"{name_of(limit)}: {shown(limit, limit.actual, page)}, {shown(limit, limit.excess, page)}{share} {word} "
            f"the limit of {shown(limit, limit.limit, page)} ({limit.where})")  # fmt: skip


def remedy(fix: Fix | None, page: Page) -> str:
    """The change that would do; the one that goes furthest where none would."""
    if fix is None:
        return "fix: no single change saves anything"
    return fixed(fix, page) if fix.enough else f"no single change is enough; the furthest goes {fixed(fix, page)[5:]}"


def fixed(fix: Fix, page: Page) -> str:
    """The change, and what it brings."""
    level = {"free": "costs nothing", "time": "costs time", "numerics": "changes numerics", "tuning": "needs tuning anew",
             "method": "changes the method", "resources": "takes other resources"}.get(fix.level, fix.level)  # fmt: skip
    why = f"; {fix.why}" if fix.why else ""
    return (f"fix: {fix.path}: {word_of(fix.before)} → {word_of(fix.after)} saves {page.size(fix.saves)}, to "
            f"{page.size(fix.total)} ({level}{why})")  # fmt: skip


def word_of(value: object) -> str:
    """A value of a run in a line of text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {word_of(item)}" for key, item in value.items() if item not in (None, {}, [], ()))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def name_of(limit: Held) -> str:
    """What a limit is of."""
    component = limit.path.partition(".")[2]
    return TITLES[component] if component else LIMITS[limit.path]


def shown(limit: Held, value: float | None, page: Page) -> str:
    """A value in the limit's unit."""
    if value is None:
        return "unknown"
    match limit.unit:
        case "bytes":
            return f"-{page.size(int(-value))}" if value < 0 else page.size(int(value))
        case "GPUs":
            return f"{int(value)} GPUs"
        case "USD":
            return f"{value:.2f} USD"
