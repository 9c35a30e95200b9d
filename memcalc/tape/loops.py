"""Loops over tokens or chunks: the first iteration, the last two, and one between that stands for all the others.

What an iteration leaves behind (what autograd saved of it, what it adds to a list) is there as often as the loop runs;
what it lets go of is there once. So the storages that the iteration in the middle leaves alive are made as large as
those of all the iterations it stands for; where each is a small request, they stay among those (`pieces`). Going back,
each of its nodes runs once: the gradients of whole tensors that every iteration makes and adds up are alike, and what is
there of them at a time the last two iterations show, while everything the others saved is still there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from memcalc.tape.values import SMALL

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.tape.recorder import Tape

StateT = TypeVar("StateT")
EXPLICIT = 4  # iterations that are run of many
FEW = 6  # iterations that are all run: what is reserved shows which of them are missing


def runs(count: int) -> int:
    """How many iterations are run of so many."""
    return count if count <= FEW else EXPLICIT


def loop(t: Tape, count: int, step: Callable[[StateT], StateT], state: StateT) -> StateT:
    """step(… step(step(state))), `count` times; `step` may keep values beside what it returns."""
    held = [state]  # a step lets go of the state it is given: nobody else holds it
    del state
    for _ in range(count if count <= FEW else 1):
        held.append(step(held.pop()))
    if count <= FEW:
        return held.pop()
    first, begin = len(t.sizes), len(t.events)
    held.append(step(held.pop()))
    last = len(t.sizes)
    try:
        return step(step(held.pop()))
    finally:  # also where a recomputation has all it needs before the loop ends
        dead = {~event for event in t.events[begin:] if event < 0}
        for storage in range(first, last):
            if storage not in dead:
                if t.sizes[storage] <= SMALL:
                    t.pieces.add(storage)
                t.sizes[storage] *= count - EXPLICIT + 1
