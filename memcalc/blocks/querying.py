"""Learned queries that read an image for a language model (BLIP-2)."""

from __future__ import annotations

from dataclasses import dataclass

from memcalc.blocks.multimodal import Images


@dataclass(frozen=True, slots=True)
class QueriedImages(Images):
    """Images that queries attend to: its parts are the tower, the queries, what reads it for them, and a projection."""
