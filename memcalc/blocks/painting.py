"""What models add that paint the patches they do not see: masked tokens, a head of pixels."""

from __future__ import annotations

from dataclasses import dataclass

from memcalc.blocks.base import Sequence
from memcalc.blocks.basic import Raw


@dataclass(frozen=True, slots=True)
class MaskedPatches(Raw):
    """A learned token in place of every patch that is masked."""


@dataclass(frozen=True, slots=True)
class PixelDecoder(Sequence):
    """Tokens, but for the first `prefix` and the last `suffix`, as a map; its blocks; each channel's squares as pixels."""

    prefix: int = 0
    suffix: int = 0
    stride: int = 16
