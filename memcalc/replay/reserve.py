"""What the caching allocator takes from the device for a training step: the tape's log, replayed for two whole steps.

The first step makes the optimizer's states, in whatever the activations have left free; the second shows what a steady
step needs on top.
"""

from __future__ import annotations

from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from memcalc.replay import moves as moving
from memcalc.replay.allocator import END, CachingAllocator
from memcalc.replay.expandable import ExpandableAllocator
from memcalc.replay.moves import Moves
from memcalc.replay.negligible import below
from memcalc.replay.outliving import numbers
from memcalc.replay.stepping import Turn, loop, makes_states, stacked
from memcalc.replay.turns import keep
from memcalc.tape.values import rounded
from memcalc.undisturbed import undisturbed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from memcalc.replay.allocator import Block
    from memcalc.replay.stepping import Act
    from memcalc.tape.step import Recording


Turns: TypeAlias = "tuple[list[int], int]"  # bytes of blocks, how many times over


class Held(NamedTuple):
    """What is held for each of `times` like trained tensors: bytes of states, and of temporaries of the optimizer step.

    Of those of `each` tensor alone so many of the last stay until the next one's are there. `acts` are a turn's in their
    order, where that is known; `stacked` those of a turn that all tensors of its `shape` have at once.
    """

    times: int
    states: tuple[int, ...]
    together: tuple[int, ...]
    each: tuple[int, ...]
    stay: int = 0
    acts: tuple[Act, ...] = ()
    stacked: tuple[Act, ...] = ()
    shape: tuple[int, ...] = ()


class Staged(NamedTuple):
    """Blocks (bytes) that a sharding strategy makes between the moments of a step, beside the log.

    `early` are those of the backward pass, `late` those that go when the optimizer's gradients are there: `flat` for a
    moment, `wide` until it has stepped. Where it `frees`, parameters' gradients go before that.
    """

    early: tuple[int, ...] = ()
    late: tuple[int, ...] = ()
    flat: int = 0
    wide: int = 0
    frees: bool = False


class Begun(NamedTuple):
    """What a strategy does before the first step.

    `tried` is what it makes and lets go of (bytes for a birth, ~n for the n-th born's death), `kept` what it keeps: bytes of
    a tensor, how many like it. So it does `once`, until the second step has `then` in its place.
    """

    tried: tuple[int, ...] = ()
    kept: tuple[tuple[int, int], ...] = ()
    once: tuple[int, ...] = ()
    then: tuple[tuple[int, int], ...] = ()


NOTHING = Begun()


class Steps:
    """The optimizer's steps: the first makes the states."""

    def __init__(self, allocator: CachingAllocator, trained: list[Held], floor: int) -> None:
        self.allocator, self.trained, self.floor = allocator, trained, floor
        self.turns = [Turn(held.acts, held.states, held.times) for held in trained if held.acts]
        self.shapes = stacked((held.shape, held.stacked, held.times) for held in trained)
        self.together = _kind_by_kind(trained, floor)

    def first(self) -> None:
        """States for good, temporaries that go again; a group that is stacked steps before the others have states."""
        self._states(stacked=True)
        loop(self.allocator, self.shapes, self.floor, first=True)
        self._states(stacked=False)
        temporaries = self.allocator.several(size for sizes, times in self.together for size in sizes * times)
        last = _each(self.allocator, self.trained, self.floor)
        loop(self.allocator, self.turns, self.floor, first=True)
        self.allocator.free(*last, *reversed(temporaries))

    def _states(self, *, stacked: bool) -> None:
        group = [held for held in self.trained if bool(held.stacked) is stacked and not makes_states(held.acts)]
        _keep(self.allocator, _in_turn([(held.states, held.times) for held in group], self.floor))

    def later(self) -> None:
        """Temporaries; nothing comes behind them."""
        loop(self.allocator, self.shapes, self.floor, first=False)
        _keep(self.allocator, self.together)
        _each(self.allocator, self.trained, self.floor)
        loop(self.allocator, self.turns, self.floor, first=False)


class Replay(NamedTuple):
    """What two steps are replayed from: `weights` are (size, count) of what is there from the start, `total` all that persists.

    `earlier` is the micro batch that makes the gradients, where the recorded one finds them there; `opening` the first
    step, where that makes the states while it runs; `begun` what a strategy does before it. `expandable` where segments
    are (PYTORCH_ALLOC_CONF=expandable_segments:True). `beside` are bytes of pools that a strategy has beside the log.
    """

    recording: Recording
    weights: list[tuple[int, int]]
    trained: list[Held]
    total: int
    staged: Staged | None = None
    earlier: Recording | None = None
    opening: Recording | None = None
    begun: Begun = NOTHING
    expandable: bool = False
    beside: int = 0


@undisturbed
def reserved(replay: Replay) -> int:
    """Bytes reserved after two steps."""
    recording, weights, trained, total, staged, earlier, opening, begun, expandable, beside = replay
    floor, others_hold = below(recording, total, moving.MOVES)
    allocator, step = _new(expandable=expandable), Moves(recording, floor)
    making = Moves(earlier, floor) if earlier else None
    _place(allocator, weights, floor)
    _begin(allocator, begun.tried, floor)
    once = allocator.several(size for size in begun.once if size > floor)
    _place(allocator, begun.kept, floor)
    weights = [*weights, *begun.kept, *begun.then]
    optimizer = Steps(allocator, trained, floor)
    held: list[Block] = []
    others: dict[int, CachingAllocator] = {}
    for first in (True, False):
        if not first and once:
            allocator.free(*once)
            _place(allocator, begun.then, floor)
        gradients: list[Block] = []
        if making:
            gradients, held = _micro_step(allocator, making, held, others)
        there = _there(making, gradients, step) if making and recording.left else {}
        early, late = (allocator.several(sizes) for sizes in ((staged.early, staged.late) if staged else ((), ())))
        now = Moves(opening, floor) if first and opening else step
        alive, held = _micro_step(allocator, now, held, others, there)
        held = held if now is step else held[:1]  # the states that the first one makes are there for good
        wide = _staged(allocator, staged, early, late, alive) if staged else []
        if first and not opening:
            optimizer.first()
            allocator.free(*wide, *gradients, *alive)
    optimizer.later()
    streams = sum(other.reserved for other in others.values())
    return allocator.reserved + streams + _small(weights, trained, floor) + others_hold + beside


def _small(weights: list[tuple[int, int]], trained: list[Held], floor: int) -> int:
    """Bytes of what persists and is not followed."""
    held = sum(size * count for size, count in weights if size <= floor)
    return held + sum(size * tensor.times for tensor in trained for size in tensor.states if size <= floor)


def _new(*, expandable: bool) -> CachingAllocator:
    return ExpandableAllocator() if expandable else CachingAllocator()


def _place(allocator: CachingAllocator, weights: Iterable[tuple[int, int]], floor: int) -> None:
    """What is there from the start, in its order: the ends of large tensors' segments have room for others."""
    _keep(allocator, _in_turn([((rounded(size),), count) for size, count in weights], floor))


def _begin(allocator: CachingAllocator, moves: tuple[int, ...], floor: int) -> None:
    """What is made and let go of before the first step."""
    born: list[list[Block]] = []
    for move in moves:
        if move >= 0:
            born.append(allocator.several((move,) if move > floor else ()))
        else:
            allocator.free(*born[~move])


def _keep(allocator: CachingAllocator, turns: Iterable[Turns]) -> None:
    """Blocks for good."""
    for sizes, times in turns:
        keep(allocator, sizes, times)


def _micro_step(
    allocator: CachingAllocator,
    step: Moves,
    before: list[Block],
    others: dict[int, CachingAllocator],
    there: Mapping[int, Block] = MappingProxyType({}),
) -> tuple[list[Block], list[Block]]:
    """Forward and backward pass: what is alive then, and the outputs with what they hold; `before` are the step before's.

    Each stream has blocks of its own (`others`), which no other stream is given. `there` are blocks of births that have been.
    """
    alive = [END] * len(step.sizes)
    held = [step.before, *step.carried] if step.before >= 0 else []
    gone = {*there, *(~number for number in held[len(before) :]), *(~n for n, block in there.items() if block is END)}
    for number, block in (*zip(held, before, strict=False), *there.items()):
        alive[number] = block
    for stream, moves in step.without(gone).items():
        own = others.setdefault(stream, allocator.__class__()) if stream else allocator
        moves.follow(own, alive)
    holding = [step.outputs, *step.kept] if step.outputs >= 0 else []
    left = [block for number in step.left if number not in holding and (block := alive[number]) is not END]
    return left, [alive[number] for number in holding]


def _there(making: Moves, gradients: list[Block], step: Moves) -> dict[int, Block]:
    """The blocks that an earlier micro batch has left, out of the `gradients`, by the births of a step that finds them there.

    Its units' backward passes are in the opposite order of their forward passes.
    """
    left = (number for number in making.left if number != making.outputs and number not in making.kept)
    blocks = dict(zip(left, gradients, strict=True))
    found = _whole(making, blocks, step)
    waiting: dict[tuple[int, int], list[Block]] = {}  # a block of one stream is none of another's
    of = _streams(making)
    for number, block in blocks.items():
        waiting.setdefault((making.sizes[number], of[number]), []).append(block)
    of = _streams(step)
    for number in step.found:
        if alike := waiting.get((step.sizes[number], of[number])):
            found[number] = alike.pop(0)
    gradients[:] = [block for blocks in waiting.values() for block in blocks]
    return found


def _streams(moves: Moves) -> dict[int, int]:
    """The stream of each birth."""
    rows = ((number, row) for number, stream in moves.streams.items() for row in (*stream.small, *stream.large))
    return {move: number for number, row in rows for move in row.all if move >= 0}


def _whole(making: Moves, blocks: dict[int, Block], step: Moves) -> dict[int, Block]:
    """The blocks of gathered parameters that stay from an earlier micro batch, out of all that it has left; those not made."""
    how = step.recording.unreduced
    if not how or not how.stays:
        return {}
    before, now = (sorted(numbers(moves, how.stays)) for moves in (making, step))
    there = {number: blocks.pop(old) for old, number in zip(before, now, strict=True)}
    return there | dict.fromkeys(numbers(step, how.once), END)


def _staged(
    allocator: CachingAllocator, staged: Staged, early: list[Block], late: list[Block], alive: list[Block]
) -> list[Block]:
    """What becomes of a strategy's blocks when the backward pass is over: the gradients that the optimizer is given."""
    allocator.free(*early)
    if staged.frees:
        allocator.free(*alive)
        alive.clear()
    flat, wide = (allocator.several((size,) if size else ()) for size in (staged.flat, staged.wide))
    allocator.free(*flat, *late)
    return wide


def _each(allocator: CachingAllocator, trained: list[Held], floor: int) -> list[Block]:
    """Temporaries of a step with each tensor alone, layer after layer; what stays of the last's."""
    before: list[Block] = []
    for times, alike in groupby(trained, key=lambda held: held.times):
        for held in [held for held in alike if held.each] * min(times, 2):
            gone = len(held.each) - held.stay
            own = allocator.several(size for size in held.each[:gone] if size > floor)
            stay = allocator.several(size for size in held.each[gone:] if size > floor)
            allocator.free(*own, *before)
            before = stay
    return before


def _kind_by_kind(trained: list[Held], floor: int) -> list[Turns]:
    """What is made of all tensors together: the first temporary of each, then the second (one call of torch._foreach each)."""
    most = max((len(held.together) for held in trained), default=0)
    kinds = ([(held.together[kind : kind + 1], held.times) for held in trained] for kind in range(most))
    return [turn for kind in kinds for turn in _in_turn(kind, floor)]


def _in_turn(tensors: Iterable[tuple[tuple[int, ...], int]], floor: int) -> list[Turns]:
    """Sizes of what like tensors have, and how many layers come after one another with just those."""
    found = []
    for times, alike in groupby(tensors, key=lambda pair: pair[1]):
        sizes = [size for own, _ in alike for size in own if size > floor]
        if sizes:
            found.append((sizes, times))
    return found
