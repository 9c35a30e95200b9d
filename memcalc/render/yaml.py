"""YAML: the JSON document for people who read YAML."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from memcalc.render.page import Page
    from memcalc.report import Report


def render(report: Report, page: Page) -> str:  # noqa: ARG001
    """The document of schema_version 1.0, as YAML."""
    text: str = yaml.safe_dump(report.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    return text
