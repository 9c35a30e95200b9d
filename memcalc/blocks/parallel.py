"""Where tensor-parallel ranks put the sequence or channels together, and take them apart (Korthikanti et al. 2022)."""

from __future__ import annotations

from memcalc.blocks.base import Block
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Gather(Block):
    """All-gather along the sequence, of as many parts as there are `ranks`; its gradient is reduce-scattered.

    `overlapped` where each part goes into the products behind it as it comes.
    """

    ranks: int = 1
    overlapped: bool = False


@dataclass(frozen=True, slots=True)
class Scatter(Block):
    """Partial sums are summed over the ranks, each of which keeps its part of the sequence; gradients are gathered.

    `overlapped` where each part is sent as soon as the product before has made it.
    """

    ranks: int = 1
    overlapped: bool = False


@dataclass(frozen=True, slots=True)
class SplitChannels(Block):
    """Each of so many `ranks` goes on with its part of the channels; of its gradient all are gathered."""

    ranks: int = 1


@dataclass(frozen=True, slots=True)
class GatherChannels(Block):
    """All-gather along the channels, of as many parts as there are `ranks`; of its gradient each keeps its own."""

    ranks: int = 1
