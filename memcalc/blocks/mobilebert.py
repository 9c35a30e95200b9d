"""MobileBERT's layer: attention and several feed-forwards between two bottlenecks (Sun et al. 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.base import Block, Param, given
from memcalc.blocks.basic import Linear
from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.blocks.basic import Norm


@dataclass(frozen=True, slots=True)
class Bottlenecked(Block):
    """What attention is added to comes through `narrow`; queries and keys through `shared`, or as its values do.

    Values are those of the layer's input, or (`values_narrow`) of what came through `narrow`. `feeds` are feed-forwards
    in a row, `last` the one behind them, `widen` what leads back to the width of the input; `idle_bottleneck` is there
    but read by nothing.
    """

    mixer: Attention | None = None
    mixed: Block | None = None
    narrow: Block | None = None
    shared: Block | None = None
    values_narrow: bool = False
    feeds: Block | None = None
    last: Block | None = None
    widen: Linear | None = None
    widened: Norm | None = None
    idle_bottleneck: Block | None = None
    dropout: float = 0.0

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        found = (self.mixer, self.mixed, self.narrow, self.shared, self.feeds, self.last, self.widen, self.widened,
                 self.idle_bottleneck)  # fmt: skip
        return given(*found)


@dataclass(frozen=True, slots=True)
class Trigrams(Block):
    """Each token's embedding between those of the next and the one before (MobileBERT's trigram input)."""


@dataclass(frozen=True, slots=True)
class SplitUnembed(Linear):
    """Logits by the embedding's own weight [vocabulary, narrow] and one that holds the other rows [rest, vocabulary]."""

    narrow: int = 0

    def own(self) -> tuple[Param, ...]:  # noqa: D102
        table = Param("decoder.weight", (self.outputs, self.narrow), tied_to=self.tied_to)
        rest = Param("dense.weight", (self.inputs - self.narrow, self.outputs))
        return (table, rest, Param("decoder.bias", (self.outputs,), tied_to=self.bias_tied_to))
