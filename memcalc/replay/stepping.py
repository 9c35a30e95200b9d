"""An optimizer's loop over the parameters, replayed: what its local names hold, and when they let go of it.

Python gives a name's tensor away only when the name is bound again, after the new one is there. So temporaries of one
parameter lie beside those of the next, and states that are made within the loop lie among them.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from memcalc.tape.values import rounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcalc.replay.allocator import CachingAllocator

STACK = "stack"  # the tensors of several parameters as one
STATES = "states"  # where in a turn a parameter's states are made, the first time
FIRST, LATER, ALWAYS = "first", "later", "always"  # in which steps the acts come that stand behind it
FEW = 2  # turns of a kind that show what all take, once there are states


class Act(NamedTuple):
    """What a turn does: `name` is bound to a new tensor, `-name` let go of, `name=other` bound to the other name's tensor.

    `+name` is made for good; what `>name` holds then stays until the step returns, under no name that is bound again.
    """

    name: str
    nbytes: int


BlockT = TypeVar("BlockT")


class Memory(Protocol[BlockT]):
    """Where tensors are made: the caching allocator, or what counts bytes alone."""

    def several(self, sizes: Iterable[int]) -> list[BlockT]:
        """A block for each, one after the other."""

    def free(self, *blocks: BlockT) -> None:
        """Give blocks back, one after the other."""


class Turn(NamedTuple):
    """The acts of a parameter's turn and the bytes of its states; how many like it there are, one in each layer."""

    acts: tuple[Act, ...]
    states: tuple[int, ...]
    times: int


class Names(Generic[BlockT]):
    """The local names of a step; tensors of at most `floor` bytes are not followed."""

    def __init__(self, memory: Memory[BlockT], floor: int = 0) -> None:
        self.memory, self.floor = memory, floor
        self.held: dict[str, list[BlockT]] = {}

    def take(self, turn: Turn, *, first: bool) -> None:
        """A parameter's turn; in the first step its states are made where the loop makes them."""
        for name, nbytes in in_step(turn.acts, first=first):
            if name == STATES:
                self._made(turn.states if first else ())
            elif name[0] == "+":
                self._made((nbytes,))
            elif name[0] == "-":
                self._gone(self.held.pop(name[1:], []))
            elif name[0] == ">":
                self.held.setdefault("", []).extend(self.held.pop(name[1:], []))
            elif "=" in name:
                to, _, other = name.partition("=")
                self._bind(to, self.held.pop(other, []))
            else:
                self._bind(name, self._made((nbytes,)))

    def leave(self) -> None:
        """The step returns."""
        for blocks in self.held.values():
            self._gone(blocks)
        self.held = {}

    def _bind(self, name: str, blocks: list[BlockT]) -> None:
        before = self.held.get(name, [])
        self.held[name] = blocks
        self._gone(before)

    def _made(self, sizes: Iterable[int]) -> list[BlockT]:
        return self.memory.several(size for size in sizes if size > self.floor)

    def _gone(self, blocks: list[BlockT]) -> None:
        self.memory.free(*blocks)


def loop(allocator: CachingAllocator, turns: Iterable[Turn], floor: int, *, first: bool) -> None:
    """A step that takes the parameters in turn, layer after layer: all of them where their states are made on the way."""
    names = Names(allocator, floor)
    for times, alike in groupby(turns, key=lambda turn: turn.times):
        layer = list(alike)
        for _ in range(times if first and any(makes_states(turn.acts) for turn in layer) else min(times, FEW)):
            for turn in layer:
                names.take(turn, first=first)
    names.leave()


def stacked(alike: Iterable[tuple[tuple[int, ...], tuple[Act, ...], int]]) -> list[Turn]:
    """A turn for all parameters of a shape at once, shape after shape: (shape, acts of one, how many), in their order.

    A tensor of the turn is as large as those of all of them; one alone is no `stack`.
    """
    found: dict[tuple[tuple[int, ...], tuple[str, ...]], list[tuple[tuple[Act, ...], int]]] = {}
    for shape, acts, count in alike:
        if acts:
            found.setdefault((shape, tuple(act.name for act in acts)), []).append((acts, count))
    return [Turn(tuple(_merged(several)), (), 1) for several in found.values()]


def _merged(several: list[tuple[tuple[Act, ...], int]]) -> Iterator[Act]:
    """The acts of parameters that take them at once: (acts of one, how many)."""
    times = [count for _, count in several]
    for same in zip(*(acts for acts, _ in several), strict=True):
        whole = sum(act.nbytes * count for act, count in zip(same, times, strict=True))
        yield Act(same[0].name, 0 if same[0].name == STACK and sum(times) == 1 else rounded(whole))


def makes_states(acts: tuple[Act, ...]) -> bool:
    """Whether the loop makes the states, and not something before it."""
    return any(name == STATES or name[0] == "+" for name, _ in acts)


def in_step(acts: Iterable[Act], *, first: bool) -> Iterator[Act]:
    """The acts of the first step, or of a later one."""
    skipped, here = LATER if first else FIRST, True
    for act in acts:
        name = act.name
        if name in {FIRST, LATER, ALWAYS}:
            here = name != skipped
        elif here:
            yield act
