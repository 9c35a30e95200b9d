"""Sound as several tokens at each place, one of every codebook: their embeddings add up, and each has logits (Dia)."""

from __future__ import annotations

from memcalc.blocks.base import Block
from memcalc.blocks.basic import Embedding
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class ChannelEmbedding(Embedding):
    """One table for all codebooks, read at [batch, places, channels] and summed over the channels."""


@dataclass(frozen=True, slots=True)
class ChannelLogits(Block):
    """Logits of all codebooks side by side, put apart by a copy: [batch * channels, places, vocabulary]."""

    channels: int = 1
