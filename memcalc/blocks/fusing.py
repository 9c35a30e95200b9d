"""Blocks that make one sequence of a text's states in several layers of a language model (Krea 2)."""

from __future__ import annotations

from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class FusedTexts(Block):
    """States of `kept` layers, `width` channels each: attention over the layers of a token, their sum, then over the tokens.

    The text is given with a mask of its padding, which the refiners read, and all layers behind them.
    """

    kept: int = 1
    width: int = 0
    layerwise: Block | None = None
    projector: Block | None = None
    refiners: Block | None = None

    @property
    def text(self) -> int:
        """Channels of all of a token's states."""
        return self.kept * self.width

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        return given(self.layerwise, self.projector, self.refiners)


@dataclass(frozen=True, slots=True)
class RowMask(Block):
    """From here on attention reads a row of text and image, of which the text's padding is hidden."""
