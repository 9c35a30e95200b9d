"""What a sharding strategy has beside the log of a tape: bytes laid over the real step, and streams of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

Part: TypeAlias = Literal["activations", "gradients", "buffers", "temporary"]
PARTS: tuple[Part, ...] = ("activations", "gradients", "buffers", "temporary")


class Laid(NamedTuple):
    """Bytes of a part that come (or go, where negative) when the log has `at` events."""

    at: int
    part: Part
    nbytes: int


Overlay: TypeAlias = Mapping[int, Sequence[Laid]]  # number of the slice in the schedule -> in order


class Again(NamedTuple):
    """The moves [start, stop) of a stream come `times` more.

    `alive` are the numbers of what is there when they begin, and of what stands for it when they end.
    """

    start: int
    stop: int
    times: int
    alive: tuple[tuple[int, int], ...]


class Stream(NamedTuple):
    """Moves of a stream: bytes for a birth, ~n for the death of the n-th born; and what of them comes again, in order."""

    moves: tuple[int, ...]
    again: tuple[Again, ...] = ()
