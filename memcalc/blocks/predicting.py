"""Modules that predict further tokens, behind a model's last layer (DeepSeek-V3's multi-token prediction)."""

from __future__ import annotations

from memcalc.blocks.base import Block, given
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Predictor(Block):
    """One more token: a layer that reads the last hidden states and the embedding of the token after, and the head again.

    Megatron-LM's MultiTokenPredictionLayer (megatron/core/transformer/multi_token_prediction.py); `layers` holds its one
    layer. The first has the `table`, the model's own, or a copy of it on the stage that it is on; the others read it too.
    """

    table: Block | None = None
    enorm: Block | None = None
    hnorm: Block | None = None
    projection: Block | None = None
    layers: Block | None = None
    norm: Block | None = None

    def parts(self) -> tuple[Block, ...]:  # noqa: D102
        found = (self.table, self.enorm, self.hnorm, self.projection, self.layers, self.norm)
        return given(*found)
