"""The answer of `memcalc diff`: each component before and after, with what changed it; as text or as a comment."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from memcalc.render.check import word_of
from memcalc.render.plain import dumped
from memcalc.render.sections import Section, as_text, section
from memcalc.render.summary import TITLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.differing.values import Change, Difference, Pair
    from memcalc.render.page import Page

FORMATS = ("table", "json", "yaml", "markdown")
PARTS = {**TITLES, "cache": "allocator's cache", "outside": "context, communicators", "total": "total"}


def render(answer: Difference, form: str, page: Page, marker: str) -> str:
    """The answer in one of FORMATS; `marker` is a word that Markdown holds unseen, so that one comment can be updated."""
    if form in ("json", "yaml"):
        return dumped(answer, form)
    sections = [part for pair in answer.pairs for part in _pair(answer, pair, page)]
    if form == "table":
        return as_text(sections, page)
    return f"<!-- {marker} -->\n" + "\n\n".join(_markdown(part) for part in sections) + "\n"


def _pair(answer: Difference, pair: Pair, page: Page) -> Iterator[Section]:
    if pair.error:
        yield Section(f"{pair.name}: not compared", notes=tuple(pair.error.splitlines()))
        return
    changes = [change for change in answer.changes if change.name == pair.name]
    columns = ("", ">before", ">after", ">change", "because")
    yield section(_title(answer, pair, page), columns, list(_rows(changes, page)), _verdicts(answer, pair))


def _title(answer: Difference, pair: Pair, page: Page) -> str:
    before, after = _totals(answer, pair)
    if pair.before is None:
        return f"{pair.name}: new, {page.size(after)}"
    if pair.after is None:
        return f"{pair.name}: gone, it was {page.size(before)}"
    if before == after and not any(change.name == pair.name for change in answer.changes):
        return f"{pair.name}: unchanged at {page.size(after)}"
    share = f" ({100 * (after - before) / before:+.1f} %)" if before else ""
    return f"{pair.name}: {page.size(before)} → {page.size(after)}{share}"


def _totals(answer: Difference, pair: Pair) -> tuple[int, int]:
    first, second = (0 if i is None else answer.runs[i].memory.total for i in (pair.before, pair.after))
    return first, second


def _rows(changes: list[Change], page: Page) -> Iterator[tuple[str, ...]]:
    """A row per component that moved, the total last."""
    by_part: dict[str, list[Change]] = defaultdict(list)
    for change in changes:
        by_part[change.component].append(change)
    for part in sorted(by_part, key=list(PARTS).index):
        found = by_part[part]
        delta = found[-1].after - found[0].before
        yield (
            PARTS[part],
            page.size(found[0].before),
            page.size(found[-1].after),
            signed(delta, page),
            because(found, page),
        )


def because(changes: list[Change], page: Page) -> str:
    """`seq_len 4096 → 6144 +3.10 GiB`, the cause that moved the most first; alone without its bytes."""
    if changes[0].cause.path == "file":
        return ""
    ordered = sorted(changes, key=lambda change: -abs(change.delta))
    told = [f"{change.cause.path} {_short(change.cause.before)} → {_short(change.cause.after)}" for change in ordered]
    if len(ordered) == 1:
        return told[0]
    return "; ".join(f"{text}: {signed(change.delta, page)}" for text, change in zip(told, ordered, strict=True))


def _short(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(word_of(item) for item in value)
    return word_of(value)


def signed(delta: int, page: Page) -> str:
    """Bytes with their sign."""
    return f"{'+' if delta >= 0 else '-'}{page.size(abs(delta))}"


def _verdicts(answer: Difference, pair: Pair) -> list[str]:
    """What became of the verdict."""
    if pair.after is None:
        return []
    after = answer.runs[pair.after].verdict
    before = answer.runs[pair.before].verdict if pair.before is not None else None
    if after.fits is None:
        return []
    word = {True: "fits", False: "does not fit"}
    if before and before.fits is not None and before.fits != after.fits:
        return [f"{word[before.fits]} → {word[after.fits]}: {after.reason}"]
    return [f"{word[after.fits]}: {after.reason}"]


def _markdown(part: Section) -> str:
    lines = [f"### memcalc · {part.title}"]
    if part.rows:
        lines += ["", "| " + " | ".join(name.lstrip("<>") for name in part.columns) + " |"]
        lines += ["|" + "".join("---:|" if name.startswith(">") else "---|" for name in part.columns)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in part.rows]
    lines += ["", *(f"- {note}" for note in part.notes)] if part.notes else []
    return "\n".join(lines)
