"""What the caching allocator takes from the device for a training step: the tape's log, replayed for two whole steps.

The first step makes the optimizer's states, in whatever the activations have left free; the second shows what a steady
step needs on top. Like layers in the middle of a stack are replayed in one go: what outlives the layer as often as there
are layers, their temporaries once.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from memcalc.allocator import MIB, Block, CachingAllocator
from memcalc.tape.values import rounded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.tape.recorder import Layers
    from memcalc.tape.step import Recording

EDGE = 2  # layers at each end of a stack that are replayed one by one
WIDEST = 4  # no more layers of a stack are replayed at once than one in so many
STATES = 8  # turns in which the optimizer makes the states of like layers, one layer after the other
NEGLIGIBLE = 2**14  # blocks smaller than this part of all that persists are left to the small pool, unless it is small


class Held(NamedTuple):
    """What is held for each of `times` like trained tensors: bytes of states, and of temporaries of the optimizer step."""

    times: int
    states: tuple[int, ...]
    together: tuple[int, ...]
    each: tuple[int, ...]


def reserved(recording: Recording, weights: list[tuple[int, int]], trained: list[Held], total: int) -> int:
    """Bytes reserved after two steps; `weights` are (size, count) of what is there from the start, `total` all that persists."""
    floor = min(MIB, total // NEGLIGIBLE) if _thinned(recording) else 0
    allocator = CachingAllocator()
    for size, count in weights:
        if size > floor:
            allocator.malloc(rounded(size), count)
    step = Moves(recording, floor)
    births, counts, moves = step.listed()
    outputs = step.number.get((recording.outputs, -1))
    kept: list[Block] = []
    for first in (True, False):
        blocks = _run(
            allocator, births, counts, _without_previous(moves) if outputs and first else moves[bool(outputs) :], kept
        )
        _optimizer_step(allocator, trained, floor, first=first)
        for number, block in enumerate(blocks):
            if number == outputs:
                kept = block
            elif block:
                allocator.free(block)
    return allocator.reserved


def _thinned(recording: Recording) -> bool:
    """Whether layers are replayed together, or there is no telling; what is replayed whole is replayed to the last byte."""
    return not recording.stacks or any(len(stack.order) > 2 * EDGE + 1 for stack in recording.stacks)


def _without_previous(moves: list[int]) -> list[int]:
    """A first step: there are no outputs of a step before."""
    return [move for move in moves if move not in {0, ~0}]


def _run(
    allocator: CachingAllocator, births: list[int], counts: list[int], moves: list[int], kept: list[Block]
) -> list[list[Block]]:
    """Forward and backward: the blocks that are left, the gradients; `kept` are the outputs of the step before."""
    none: list[Block] = []
    blocks = [none] * len(births)
    malloc, free = allocator.malloc, allocator.free
    blocks[:1] = [kept] * bool(births)
    for move in moves:
        if move >= 0:
            blocks[move] = malloc(births[move], counts[move])
        else:
            free(blocks[~move])
            blocks[~move] = none
    return blocks


def _optimizer_step(allocator: CachingAllocator, trained: list[Held], floor: int, *, first: bool) -> None:
    """States of every tensor in the first step; temporaries of all together, or of each with the one before."""
    malloc, free = allocator.malloc, allocator.free
    if first:
        for times, held in _in_turn(trained):
            for size in held.states:
                if size > floor:
                    malloc(size, times)
    together: list[list[Block]] = []
    before: list[list[Block]] = []
    for held in trained:
        together += [malloc(size, held.times) for size in held.together if size > floor]
        for _ in range(min(held.times, 2) if held.each else 0):
            own = [malloc(size) for size in held.each if size > floor]
            for block in before:
                free(block)
            before = own
    for block in before + together:
        free(block)


def _groups(order: list[int]) -> list[tuple[int, int]]:
    """(record, how many layers at once): single ones at both ends of a stack, ever more together towards its middle."""
    if len(order) <= 2 * EDGE + 1:
        return _single(order)
    start, stop = EDGE, len(order) - EDGE
    head, tail = _single(order[:start]), _single(order[stop:])
    width = 2 * max(1, len(set(order)) - 2)  # of each kind as many
    widest = max(width, len(order) // WIDEST)
    while stop - start > 2 * width:
        head += _alike(order[start : start + width])
        tail = _alike(order[stop - width : stop]) + tail
        start, stop, width = start + width, stop - width, min(2 * width, widest)
    middle = (start + stop) // 2
    return head + _alike(order[start:middle]) + _alike(order[middle:stop]) + tail


def _single(order: list[int]) -> list[tuple[int, int]]:
    return [(sample, 1) for sample in order]


def _alike(order: list[int]) -> list[tuple[int, int]]:
    return [(sample, order.count(sample)) for sample in dict.fromkeys(order)]


def _in_turn(trained: list[Held]) -> Iterator[tuple[int, Held]]:
    """(how many at once, of what), layer after layer, as an optimizer walks its parameters."""
    for times, tensors in groupby(trained, key=lambda held: held.times):
        layer = list(tensors)
        turns = min(times, STATES) if len(layer) > 1 else 1
        for turn in range(turns):
            many = (turn + 1) * times // turns - turn * times // turns
            yield from ((many, held) for held in layer)


class Moves:
    """The whole step as births and deaths of numbered blocks: n for the birth of block n, ~n for its death."""

    def __init__(self, recording: Recording, floor: int) -> None:
        self.recording, self.floor = recording, floor
        self.births: list[int] = []
        self.counts: list[int] = []
        self.moves: list[int] = []
        # (storage, group) -> block; the group is ~group - 1 for what the group itself lets go
        self.number: dict[tuple[int, int], int] = {}
        self.home: dict[int, tuple[int, int, int, tuple[int, int]]] = {}  # storage -> stack, sample, direction, mark
        self.like: dict[tuple[int, int, int], dict[tuple[int, int], int]] = {}  # a slice's storages by their marks
        self.single: set[int] = set()  # storages that are there once, however many layers are replayed at once
        self.local: set[int] = set()  # storages that die in the stretch that made them
        self.handed: set[int] = set()  # storages that another layer lets go, going back
        self.orders = [_groups(stack.order) for stack in recording.stacks]
        self.firsts = [[sample for sample, _ in order] for order in self.orders]
        self.large: dict[tuple[int, int], list[int]] = {}
        deaths = {~event: at for at, event in enumerate(recording.events) if event < 0}
        for place, stack in enumerate(recording.stacks):
            self.single |= stack.shared
            for sample, direction, start, stop in _stretches(stack):
                self._settle(place, sample, direction, start, stop, deaths)

    def listed(self) -> tuple[list[int], list[int], list[int]]:
        """(size of every block, how many it stands for, moves)."""
        at = 0
        for place, stack in enumerate(self.recording.stacks):
            self._pass(at, stack.events[0])
            for group, (sample, times) in enumerate(self.orders[place]):
                self._layer(place, group, times, stack.events[sample], stack.events[sample + 1])
            at = stack.events[-1]
        for place, stack in reversed(list(enumerate(self.recording.stacks))):
            back = stack.returns[::-1]
            self._pass(at, back[-1])
            for group, (sample, times) in reversed(list(enumerate(self.orders[place]))):
                if times > 1:
                    self._let_go(place, group, back[sample + 1], back[sample])
                self._layer(place, group, times, back[sample + 1], back[sample])
            at = back[0]
        self._pass(at, self.recording.end)
        return self.births, self.counts, self.moves

    def _let_go(self, place: int, group: int, start: int, stop: int) -> None:
        """What like layers have kept goes before what they leave: the layer before, replayed alone, has shown what both take."""
        for event in self._large(start, stop):
            if event < 0 and (home := self.home.get(~event)) and home[2] == 0:
                self._die(place, group, 2, ~event)

    def _settle(self, place: int, sample: int, direction: int, start: int, stop: int, deaths: dict[int, int]) -> None:
        events, sizes, stack = self.recording.events[start:stop], self.recording.sizes, self.recording.stacks[place]
        seen: dict[int, int] = {}
        marks = self.like[place, sample, direction] = {}
        whole = (stack.returns[0], stack.returns[-1]) if direction else (stack.events[0], stack.events[-1])
        back = stack.returns[::-1]
        for storage in reversed([event for event in events if event >= 0]):
            size, at = sizes[storage], deaths.get(storage, -1)
            if start <= at < stop:
                self.single.add(storage)
                self.local.add(storage)
                self.home[storage] = (place, sample, direction, (size, -1))
                continue
            mark = (size, seen.get(size, 0))
            self.home[storage] = (place, sample, direction, mark)
            marks[mark] = storage
            seen[size] = mark[1] + (storage not in self.recording.gradients)
            if whole[0] <= at < whole[1]:
                self.single.add(storage)
            elif back[-1] > at >= back[0] and not back[sample + 1] <= at < back[sample]:
                self.handed.add(storage)

    def _pass(self, start: int, stop: int) -> None:
        """A stretch outside the stacks."""
        for event in self._large(start, stop):
            if event >= 0:
                self._bear(event, -1, 1)
            elif ~event in self.home:
                place, sample, _, _ = self.home[~event]
                for group, (other, _times) in enumerate(self.orders[place]):
                    if other == sample:
                        self._bury(~event, group)
                        self._bury(~event, ~group - 1)
            else:
                self._bury(~event, -1)

    def _layer(self, place: int, group: int, times: int, start: int, stop: int) -> None:
        single, handed, local = self.single, self.handed, self.local
        for event in self._large(start, stop):
            if event < 0:
                if ~event in local:
                    self.moves.append(~self.number.pop((~event, group)))
                else:
                    self._die(place, group, times, ~event)
            elif times == 1 or event in single:
                self._bear(event, group, 1)
            elif event in handed:
                self._bear(event, ~group - 1, times - 1)
                self._bear(event, group, 1)
            else:
                self._bear(event, group, times)

    def _large(self, start: int, stop: int) -> list[int]:
        """A stretch of the log, without what is negligible."""
        found = self.large.get((start, stop))
        if found is None:
            sizes, floor = self.recording.sizes, self.floor
            found = self.large[start, stop] = [
                event for event in self.recording.events[start:stop] if sizes[event if event >= 0 else ~event] > floor
            ]
        return found

    def _die(self, place: int, group: int, times: int, storage: int) -> None:
        """The storage that really dies here is this layer's, or its like in the neighbour's."""
        home = self.home.get(storage)
        stack, order = self.recording.stacks[place], self.orders[place]
        if home is None or home[0] != place:
            self._bury(storage, -1 if home is None else 0)
            return
        _, sample, direction, mark = home
        here = order[group][0]
        firsts = self.firsts[place]
        if storage in stack.shared:
            if group <= firsts.index(here):
                self._bury(storage, group if sample == here else firsts.index(sample))
            return
        step = sample - here
        if step == 0 or abs(step) > 1:
            self._bury(storage, group if step == 0 else firsts.index(sample))
            return
        neighbour = order[group + step][0]
        self._bury(self.like[place, neighbour, direction].get(mark, storage), group + step)
        if times > 1:
            own = self.like[place, here, direction].get(mark, storage)
            self._bury(own, ~group - 1)

    def _bear(self, storage: int, group: int, times: int) -> None:
        self.number[storage, group] = len(self.births)
        self.moves.append(len(self.births))
        self.births.append(self.recording.sizes[storage])
        self.counts.append(times)

    def _bury(self, storage: int, group: int) -> None:
        number = self.number.pop((storage, group), None)
        if number is not None:
            self.moves.append(~number)


def _stretches(stack: Layers) -> Iterator[tuple[int, int, int, int]]:
    """(sample, direction, start, stop) of every slice of a stack."""
    back = stack.returns[::-1]
    for sample in range(len(stack.events) - 1):
        yield sample, 0, stack.events[sample], stack.events[sample + 1]
        yield sample, 1, back[sample + 1], back[sample]
