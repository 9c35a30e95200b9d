"""Curve: the live bytes of one step in a few samples, for a line of text or a chart."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate, pairwise, starmap
from typing import TYPE_CHECKING, NamedTuple

from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcalc.timeline.slices import Slice

SAMPLES = 44  # of the forward and the backward pass, shared out by how much happens in each
STEP = 4  # of the optimizer step


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Live bytes over one step, what persists included; no samples where the step was not run.

    Each sample is the highest of a stretch; the stretches of a phase are equal numbers of allocations and frees, and the
    optimizer step is as high as it gets all along. `forward`, `backward` and `optimizer` say with which sample each begins.
    """

    samples: tuple[int, ...] = ()
    forward: int = 0
    backward: int = 0
    optimizer: int = 0

    def phases(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The samples of the forward pass, the backward pass and the optimizer step."""
        first, second = self.backward, self.optimizer
        return self.samples[:first], self.samples[first:second], self.samples[second:]


EMPTY = Curve()


class Walk(NamedTuple):
    """A slice of the log as levels above where it begins, before it and after each event, and the highest of them."""

    levels: list[int]
    top: int


def curve(signed: Sequence[int], slices: Sequence[Slice], ground: int, step: int) -> Curve:
    """The curve over `ground` bytes of a schedule whose events add the `signed` bytes; `step` is live in the optimizer step."""
    walks = {piece: _walk(signed, piece) for piece in set(slices)}
    forward = [walks[piece] for piece in slices if piece.phase == "forward"]
    backward = [walks[piece] for piece in slices if piece.phase == "backward"]
    lengths = [sum(len(walk.levels) - 1 for walk in walks) for walks in (forward, backward)]
    count = min(max(SAMPLES * lengths[0] // max(sum(lengths), 1), 1), SAMPLES - 1)
    between = ground + sum(walk.levels[-1] for walk in forward)
    rising = _pooled(forward, ground, min(count, lengths[0]))
    falling = _pooled(backward, between, min(SAMPLES - count, lengths[1]))
    samples = (*rising, *falling, *[step] * STEP)
    return Curve(samples=samples, backward=len(rising), optimizer=len(rising) + len(falling))


def _walk(signed: Sequence[int], piece: Slice) -> Walk:
    levels = list(accumulate(signed[piece.start : piece.stop], initial=0))
    return Walk(levels, max(levels))


def _pooled(walks: Sequence[Walk], live: int, count: int) -> list[int]:
    """The highest of each of `count` stretches of walks that begin at `live` and follow each other."""
    starts = [*accumulate([len(walk.levels) - 1 for walk in walks], initial=0)]
    lives = [*accumulate([walk.levels[-1] for walk in walks], initial=live)]
    tops = [begin + walk.top for begin, walk in zip(lives, walks, strict=False)]

    def highest(start: int, stop: int) -> int:
        first, last = bisect_right(starts, start) - 1, bisect_left(starts, stop) - 1
        if first == last:
            return lives[first] + max(walks[first].levels[start - starts[first] : stop - starts[first] + 1])
        begin = lives[first] + max(walks[first].levels[start - starts[first] :])
        return max(begin, *tops[first + 1 : last], lives[last] + max(walks[last].levels[: stop - starts[last] + 1]))

    return list(
        starmap(highest, pairwise(-(-number * starts[-1] // count) for number in range(count + 1 if count else 0)))
    )
