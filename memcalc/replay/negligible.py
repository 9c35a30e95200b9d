"""What of a training step is too small to be followed block by block, where there is a lot to follow."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.tape.recorder import Layers
    from memcalc.tape.step import Recording

LITTLE, SHARE = 4096, 64  # parts of all that is there: what holds less is left out in any case, at the most


class Below(NamedTuple):
    """Storages of at most `floor` bytes are left out; at the most `nbytes` of them are there at once."""

    floor: int
    nbytes: int


class Kept(NamedTuple):
    """Of all storages of a size: births and deaths, bytes that outlive the forward pass, bytes that outlive the step.

    `passing` are the bytes there at once, at the most, of those that go in the layer and direction they are made in.
    """

    size: int
    moves: int
    forward: int
    step: int
    passing: int


def below(recording: Recording, persistent: int, most: int) -> Below:
    """The smallest blocks, left out until `most` moves remain, as long as they hold a small part of all that is there.

    Those that hold next to nothing are left out in any case. `persistent` bytes are there beside the step's.
    """
    sizes = by_size(recording)
    whole = persistent + max(sum(kept.forward for kept in sizes), sum(kept.step for kept in sizes))
    moves, found, forward, step, passing = sum(kept.moves for kept in sizes), Below(0, 0), 0, 0, 0
    for kept in sizes:
        forward, step, passing = forward + kept.forward, step + kept.step, passing + kept.passing
        nbytes = max(forward, step) + passing
        if (SHARE if moves > most else LITTLE) * nbytes > whole:
            break
        moves, found = moves - kept.moves, Below(kept.size, nbytes)
    return found


def by_size(recording: Recording) -> list[Kept]:
    """What there is of each size, the smallest first."""
    moves: dict[int, int] = defaultdict(int)
    passing: dict[int, int] = defaultdict(int)
    for start, stop, times in stretches(recording):
        for size, signs in _signs(recording, start, stop).items():
            moves[size] += 2 * times * signs.count(1)
            passing[size] = max(passing[size], size * max(accumulate(signs)))
    forward, step = _outliving(recording)
    return [Kept(size, moves[size], forward[size], step[size], passing[size]) for size in sorted(moves) if moves[size]]


def _signs(recording: Recording, start: int, stop: int) -> dict[int, list[int]]:
    """The births (1) and deaths (-1) of each size in a stretch of the log, in turn."""
    sizes = recording.sizes
    found: dict[int, list[int]] = defaultdict(list)
    for event in recording.events[start:stop]:
        if event >= 0:
            found[sizes[event]].append(1)
        else:
            found[sizes[~event]].append(-1)
    return found


def _outliving(recording: Recording) -> tuple[dict[int, int], dict[int, int]]:
    """Bytes of each size that outlive the forward pass they are made in, and of the others those that outlive the step."""
    sizes, events, deaths = recording.sizes, recording.events, recording.deaths
    found: tuple[dict[int, int], dict[int, int]] = defaultdict(int), defaultdict(int)
    for start, stop, times in stretches(recording):
        later, end = (1, recording.end) if start >= recording.forward_end else (0, recording.forward_end)
        for event in events[start:stop]:
            if event >= 0 and deaths.get(event, end) >= end:
                found[later][sizes[event]] += sizes[event] * times
    return found


def stretches(recording: Recording) -> Iterator[tuple[int, int, int]]:
    """The whole log in stretches: (start, stop, how many layers it stands for)."""
    stacks, at = recording.stacks, 0
    for stack in stacks:
        yield at, stack.events[0], 1
        yield from _layers(stack, stack.events)
        at = stack.events[-1]
    yield at, recording.forward_end, 1
    at = recording.forward_end
    for stack in reversed(stacks):
        yield at, stack.returns[0], 1
        yield from _layers(stack, stack.returns)
        at = stack.returns[-1]
    yield at, recording.end, 1


def _layers(stack: Layers, bounds: list[int]) -> Iterator[tuple[int, int, int]]:
    """The stretches of a stack between these bounds, forward or backward."""
    times, records = Counter(stack.order), range(len(bounds) - 1)
    for sample, (start, stop) in zip(
        records if bounds is stack.events else reversed(records), pairwise(bounds), strict=True
    ):
        yield start, stop, times[sample]
