"""An estimate beside what was measured, in every format: a row per figure and what to make of it."""

from __future__ import annotations

import csv
from io import StringIO
from typing import TYPE_CHECKING

from memcalc.render.sections import FORMATS, Section, in_form, section
from memcalc.render.summary import TITLES, headline

if TYPE_CHECKING:
    from memcalc.render.page import Page
    from memcalc.verifying.values import Figure, Verification

__all__ = ["FORMATS", "render"]

LOOK = ("see first that the run is the one that was measured: batch and sequence as padded, precision, attention, optimizer; "
        "memcalc explain shows where each byte comes from")  # fmt: skip
BYTES = "a size without a unit is in bytes"  # said where so little was measured that GiB must have been meant
COLUMNS = ("figure", ">estimated", ">measured", ">error", "", "<measured where")


def render(answer: Verification, form: str, page: Page) -> str:
    """The answer in one of FORMATS."""
    return in_form(answer, form, page, lambda: _sections(answer, page), lambda: _csv(answer))


def _sections(answer: Verification, page: Page) -> list[Section]:
    """The figures, and the verdict; with what the estimate leaves out, where that may be the reason."""
    figures = section(headline(answer), COLUMNS, [_row(figure, page) for figure in answer.figures])
    bare = (BYTES,) if any(figure.measured < 2**10 for figure in answer.figures) else ()
    notes = () if answer.passed else (*bare, LOOK, *(note.message for note in answer.warnings))
    return [figures, Section(_verdict(answer), notes=notes)]


def _row(figure: Figure, page: Page) -> tuple[str, ...]:
    return (name(figure.path), page.size(figure.estimated), page.size(figure.measured), _error(figure.error),
            "✓" if figure.within else "✗", figure.where)  # fmt: skip


def _error(share: float) -> str:
    return f"{100 * share:+.1f} %" if share < 10 else "> 1000 %"


def _verdict(answer: Verification) -> str:
    share = f"{100 * answer.within:g} %"
    return f"✓ within {share} of what was measured" if answer.passed else f"✗ off by more than {share}"


def name(path: str) -> str:
    """A figure's name for people."""
    part, _, own = path.rpartition(".")
    if part == "components":
        return TITLES[own]
    if part == "phases":
        return f"peak of the {own} pass" if own != "optimizer" else "peak of the optimizer step"
    return {"peak_allocated": "allocated peak"}.get(path, own.replace("_", " "))


def _csv(answer: Verification) -> str:
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("figure", "estimated", "measured", "error", "within", "where"))
    writer.writerows((f.path, f.estimated, f.measured, f.error, str(f.within).lower(), f.where) for f in answer.figures)
    return out.getvalue()
