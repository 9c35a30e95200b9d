"""The table a person reads: what it costs, where it goes, whether it fits, what was assumed."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

from memcalc.render import origins, ranks
from memcalc.render.curve import chart, sentence
from memcalc.render.formula import sentence as formula
from memcalc.render.sections import lines
from memcalc.render.summary import Row, headline, mark, rows, subtitle
from memcalc.render.text import bar, to_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType
    from rich.text import Text

    from memcalc.render.page import Page
    from memcalc.report import Note, Report

NARROW = 30  # columns beside the chart's title; less, and it stands below
LEAST = 8  # columns of a bar that says anything
WORTH_A_LINE = 2**20  # bytes of host memory; step counters alone are less
COLOURS = {"fits": "green", "tight": "yellow", "too-big": "red", "unknown": "cyan"}


def render(report: Report, page: Page) -> str:
    """The itemised table with bars and shares, the verdict in words, and the notes."""
    return to_text(_lines(report, page), page)


def _lines(report: Report, page: Page) -> Iterator[RenderableType]:
    from rich.text import Text  # noqa: PLC0415 - json needs no rich

    yield Text(headline(report), style="bold")
    yield Text(subtitle(report), style="dim")
    yield Text()
    yield from _table(report, page)
    yield Text()
    yield from _curve(report, page)
    yield Text(f"{mark(report)} {report.verdict.reason}", style=f"bold {COLOURS[report.verdict.level]}")
    yield from (Text(f"  {line}") for line in wrap(page.remedy, page.width - 2, subsequent_indent="  "))
    if report.formula:
        yield from (Text(line) for line in wrap(formula(report.formula, page), page.width, subsequent_indent="  "))
    whole = ranks.table(report, page)
    yield from (Text(line) for line in (["", *lines(whole, page)] if whole else []))
    yield from _origins(report, page)
    yield from _notes("Warnings", report.warnings, "yellow")
    yield from _notes("Assumed", report.assumptions, "dim")


def _table(report: Report, page: Page) -> Iterator[Text]:
    from rich.text import Text  # noqa: PLC0415

    items = rows(report)
    total = Row("total per GPU" if report.gpu.count > 1 else "total", report.memory.total, 1.0)
    names = max(len(row.title) for row in (*items, total))
    sizes = max(len(page.size(row.bytes)) for row in (*items, total))
    room = min(page.width - names - sizes - 12, 40)
    for row in items:
        line = Text(f"  {row.title:<{names}}  {page.size(row.bytes):>{sizes}}")
        if room >= LEAST:
            line.append(f"  {bar(row.share, room):<{room}}", style="blue")
        yield line.append(f" {_percent(row.share):>5}" if room >= -LEAST // 2 else "")
    yield Text("  " + "─" * (names + 2 + sizes), style="dim")
    yield Text(f"  {total.title:<{names}}  {page.size(total.bytes):>{sizes}}", style="bold")
    host = report.memory.host.pinned + report.memory.host.pageable
    if host >= WORTH_A_LINE:
        yield Text(f"  {'host memory':<{names}}  {page.size(host):>{sizes}}", style="dim")


def _curve(report: Report, page: Page) -> Iterator[Text]:
    """Memory over the step: blocks, the phases below them, and the same in words."""
    from rich.text import Text  # noqa: PLC0415

    if not report.memory.curve.samples:
        return
    title = "  memory over the step  "
    above = page.width - len(title) < NARROW
    if above:
        yield Text(title)
        title = "  "
    blocks, names = chart(report.memory.curve, page.width - len(title))
    yield Text(" " * len(title) if above else title).append(blocks, style="blue")
    yield Text(" " * len(title) + names, style="dim")
    said = f"{sentence(report.memory, page)}; activations kept: {page.size(report.memory.components.activations)}"
    for line in wrap(said, page.width - 2):
        yield Text(f"  {line}")
    yield Text()


def _origins(report: Report, page: Page) -> Iterator[Text]:
    """Where the run's values come from: a sentence, or (asked for) a row for each."""
    from rich.text import Text  # noqa: PLC0415

    whole = origins.table(report) if page.origins else None
    said = lines(whole, page) if whole else wrap(origins.sentence(report), page.width)
    yield from (Text(line, style="dim") for line in ([""] if said else []) + said)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 else "<1 %"


def _notes(title: str, notes: tuple[Note, ...], style: str) -> Iterator[RenderableType]:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if not notes:
        return
    grid = Table.grid(padding=(0, 1))
    for note in notes:
        where = f"{note.path}: " if note.path else ""
        grid.add_row(Text(" -", style=style), Text(f"{where}{note.message}", style=style))
    yield Text()
    yield Text(f"{title}:", style=style)
    yield grid
