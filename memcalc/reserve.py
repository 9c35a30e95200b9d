"""What the caching allocator takes from the device for a training step: the tape's log, replayed for two whole steps.

The first step makes the optimizer's states, in whatever the activations have left free; the second shows what a steady
step needs on top. Of layers in the middle of a stack only what outlives the layer is replayed: their temporaries fit
where those of the layers before them fitted.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from memcalc.allocator import MIB, Block, CachingAllocator
from memcalc.tape.values import rounded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.tape.recorder import Layers
    from memcalc.tape.step import Recording

EDGE = 3  # layers at each end of a stack that are replayed whole
MOST = 32  # layers that are replayed at all: of a longer stack, each in the middle stands for several, in wider blocks
NEGLIGIBLE = 2**14  # blocks smaller than this part of all that persists are left to the small pool, unless it is small


class Held(NamedTuple):
    """What is held for each of `times` like trained tensors: bytes of states, and of temporaries of the optimizer step."""

    times: int
    states: tuple[int, ...]
    together: tuple[int, ...]
    each: tuple[int, ...]


def reserved(recording: Recording, weights: list[tuple[int, int]], trained: list[Held], total: int) -> int:
    """Bytes reserved after two steps; `weights` are (size, count) of what is there from the start, `total` all that persists."""
    floor = min(MIB, total // NEGLIGIBLE)
    allocator = CachingAllocator()
    for size, count in weights:
        if size > floor:
            allocator.keep(rounded(size), count)
    step = Moves(recording, floor)
    births, moves = step.listed()
    outputs = step.number.get((recording.outputs, -1))
    kept: Block | None = None
    for first in (True, False):
        blocks = _run(
            allocator, births, _without_previous(moves) if outputs and first else moves[bool(outputs) :], kept
        )
        _optimizer_step(allocator, trained, floor, first=first)
        for number, block in enumerate(blocks):
            if number == outputs:
                kept = block
            elif block is not None:
                allocator.free(block)
    return allocator.reserved


def _without_previous(moves: list[int]) -> list[int]:
    """A first step: there are no outputs of a step before."""
    return [move for move in moves if move not in {0, ~0}]


def _run(allocator: CachingAllocator, births: list[int], moves: list[int], kept: Block | None) -> list[Block | None]:
    """Forward and backward: the blocks that are left, the gradients; `kept` are the outputs of the step before."""
    blocks: list[Block | None] = [None] * len(births)
    malloc, free = allocator.malloc, allocator.free
    blocks[:1] = [kept] * bool(births)
    for move in moves:
        if move >= 0:
            blocks[move] = malloc(births[move])
        else:
            free(blocks[~move])  # type: ignore[arg-type]  # born before it dies
            blocks[~move] = None
    return blocks


def _optimizer_step(allocator: CachingAllocator, trained: list[Held], floor: int, *, first: bool) -> None:
    """States of every tensor in the first step; temporaries of all together, or of each with the one before."""
    if first:
        for held in trained:
            for size in held.states:
                if size > floor:
                    allocator.keep(size, held.times)
    malloc, free = allocator.malloc, allocator.free
    together: list[Block] = []
    before: list[Block] = []
    for held in trained:
        blocks = min(held.times, MOST)
        together += [
            malloc(_times(size, held.times / blocks)) for size in held.together if size > floor for _ in range(blocks)
        ]
        for _ in range(min(held.times, 2) if held.each else 0):
            own = [malloc(size) for size in held.each if size > floor]
            for block in before:
                free(block)
            before = own
    for block in before + together:
        free(block)


def _times(size: int, factor: float) -> int:
    return size if factor == 1 else rounded(int(size * factor))


def _thinned(order: list[int]) -> list[int]:
    """The layers of a stack that are replayed, by the records that stand for them: all, or `MOST` of them."""
    middle, wanted = order[EDGE:-EDGE], MOST - 2 * EDGE
    if len(middle) <= wanted:
        return order
    return [*order[:EDGE], *(middle[i * len(middle) // wanted] for i in range(wanted)), *order[-EDGE:]]


class Moves:
    """The whole step as births and deaths of numbered blocks: n for the birth of block n, ~n for its death."""

    def __init__(self, recording: Recording, floor: int) -> None:
        self.recording, self.floor = recording, floor
        self.births: list[int] = []
        self.moves: list[int] = []
        self.number: dict[tuple[int, int], int] = {}  # (storage, layer) -> block, while it lives
        self.home: dict[int, tuple[int, int, int, tuple[int, int]]] = {}  # storage -> stack, sample, direction, mark
        self.like: dict[tuple[int, int, int], dict[tuple[int, int], int]] = {}  # a slice's storages by their marks
        self.lasting: dict[tuple[int, int], list[int]] = {}  # a slice's events but those of storages local to it
        self.orders = [_thinned(stack.order) for stack in recording.stacks]
        self.wider = [self._widths(place) for place in range(len(self.orders))]
        for place, stack in enumerate(recording.stacks):
            for sample, direction, start, stop in _stretches(stack):
                self._settle(place, sample, direction, start, stop)

    def listed(self) -> tuple[list[int], list[int]]:
        """(size of every block, moves)."""
        at = 0
        for place, stack in enumerate(self.recording.stacks):
            self._pass(at, stack.events[0])
            for layer, sample in enumerate(self.orders[place]):
                self._layer(place, layer, stack.events[sample], stack.events[sample + 1])
            at = stack.events[-1]
        for place, stack in reversed(list(enumerate(self.recording.stacks))):
            back = stack.returns[::-1]
            self._pass(at, back[-1])
            for layer, sample in reversed(list(enumerate(self.orders[place]))):
                self._layer(place, layer, back[sample + 1], back[sample])
            at = back[0]
        self._pass(at, self.recording.end)
        return self.births, self.moves

    def _widths(self, place: int) -> dict[int, float]:
        """How many layers each record stands for, for every time that it is replayed in the middle."""
        whole, thin = (Counter(order[EDGE:-EDGE]) for order in (self.recording.stacks[place].order, self.orders[place]))
        return {sample: whole[sample] / thin[sample] for sample in thin}

    def _settle(self, place: int, sample: int, direction: int, start: int, stop: int) -> None:
        events, sizes = self.recording.events[start:stop], self.recording.sizes
        born = [event for event in events if event >= 0]
        local = set(born) & {~event for event in events if event < 0}
        self.lasting[start, stop] = [
            event
            for event in events
            if (storage := event if event >= 0 else ~event) not in local and sizes[storage] > self.floor
        ]
        seen: Counter[int] = Counter()
        marks = self.like[place, sample, direction] = {}
        for storage in reversed(born):  # its size, and which of that size it is, from the end, among those that last
            mark = (sizes[storage], -1 if storage in local else seen[sizes[storage]])
            self.home[storage] = (place, sample, direction, mark)
            if storage not in local:
                marks[mark] = storage
                seen[sizes[storage]] += storage not in self.recording.gradients

    def _pass(self, start: int, stop: int) -> None:
        """A stretch outside the stacks."""
        for event in self.recording.events[start:stop]:
            if event >= 0:
                self._bear(event, -1)
            elif ~event in self.home:
                place, sample, _, _ = self.home[~event]
                for layer, other in enumerate(self.orders[place]):
                    if other == sample:
                        self._bury(~event, layer)
            else:
                self._bury(~event, -1)

    def _layer(self, place: int, layer: int, start: int, stop: int) -> None:
        order = self.orders[place]
        inner = EDGE <= layer < len(order) - EDGE
        wider = self.wider[place].get(order[layer], 1.0) if inner else 1.0
        for event in self.lasting[start, stop] if inner else self.recording.events[start:stop]:
            if event >= 0:
                self._bear(event, layer, wider)
            else:
                self._bury(*self._owner(place, layer, ~event))

    def _owner(self, place: int, layer: int, storage: int) -> tuple[int, int]:
        """The storage that really dies here, and its layer: this layer's, or its like in the neighbour's."""
        home = self.home.get(storage)
        shared, order = self.recording.stacks[place].shared, self.orders[place]
        if home is None or home[0] != place:
            return storage, -1 if home is None else 0
        _, sample, direction, mark = home
        if storage in shared and layer > order.index(order[layer]):
            return -1, -1  # other layers still share it
        step = sample - order[layer]
        if step == 0 or abs(step) > 1 or storage in shared:
            return storage, layer if step == 0 else order.index(sample)
        neighbour = order[layer + step]
        return self.like[place, neighbour, direction].get(mark, storage), layer + step

    def _bear(self, storage: int, layer: int, wider: float = 1.0) -> None:
        size = _times(self.recording.sizes[storage], wider)
        if size > self.floor:
            self.number[storage, layer] = len(self.births)
            self.moves.append(len(self.births))
            self.births.append(size)

    def _bury(self, storage: int, layer: int) -> None:
        number = self.number.pop((storage, layer), None)
        if number is not None:
            self.moves.append(~number)


def _stretches(stack: Layers) -> Iterator[tuple[int, int, int, int]]:
    """(sample, direction, start, stop) of every slice of a stack."""
    back = stack.returns[::-1]
    for sample in range(len(stack.events) - 1):
        yield sample, 0, stack.events[sample], stack.events[sample + 1]
        yield sample, 1, back[sample + 1], back[sample]
