"""The slices of a recorded log in the order that the real step runs them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.tape.recorder import Layers
    from memcalc.tape.step import Recording

Phase: TypeAlias = Literal["forward", "backward", "optimizer"]


class Slice(NamedTuple):
    """A stretch of the log, [start, stop), as the real step would run it; `phase` is the one it belongs to."""

    start: int
    stop: int
    phase: Phase


def schedule(recording: Recording) -> list[Slice]:
    """The log in the order of the real step: the record of a layer wherever a layer like it runs."""
    forward = list(_forward(recording.stacks, recording.forward_end))
    return forward + list(_backward(recording.stacks, recording.forward_end, recording.end))


def _forward(stacks: list[Layers], end: int) -> Iterator[Slice]:
    at = 0
    for stack in stacks:
        yield Slice(at, stack.events[0], "forward")
        records = [Slice(start, stop, "forward") for start, stop in pairwise(stack.events)]
        yield from map(records.__getitem__, stack.order)
        at = stack.events[-1]
    yield Slice(at, end, "forward")


def _backward(stacks: list[Layers], start: int, end: int) -> Iterator[Slice]:
    at = start
    for stack in reversed(stacks):
        yield Slice(at, stack.returns[0], "backward")
        records = [Slice(start, stop, "backward") for start, stop in pairwise(stack.returns)][::-1]
        yield from map(records.__getitem__, reversed(stack.order))
        at = stack.returns[-1]
    yield Slice(at, end, "backward")
