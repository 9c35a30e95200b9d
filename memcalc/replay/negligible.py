"""What of a training step is too small to be followed block by block, where there is a lot to follow."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from memcalc.tape.recorder import Layers
    from memcalc.tape.step import Recording

LITTLE, SHARE = 4096, 64  # parts of all that is there: what holds less is left out in any case, at the most


class Below(NamedTuple):
    """Storages of at most `floor` bytes are left out; at the most `nbytes` of them are there at once."""

    floor: int
    nbytes: int


class Kept(NamedTuple):
    """Of all storages of a size: births and deaths, bytes that outlive the forward pass, bytes that outlive the step."""

    size: int
    moves: int
    forward: int
    step: int


def below(recording: Recording, persistent: int, most: int) -> Below:
    """The smallest blocks, left out until `most` moves remain, as long as they hold a small part of all that is there.

    Those that hold next to nothing are left out in any case. `persistent` bytes are there beside the step's.
    """
    sizes = by_size(recording)
    whole = persistent + max(sum(kept.forward for kept in sizes), sum(kept.step for kept in sizes))
    moves = sum(kept.moves for kept in sizes)
    candidates = _out(sizes, {}, whole, moves, most)
    return _out(sizes, passing(recording, candidates.floor), whole, moves, most) if candidates.floor else candidates


def _out(sizes: Sequence[Kept], passing: Mapping[int, int], whole: int, moves: int, most: int) -> Below:
    """What is left out if those of each size that go where they are made hold that much at once."""
    found, forward, step, brief = Below(0, 0), 0, 0, 0
    for kept in sizes:
        forward, step, brief = forward + kept.forward, step + kept.step, brief + passing.get(kept.size, 0)
        nbytes = max(forward, step) + brief
        if (SHARE if moves > most else LITTLE) * nbytes > whole:
            break
        moves, found = moves - kept.moves, Below(kept.size, nbytes)
    return found


def by_size(recording: Recording) -> list[Kept]:
    """What there is of each size, the smallest first."""
    sizes, events, deaths = recording.sizes, recording.events, recording.deaths
    moves, forward, step = (defaultdict[int, int](int) for _ in range(3))
    for start, stop, times in stretches(recording):
        later, end = (step, recording.end) if start >= recording.forward_end else (forward, recording.forward_end)
        for event in events[start:stop]:
            if event >= 0:
                size = sizes[event]
                moves[size] += 2 * times
                if deaths.get(event, end) >= end:
                    later[size] += size * times
    return [Kept(size, moves[size], forward[size], step[size]) for size in sorted(moves)]


def passing(recording: Recording, most: int) -> dict[int, int]:
    """Of each size up to `most`: the bytes there at once, at the most, that go in the layer and direction they are made in."""
    found: dict[int, int] = defaultdict(int)
    for start, stop, _ in stretches(recording):
        for size, signs in _signs(recording, start, stop, most).items():
            found[size] = max(found[size], size * max(accumulate(signs)))
    return found


def _signs(recording: Recording, start: int, stop: int, most: int) -> dict[int, list[int]]:
    """The births (1) and deaths (-1) of each size up to `most` in a stretch of the log, in turn."""
    sizes = recording.sizes
    found: dict[int, list[int]] = defaultdict(list)
    for event in recording.events[start:stop]:
        size = sizes[event if event >= 0 else ~event]
        if size <= most:
            found[size].append(1 if event >= 0 else -1)
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
