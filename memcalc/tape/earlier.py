"""The first micro batch of a step, told from the record of a later one: its gradients stay, as nothing is there to add to."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from memcalc.tape.recorder import Layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcalc.tape.recorder import Added
    from memcalc.tape.step import Recording


class Unreduced(NamedTuple):
    """How a micro batch whose gradients are not reduced differs: storages that it `keeps`, and those that it has not.

    It keeps what the later one adds to gradients that are there, and neither finds these nor `reduces`. Gradients are kept
    in another dtype where there are `copies`: each goes when its copy is there. What `stays` for the later one is not made
    anew by that, nor what it takes to make it (`once`).
    """

    keeps: frozenset[int]
    reduces: frozenset[int]
    copies: tuple[Added, ...] = ()
    stays: frozenset[int] = frozenset()
    once: frozenset[int] = frozenset()


def without_reduction(recording: Recording, how: Unreduced) -> Recording:
    """The micro batch that leaves the gradients to the one recorded: no_sync, before anything is there to add to."""
    absent, copied = how.reduces | recording.left, {one.storage for one in how.copies}
    stay = how.keeps | copied | how.stays
    gone = [
        at for at, event in enumerate(recording.events)
        if (event if event >= 0 else ~event) in absent or (event < 0 and ~event in stay)
    ]  # fmt: skip
    dropped = set(gone)
    events = [event for at, event in enumerate(recording.events) if at not in dropped]
    made = replace(
        recording,
        events=events,
        gradients=(recording.gradients | how.keeps | how.stays) - absent,
        stacks=[_closed_up(stack, gone) for stack in recording.stacks],
        forward_end=recording.forward_end - bisect_left(gone, recording.forward_end),
        turned=recording.turned - bisect_left(gone, recording.turned),
        end=len(events),
        left=frozenset(),
        products=(),
        unreduced=None,
    )
    return _copied(made, [one._replace(at=one.at - bisect_left(gone, one.at)) for one in how.copies])


def _copied(recording: Recording, copies: Sequence[Added]) -> Recording:
    """The recording with copies where they are born, behind each the death of what it is a copy of."""
    if not copies:
        return recording
    first = len(recording.sizes)
    numbers = range(first, first + len(copies))
    events: list[int] = []
    start = 0
    for one, number in zip(copies, numbers, strict=True):
        events += [*recording.events[start : one.at], number, ~one.storage]
        start = one.at
    events += recording.events[start:]
    return replace(
        recording,
        events=events,
        sizes=recording.sizes + [one.copy for one in copies],
        owners=recording.owners + [one.owner for one in copies],
        gradients=recording.gradients | {*numbers},
        stacks=_returned(recording.stacks, (), copies, 2),
        end=len(events),
    )


def _closed_up(stack: Layers, gone: Sequence[int]) -> Layers:
    """The stack with its boundaries in a log without the events at those places."""
    moved = Layers(stack.path, stack.order)
    moved.sequences, moved.shared = stack.sequences, stack.shared
    moved.events = [at - bisect_left(gone, at) for at in stack.events]
    moved.returns = [at - bisect_left(gone, at) for at in stack.returns]
    return moved


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


def _returned(stacks: list[Layers], gone: Sequence[int], copies: Sequence[Added], events: int = 1) -> list[Layers]:
    """The stacks with the boundaries on the way back where they are in the new log, counted from the last.

    Each copy is so many `events`.
    """
    made, count = [], 0
    for stack in reversed(stacks):
        moved = Layers(stack.path, stack.order)
        moved.events, moved.sequences, moved.shared = stack.events, stack.sequences, stack.shared
        for at in stack.returns:
            born = events * sum(one.at <= at and one.returned <= count for one in copies)
            moved.returns.append(at + born - bisect_left(gone, at))
            count += 1
        made.append(moved)
    return made[::-1]
