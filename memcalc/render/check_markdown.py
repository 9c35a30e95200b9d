"""The answer of `memcalc check` as Markdown: a table, and what to do about each config that is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.render.check import exceeded, name_of, remedy, shown, summary
from memcalc.render.summary import TITLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.checking.values import Check, Held, Result
    from memcalc.render.page import Page


def render(answer: Check, page: Page) -> str:
    """A heading, one row per config, and the story of each that failed or has something not read."""
    lines = [f"### memcalc: {summary(answer)}", "", "| | config | total | tightest limit |", "|---|---|---:|---|"]
    lines += [_row(result, page) for result in answer.results]
    for result in answer.results:
        if not result.passed or result.warnings:
            lines += ["", f"**{result.source}**", "", *(f"- {escaped(text)}" for text in story(result, page))]
    return "\n".join(lines) + "\n"


def _row(result: Result, page: Page) -> str:
    total = page.size(result.total) if result.total is not None else ""
    sign = "✅" if result.passed else "❌"
    return f"| {sign} | `{escaped(result.source)}` | {total} | {_tightest(result, page)} |"


def _tightest(result: Result, page: Page) -> str:
    """The limit that is exceeded the most, or the one that is nearest to being so."""
    known = [limit for limit in result.limits if limit.actual is not None and limit.limit]
    if not known:
        return "could not be checked" if result.error else ""
    limit = max(known, key=_strain)
    return f"{name_of(limit)} {shown(limit, limit.actual, page)} / {shown(limit, limit.limit, page)}"


def _strain(limit: Held) -> float:
    actual = limit.actual or 0
    return limit.limit / actual if limit.path == "min_headroom" and actual > 0 else actual / limit.limit


def story(result: Result, page: Page) -> Iterator[str]:
    """What failed, the largest part, the fix, and what was not understood."""
    if result.error:
        yield " ".join(result.error.split())
        return
    yield from (exceeded(limit, page) for limit in result.limits if not limit.passed)
    if result.largest and not result.passed:
        part = result.largest
        yield f"largest: {TITLES[part.component]}, {page.size(part.bytes)} ({100 * part.share:.0f} % of the peak)"
    if not result.passed:
        yield remedy(result.fix, page)
    yield from (f"warning: {warning}" for warning in result.warnings)


def escaped(text: str) -> str:
    """Text that does not end a table's cell."""
    return text.replace("|", "\\|").replace("\n", " ")
