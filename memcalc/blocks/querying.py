"""Images that a text attends to (BLIP), or that learned queries read for a language model (BLIP-2)."""

from __future__ import annotations

from dataclasses import dataclass

from memcalc.blocks.base import Block
from memcalc.blocks.multimodal import Images


@dataclass(frozen=True, slots=True)
class QueriedImages(Images):
    """Images that queries attend to: its parts are the tower, the queries, what reads it for them, and a projection."""


@dataclass(frozen=True, slots=True)
class AttendedImages(Images):
    """An image that every layer of the text attends to: its part is the tower."""


@dataclass(frozen=True, slots=True)
class ShiftedLogits(Block):
    """A contiguous copy of all logits but the last, which the loss reads; those of all tokens are an output."""
