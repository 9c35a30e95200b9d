"""What each event of a recorded tape adds or takes away, where the record of a layer stands for several."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.tape.recorder import Layers
    from memcalc.tape.step import Recording

Moved: TypeAlias = "dict[int, list[tuple[int, int]]]"  # event -> (storage, bytes) of others that die with it
Stretch: TypeAlias = "tuple[int, int, int]"  # of the log: start, stop, how many layers it stands for


def signed_sizes(recording: Recording, moved: Moved | None = None) -> list[int]:
    """Bytes that each event of the log adds or takes away, so that every storage dies as often as it was born.

    A storage made in a layer that stands for several, and let go outside the stack (autocast's cached copies, when
    autocast ends), goes as many times. One that all layers share is let go by the layer that runs last, once: `moved` notes
    at which event, whose bytes are then not its own storage's alone.
    """
    signed = _each_once(recording)
    for stack in recording.stacks:
        stretches = list(_repeated(stack))
        if stretches:
            _go_as_often(recording, stack, stretches, signed)
            _go_at_last(recording, stack, stretches, signed, moved)
    return signed


def _go_as_often(recording: Recording, stack: Layers, stretches: list[Stretch], signed: list[int]) -> None:
    """Outside the stack, what is let go of goes as often as its layer was there."""
    deaths, between, behind = recording.deaths, stack.returns[0], stack.returns[-1]
    for start, stop, count in stretches:
        for storage in recording.events[start:stop]:
            at = deaths.get(storage, -1)
            if (stack.events[-1] <= at < between or at >= behind) and storage not in recording.relays:
                signed[at] *= count


def _go_at_last(
    recording: Recording, stack: Layers, stretches: list[Stretch], signed: list[int], moved: Moved | None
) -> None:
    """What all layers share goes with the layer that runs last."""
    events, last = recording.events, stack.returns[-2]
    within = {event for event in events[stack.events[0] : stack.events[-1]] if event >= 0} - stack.shared
    within.update(event for event in events[stack.returns[0] : stack.returns[-1]] if event >= 0)
    within.update(recording.fanned)
    for start, stop, _ in stretches:
        for at in range(start, stop):
            if events[at] < 0 and ~events[at] not in within:
                if moved is not None:
                    moved.setdefault(last, []).append((~events[at], signed[at]))
                signed[last] += signed[at]
                signed[at] = 0


def _each_once(recording: Recording) -> list[int]:
    """Bytes of each event; what every one of like layers gets from without comes as often as there are."""
    sizes, events = recording.sizes, recording.events
    signed = [sizes[event] if event >= 0 else -sizes[~event] for event in events[: recording.end]]
    for storage, times in recording.fanned.items():
        signed[events.index(storage)] *= times
    return signed


def _repeated(stack: Layers) -> Iterator[Stretch]:
    """The stretches of the log, forward and backward, that stand for several layers."""
    back = stack.returns[::-1]
    for sample, count in Counter(stack.order).items():
        if count > 1:
            yield stack.events[sample], stack.events[sample + 1], count
            yield back[sample + 1], back[sample], count
