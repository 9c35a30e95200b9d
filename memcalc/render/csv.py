"""CSV: one row per figure, in bytes."""

from __future__ import annotations

import csv
from dataclasses import asdict
from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memcalc.render.page import Page
    from memcalc.report import Report


def render(report: Report, page: Page) -> str:  # noqa: ARG001
    """`item,bytes`: the components, then the sums."""
    memory = report.memory
    rows = [*asdict(memory.components).items(), ("persistent", memory.persistent),
            ("peak_allocated", memory.peak_allocated), ("reserved", memory.reserved),
            ("context", memory.outside_allocator.context), ("communicators", memory.outside_allocator.communicators),
            ("total", memory.total), ("host_pinned", memory.host.pinned), ("host_pageable", memory.host.pageable)]  # fmt: skip
    if report.formula:
        rows += [("formula_gpu", report.formula.gpu_bytes), ("formula_host", report.formula.cpu_bytes)]
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("item", "bytes"))
    writer.writerows(rows)
    return out.getvalue()
