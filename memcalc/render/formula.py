"""A framework's published formula beside memcalc's answer, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memcalc.render.page import Page
    from memcalc.report import FormulaPart


def sentence(part: FormulaPart, page: Page) -> str:
    """deepspeed's own formula: 14.61 GiB per GPU, 5.86 GiB of host memory per node (what it counts)."""
    host = f", {page.size(part.cpu_bytes)} of host memory per node" if part.cpu_bytes else ""
    return f"{part.name}'s own formula: {page.size(part.gpu_bytes)} per GPU{host} ({part.says or part.source})"
