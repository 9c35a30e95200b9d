"""How towers within models of images and text begin and end: rows of pixels, rotations, what is done image by image."""

from __future__ import annotations

from dataclasses import dataclass

from memcalc.blocks.base import Block, Sequence


@dataclass(frozen=True, slots=True)
class UnfoldedPatches(Sequence):
    """A map's squares of `patch` x `patch` pixels, each a row, through its blocks (Llama 4)."""

    patch: int = 16


@dataclass(frozen=True, slots=True)
class ComplexRotary(Block):
    """Complex numbers of `dim` / 2 channels that rotate all tokens, a table that is kept (Llama 4)."""

    dim: int = 0


@dataclass(frozen=True, slots=True)
class WithoutLast(Block):
    """All tokens but the last."""


@dataclass(frozen=True, slots=True)
class FilledRows(Sequence):
    """Rows of pixels of images of any shape, filled up: a linear layer, and a table stretched to every image (SigLIP 2)."""


@dataclass(frozen=True, slots=True)
class EachImage(Sequence):
    """Blocks that run for one image after the other; what comes of them is put together as one row of tokens."""
