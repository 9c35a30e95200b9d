"""One small file per format; pure: a report goes in, a string comes out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from memcalc.render.page import Page
from memcalc.render.plain import dumped

if TYPE_CHECKING:
    from memcalc.report import Report

FORMATS = ("table", "json", "yaml", "csv", "markdown", "html")


def render(report: Report, form: str, page: Page) -> str:
    """The report in one of FORMATS."""
    if form in ("json", "yaml"):
        return dumped(report, form)
    text: str = import_module(f"memcalc.render.{form}").render(report, page)
    return text


__all__ = ["FORMATS", "Page", "render"]
