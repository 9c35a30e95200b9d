"""What models add that tell every pixel's class: maps of several stages, brought together."""

from __future__ import annotations

from memcalc.blocks.base import Block, Sequence
from memcalc.dataclass import dataclass


@dataclass(frozen=True, slots=True)
class Yielded(Block):
    """x, which the base model's output holds as well (a stage's map, for the head)."""


@dataclass(frozen=True, slots=True)
class MapsHead(Sequence):
    """Each of the maps that the stages yield through a linear layer of its own, enlarged to the first's size, concatenated."""


@dataclass(frozen=True, slots=True)
class Unread(Sequence):
    """Modules whose steps are not known here: they pass by."""
