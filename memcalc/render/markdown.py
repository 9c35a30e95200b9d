"""Markdown: the same table for an issue, a pull request or a wiki."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.render import origins, ranks
from memcalc.render.curve import chart, sentence
from memcalc.render.formula import sentence as formula
from memcalc.render.sections import as_markdown
from memcalc.render.summary import headline, mark, rows, subtitle

if TYPE_CHECKING:
    from memcalc.render.page import Page
    from memcalc.report import Report


def render(report: Report, page: Page) -> str:
    """A heading, a table, the verdict, and the notes as lists."""
    lines = [f"### {headline(report)}", "", subtitle(report), "", "| | memory | share |", "|---|---:|---:|"]
    lines += [f"| {row.title} | {page.size(row.bytes)} | {100 * row.share:.1f} % |" for row in rows(report)]
    lines += [
        f"| **total** | **{page.size(report.memory.total)}** | |",
        "",
        *_curve(report, page),
        f"**{mark(report)}** {report.verdict.reason}",
    ]
    lines += ["", formula(report.formula, page)] if report.formula else []
    every = ranks.table(report, page)
    lines += ["", as_markdown([every]).rstrip()] if every else []
    whole = origins.table(report) if page.origins else None
    said = as_markdown([whole]).rstrip() if whole else origins.sentence(report)
    lines += ["", said] if said else []
    for title, notes in (("Warnings", report.warnings), ("Assumed", report.assumptions)):
        if notes:
            lines += ["", f"{title}:", ""]
            lines += [f"- {f'`{note.path}`: ' if note.path else ''}{note.message}" for note in notes]
    return "\n".join(lines) + "\n"


def _curve(report: Report, page: Page) -> list[str]:
    """Memory over the step, in blocks and in words."""
    memory = report.memory
    if not memory.curve.samples:
        return []
    return [f"`{chart(memory.curve, page.width)[0]}` {sentence(memory, page)}", ""]
