"""JSON: the contract itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memcalc.render.page import Page
    from memcalc.report import Report


def render(report: Report, page: Page) -> str:  # noqa: ARG001 - bytes are bytes in any unit
    """The document of schema_version 1.0."""
    return report.model_dump_json(indent=2) + "\n"
