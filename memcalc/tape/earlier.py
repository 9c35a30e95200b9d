"""The first micro batch of a step, told from the record of a later one: its gradients stay, as nothing is there to add to."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.tape.recorder import Layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcalc.tape.recorder import Added
    from memcalc.tape.step import Recording


def first_micro_batch(recording: Recording, added: Sequence[Added]) -> Recording:
    """The step whose gradients are the `added` ones: each of them never dies, or has a copy that is born where it is added."""
    copies = [one for one in added if one.copy]
    kept = {one.storage for one in added if not one.copy}
    numbers = range(len(recording.sizes), len(recording.sizes) + len(copies))
    events = _spliced(recording.events, kept, copies, numbers)
    gone = [at for storage, at in recording.deaths.items() if storage in kept]
    return replace(
        recording,
        events=events,
        sizes=recording.sizes + [one.copy for one in copies],
        owners=recording.owners + [one.owner for one in copies],
        gradients=recording.gradients | kept | {*numbers},
        stacks=_returned(recording.stacks, sorted(gone), copies),
        end=len(events),
        products=(),
        added=None,
    )


def _spliced(log: list[int], kept: set[int], copies: Sequence[Added], numbers: Sequence[int]) -> list[int]:
    """The log without the deaths of what is kept, and with the births of copies."""
    events: list[int] = []
    start = 0
    for one, number in zip(copies, numbers, strict=True):
        events += log[start : one.at]
        events.append(number)
        start = one.at
    events += log[start:]
    return [event for event in events if event >= 0 or ~event not in kept]


def _returned(stacks: list[Layers], gone: Sequence[int], copies: Sequence[Added]) -> list[Layers]:
    """The stacks with the boundaries on the way back where they are in the new log, counted from the last."""
    made, count = [], 0
    for stack in reversed(stacks):
        moved = Layers(stack.path, stack.order)
        moved.events, moved.sequences, moved.shared = stack.events, stack.sequences, stack.shared
        for at in stack.returns:
            born = sum(one.at <= at and one.returned <= count for one in copies)
            moved.returns.append(at + born - bisect_left(gone, at))
            count += 1
        made.append(moved)
    return made[::-1]
