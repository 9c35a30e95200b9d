"""JSON: the contract itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memcalc.render.page import Page
    from memcalc.report import Report


def render(report: Report, page: Page) -> str:  # noqa: ARG001 - bytes are bytes in any unit
    """The document of schema_version 1.0."""
    return json.dumps(report.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
