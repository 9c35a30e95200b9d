"""Memory over the step as a line of blocks, and in a sentence: when the peak comes, and how far the rest stays below."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcalc.render.page import Page
    from memcalc.report import Memory
    from memcalc.timeline.curve import Curve

BLOCKS = "▁▂▃▄▅▆▇█"
PHASES = {"forward": "forward pass", "backward": "backward pass", "optimizer": "optimizer step"}
SHORT = ("forward", "backward", "step")


def chart(curve: Curve, width: int) -> tuple[str, str]:
    """(blocks, names): the samples of each phase apart, the lowest of all as ▁ and the highest as █; the phases' names."""
    blocks, names = _drawn(curve, width - 2)
    over = len(names) - width  # a name is longer than its phase
    return _drawn(curve, width - 2 - over) if 0 < over < len(SHORT[-1]) else (blocks, names)


def _drawn(curve: Curve, width: int) -> tuple[str, str]:
    """The blocks, as many as there is room for or samples to show, and the names below them."""
    low, high = min(curve.samples), max(curve.samples)
    room = min(width, len(curve.samples))
    parts = [_pooled(samples, len(samples) * room // len(curve.samples)) for samples in curve.phases()]
    blocks = ["".join(_block(sample, low, high) for sample in part) for part in parts]
    names = [f"{name:<{len(part)}}" for name, part in zip(SHORT, blocks, strict=True)]
    return " ".join(blocks), " ".join(names).rstrip()


def _pooled(samples: Sequence[int], count: int) -> list[int]:
    """The highest of each of `count` (one at least) stretches."""
    whole, count = len(samples), max(count, 1)
    return [max(samples[i * whole // count : -(-(i + 1) * whole // count)]) for i in range(count)]


def _block(sample: int, low: int, high: int) -> str:
    return BLOCKS[(sample - low) * (len(BLOCKS) - 1) // max(high - low, 1)]


def sentence(memory: Memory, page: Page) -> str:
    """When the peak comes, how far the other phases stay below it, and where the curve is at its lowest."""
    peak = memory.peak_allocated
    rest = sorted((peak - height, name) for name, height in asdict(memory.phases).items() if name != memory.peak_phase)
    below = [f"{PHASES[name]} {f'{page.size(gap)} lower' if gap else 'as high'}" for gap, name in rest]
    lowest = page.size(min(memory.curve.samples))
    return f"peak {page.size(peak)} in the {PHASES[memory.peak_phase]}; {', '.join(below)}; lowest {lowest}"
