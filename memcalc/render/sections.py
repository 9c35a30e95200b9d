"""Sections of a long answer: a title, a table, sentences; as text of a page's width, or as Markdown."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass
from memcalc.render.plain import dumped
from memcalc.render.text import to_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rich.text import Text

    from memcalc.document import Document
    from memcalc.render.page import Page

FORMATS = ("table", "json", "yaml", "csv", "markdown")
GAP, LEAST = 2, 12


@dataclass(frozen=True)
class Section:
    """`columns` are the headings of `rows`: flush right where one begins with >, cut short where need be with <.

    Columns of another kind are wrapped. Columns at the end that do not fit a page are left out.
    `more` rows are not shown. `text` stands below the title, `notes` are sentences below the table, each a paragraph.
    """

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    more: int = 0
    notes: tuple[str, ...] = ()
    text: str = ""


def section(
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, ...]],
    notes: Sequence[str] = (),
    most: int | None = None,
) -> Section:
    """A section of the first `most` rows, all where None, without the columns in which no row has anything."""
    shown = rows if most is None or len(rows) <= most + 1 else rows[:most]
    used = [i for i in range(len(columns)) if any(row[i] for row in shown)]
    return Section(title, tuple(columns[i] for i in used), tuple(tuple(row[i] for i in used) for row in shown),
                   len(rows) - len(shown), tuple(notes))  # fmt: skip


def in_form(
    answer: Document,
    form: str,
    page: Page,
    sections: Callable[[], Iterable[Section]],
    sheet: Callable[[], str],
) -> str:
    """The answer in one of FORMATS: its sections for people, or its data; `sheet` is its CSV."""
    match form:
        case "json" | "yaml":
            return dumped(answer, form)
        case "csv":
            return sheet()
        case "markdown":
            return as_markdown(list(sections()))
        case _:
            return as_text(list(sections()), page)


def as_text(sections: Sequence[Section], page: Page) -> str:
    """The sections one below the other."""
    return to_text(_lines(sections, page), page)


def lines(part: Section, page: Page) -> list[str]:
    """One section as plain lines."""
    return [line.plain for line in _lines([part], page)]


def _lines(sections: Sequence[Section], page: Page) -> Iterator[Text]:
    from rich.text import Text  # noqa: PLC0415 - json needs no rich

    for number, part in enumerate(sections):
        if number:
            yield Text()
        for line in wrap(part.title, page.width):
            yield Text(line, style="bold")
        for line in wrap(part.text, page.width):
            yield Text(line, style="dim")
        for place, row in enumerate(_table(part, page.width - GAP)):
            yield Text(f"{' ' * GAP}{row}", style="dim" if not place and any(part.columns) else "")
        if part.more:
            yield Text(f"{' ' * GAP}… {part.more} more", style="dim")
        for note in part.notes:
            for place, line in enumerate(wrap(note, page.width - 3)):
                yield Text(f"{'   ' if place else ' - '}{line}", style="dim")


def _table(part: Section, width: int) -> Iterator[str]:
    """The heading, where there is one, and the rows, as lines of at most `width`."""
    titles = tuple(name.lstrip("<>") for name in part.columns)
    everything = [titles, *part.rows] if any(titles) else list(part.rows)
    if not everything:
        return
    widths = _widths([max(len(row[i]) for row in everything) for i in range(len(titles))], part.columns, width)
    for row in everything:
        cells = [_cell(text, size, name) for text, size, name in zip(row, widths, part.columns, strict=False)]
        for place in range(max(map(len, cells))):
            line = (cell[place] if place < len(cell) else "" for cell in cells)
            yield (" " * GAP).join(text.ljust(size) for text, size in zip(line, widths, strict=True)).rstrip()


def _widths(wanted: list[int], columns: Sequence[str], width: int) -> list[int]:
    """The widths of the columns that fit: the last gives way first, then the widest; columns at the end are left out."""
    widths = list(wanted)
    while len(widths) > 1:
        least = widths[-1] if columns[len(widths) - 1].startswith(">") else min(LEAST, widths[-1])
        room = width - sum(widths[:-1]) - GAP * (len(widths) - 1)
        widest = max(range(len(widths) - 1), key=lambda i: widths[i])
        if room >= least:
            return [*widths[:-1], min(room, widths[-1])]
        if widths[widest] - (least - room) >= LEAST:
            widths[widest] -= least - room
            return [*widths[:-1], least]
        widths.pop()
    return [min(widths[0], width)]


def _cell(text: str, width: int, column: str) -> list[str]:
    """The lines of a cell: flush right, cut short, or wrapped."""
    if column.startswith(">"):
        return [text.rjust(width)]
    if column.startswith("<"):
        return [text if len(text) <= width else text[: width - 1] + "…"]
    return wrap(text, width) or [""]


def as_markdown(sections: Sequence[Section]) -> str:
    """The sections with pipe tables."""
    return "\n\n".join("\n".join(_markdown(part, number)) for number, part in enumerate(sections)) + "\n"


def _markdown(part: Section, number: int) -> Iterator[str]:
    yield f"{'#### ' if number else '### '}{part.title}"
    if part.text:
        yield f"\n{part.text}"
    if part.rows:
        yield ""
        yield "| " + " | ".join(name.lstrip("<>") for name in part.columns) + " |"
        yield "|" + "".join("---:|" if name.startswith(">") else "---|" for name in part.columns)
        yield from ("| " + " | ".join(cell.strip().replace("|", "\\|") for cell in row) + " |" for row in part.rows)
    if part.more:
        yield f"\n… {part.more} more"
    if part.notes:
        yield ""
        yield from (f"- {note}" for note in part.notes)
