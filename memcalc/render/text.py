"""Small helpers of the text renderers: styled lines to a string, wrapped to the page."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import RenderableType

    from memcalc.render.page import Page


def to_text(lines: Iterable[RenderableType], page: Page) -> str:
    """What a terminal of this page shows, as one string; escape codes only where colour is welcome."""
    from rich.console import Console  # noqa: PLC0415 - json needs no rich

    out = StringIO()
    console = Console(
        file=out, width=page.width, force_terminal=page.colour, no_color=not page.colour,
        color_system="standard" if page.colour else None, highlight=False, emoji=False, markup=False, soft_wrap=False,
    )  # fmt: skip
    for line in lines:
        console.print(line)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def bar(share: float, width: int) -> str:
    """A bar of eighths of blocks: `share` of `width` columns, at least a sliver where there is anything."""
    eighths = round(share * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    full, rest = divmod(min(eighths, width * 8), 8)
    return "█" * full + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[rest]
