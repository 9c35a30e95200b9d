"""A step with those of its companions in one log, so that the caching allocator is replayed over all of them.

A companion without a graph leaves what is made of its output until the backward pass is over. One that learns has its
forward pass before the model's and its backward pass behind it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from memcalc.replay.reserve import reserved
from memcalc.tape.recorder import Layers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memcalc.replay.reserve import Replay
    from memcalc.tape.step import Recording


class Companion(NamedTuple):
    """What a companion's own step is replayed from; whether it learns, has the model's weights, runs when the model has."""

    replay: Replay
    learns: bool = False
    shared: bool = False
    after: bool = False


def replayed(main: Replay, others: Sequence[Companion]) -> int:
    """Bytes reserved after two steps of all."""
    return reserved(together(main, others))


def together(main: Replay, others: Sequence[Companion]) -> Replay:
    """One replay of all; the companions' weights come behind the model's."""
    learning = [other for other in others if other.learns]
    return main._replace(
        recording=_all(main.recording, others, [other.replay.recording for other in others]),
        weights=[*main.weights, *(one for other in others if not other.shared for one in other.replay.weights)],
        trained=[*main.trained, *(held for other in learning for held in other.replay.trained)],
        total=main.total + sum(other.replay.total for other in others if not other.shared),
        earlier=main.earlier and _all(main.earlier, others, [_first(other.replay) for other in others]),
        opening=main.opening and _all(main.opening, others, [_opening(other.replay) for other in others]),
        begun=main.begun._replace(kept=(*main.begun.kept, *(one for other in others for one in other.replay.begun.kept))),
        beside=main.beside + sum(other.replay.beside for other in others),
    )  # fmt: skip


def _first(replay: Replay) -> Recording:
    return replay.earlier or replay.recording


def _opening(replay: Replay) -> Recording:
    return replay.opening or replay.recording


def _all(main: Recording, others: Iterable[Companion], recordings: Iterable[Recording]) -> Recording:
    """The log of a step with those of the companions in it; of those in one place the last is put there first."""
    for other, recording in reversed(list(zip(others, recordings, strict=True))):
        if other.after:
            main = _behind(main, recording)
    for other, recording in reversed(list(zip(others, recordings, strict=True))):
        if not other.after:
            main = _around(main, recording)
    return main


def _behind(main: Recording, other: Recording) -> Recording:
    """A forward pass without a graph where the model's layers have run; what it leaves goes when the step is over."""
    at = max(main.turned or main.forward_end, *(stack.events[-1] for stack in main.stacks), 0)
    run = _numbered(other.events[: other.end], len(main.sizes))
    ended = {~event for event in run if event < 0}
    left = [~event for event in run if event >= 0 and event not in ended]
    events = [*main.events[:at], *run, *main.events[at : main.end], *left]
    stacks = [_shifted(stack, 0, len(run)) for stack in main.stacks]
    return replace(
        _beside(main, other), events=events, stacks=stacks, forward_end=main.forward_end + len(run), end=len(events)
    )


def _around(main: Recording, other: Recording) -> Recording:
    """A step whose forward pass comes before the model's, and its backward pass, if there is one, behind."""
    first, forward = len(main.sizes), other.forward_end
    at = 2 if main.outputs >= 0 else 0  # behind the outputs of the step before
    run, back = _numbered(other.events[:forward], first), _numbered(other.events[forward : other.end], first)
    ended = {~event for event in (*run, *back) if event < 0}
    left = [~event for event in run if event >= 0 and event not in ended]
    events = [*main.events[:at], *run, *main.events[at : main.end], *left, *back]
    own = [_shifted(stack, at, main.end + len(left), first) for stack in other.stacks]
    return replace(
        _beside(main, other), events=events, stacks=[*own, *(_shifted(stack, forward, forward) for stack in main.stacks)],
        forward_end=main.forward_end + forward, end=len(events), turned=main.turned + forward if main.turned else 0,
    )  # fmt: skip


def _beside(main: Recording, other: Recording) -> Recording:
    """A recording with the storages of another behind its own."""
    first = len(main.sizes)
    return replace(
        main, sizes=main.sizes + other.sizes, owners=main.owners + other.owners,
        gradients=main.gradients | _moved(other.gradients, first), left=main.left | _moved(other.left, first),
        buffers=main.buffers | _moved(other.buffers, first), pieces=main.pieces | _moved(other.pieces, first),
        relays=main.relays | _moved(other.relays, first),
        streams=main.streams | {storage + first: stream for storage, stream in other.streams.items()},
    )  # fmt: skip


def _numbered(events: Iterable[int], first: int) -> list[int]:
    """A log whose storages have other numbers."""
    return [event + first if event >= 0 else event - first for event in events]


def _moved(storages: Iterable[int], first: int) -> frozenset[int]:
    return frozenset([storage + first for storage in storages])


def _shifted(stack: Layers, forward: int, back: int, first: int = 0) -> Layers:
    """The stack with its boundaries so many events later, and the storages that its layers share so many numbers on."""
    moved = Layers(stack.path, stack.order)
    moved.sequences, moved.shared = stack.sequences, {storage + first for storage in stack.shared}
    moved.events = [place + forward for place in stack.events]
    moved.returns = [place + back for place in stack.returns]
    return moved
