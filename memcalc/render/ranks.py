"""The distinct kinds of rank of a divided model, as a section of the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.render.sections import Section, section

if TYPE_CHECKING:
    from memcalc.render.page import Page
    from memcalc.report import RankPart, Report

WORTH_A_COLUMN = 2**20  # bytes of host memory
COLUMNS = (
    "rank", ">total", ">peak", ">activations", ">weights", ">gradients", ">master", ">states", ">parameters", ">host, a node",
)  # fmt: skip


def table(report: Report, page: Page) -> Section | None:
    """A row for each kind of rank; None where they were not asked for."""
    if not report.ranks:
        return None
    return section("Each kind of rank", COLUMNS, [_row(rank, page) for rank in report.ranks])


def _row(rank: RankPart, page: Page) -> tuple[str, ...]:
    own, host = rank.memory.components, rank.host_per_node.pinned + rank.host_per_node.pageable
    sizes = (rank.memory.total, rank.memory.peak_allocated, own.activations, own.weights, own.gradients,
             own.master_weights, own.optimizer_states)  # fmt: skip
    return (
        rank.label,
        *map(page.size, sizes),
        f"{rank.parameters:,}",
        page.size(host) if host >= WORTH_A_COLUMN else "",
    )
