"""What models add that paint the patches they do not see: masked tokens, a head of pixels."""

from __future__ import annotations

from memcalc.blocks.base import Sequence
from memcalc.blocks.basic import Raw
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class MaskedPatches(Raw):
    """A learned token in place of every patch that is masked."""


@dataclass(frozen=True, slots=True)
class PixelDecoder(Sequence):
    """Tokens, but for the first `prefix` and the last `suffix`, as a map; its blocks; each channel's squares as pixels."""

    prefix: int = 0
    suffix: int = 0
    stride: int = 16


@dataclass(frozen=True, slots=True)
class VisiblePatches(Sequence):
    """Patches with their positions, of which a share is hidden at random, behind a class token (ViT-MAE).

    Its parts: the patches, a fixed table of positions, and the class token.
    """

    hidden: float = 0.75


@dataclass(frozen=True, slots=True)
class PatchPainter(Sequence):
    """A small decoder of all patches: those seen, projected, and a learned token for each other one, in their places.

    Its parts: a linear layer, the token, a fixed table of positions, layers, a norm, a linear layer (ViT-MAE).
    """
