"""A training step as births and deaths of numbered blocks, the record of a layer in the place of every layer like it.

Of a model with many layers, those between the ends of a stack are followed without what they let go of at once: what it
takes the others have shown.
"""

from __future__ import annotations

from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

from memcalc.replay.outliving import carried, kept, numbers
from memcalc.replay.records import NEAR, Marks, Record, Told, chosen, lanes, surroundings
from memcalc.replay.rows import Lines

if TYPE_CHECKING:
    from memcalc.replay.records import Where
    from memcalc.replay.rows import Stream
    from memcalc.tape.recorder import Layers
    from memcalc.tape.step import Recording

MOVES = 10_000  # that a step should not have many more of: most are followed whole


class Moves:
    """All moves of a step up to the optimizer's, and the sizes of all births.

    Storages of at most `floor` bytes are left out.

    * `streams` has the moves of each stream, small and large ones apart; the modules' own is 0.
    * `left` are the births that nothing has ended, the last first: so gradients go in the order of their parameters.
    * `before` and `outputs` are the numbers of the step before's outputs and of this one's; -1 where nobody holds them.
    * `kept` are the births beside them that the graph of these outputs holds on to, `carried` the numbers of the step before's.
    """

    def __init__(self, recording: Recording, floor: int) -> None:
        self.recording, self.floor = recording, floor
        self.sizes: list[int] = []
        self.outside: dict[int, int] = {}  # numbers of storages that no layer makes
        self.home: dict[int, Where] = {}  # of storages that outlive the stretch of a layer
        self._lanes = lanes(recording)
        self._left: dict[Where, list[int]] = {}
        self._marked: dict[Where, Marks] = {}
        self.records = [
            [self._record(place, stack, sample) for sample in range(len(stack.events) - 1)]
            for place, stack in enumerate(recording.stacks)
        ]
        self.paths = [
            chosen(stack.order, records, MOVES // len(recording.stacks))
            for stack, records in zip(recording.stacks, self.records, strict=True)
        ]
        self.bases = [
            [self._based(place, sample) for sample in stack.order] for place, stack in enumerate(recording.stacks)
        ]
        self._lines = Lines(self.sizes)
        self._staying: list[int] = []  # births that no path of their own layer ends
        self._ended: set[int] = set()  # by others
        self._twice = False  # whether several let go of the same
        self._told: dict[tuple[int, ...], Told] = {}  # by a layer's path and the records of those around it
        self._log: list[int] = []  # of births of others that a layer ends
        self._near = True  # whether these follow from the layers around it
        self._cleared = self._lines.mark()  # where the step before's outputs go
        self._run()
        self.outputs = self.outside.get(recording.outputs, -1)
        self.before = self.outside.get(0, -1) if recording.outputs >= 0 else -1
        self.left = [number for number in reversed(self._staying) if number not in self._ended]
        self.kept = kept(self)
        self.carried = list(carried(self, self._cleared))
        self.streams = self._lines.streams(once=self._twice)
        self._gone = set[int](), self.streams

    @cached_property
    def found(self) -> list[int]:
        """The births of gradients that earlier micro batches have left, as large ones in the order in which they come."""
        left = numbers(self, self.recording.left)
        return [move for moves in self._lines.flat().values() for move in moves if move in left]

    def without(self, gone: set[int]) -> dict[int, Stream]:
        """The moves of each stream but for some; those asked for last are known."""
        if gone != self._gone[0]:
            self._gone = gone, {stream: moves.without(gone) for stream, moves in self.streams.items()}
        return self._gone[1]

    def _run(self) -> None:
        recording, at = self.recording, 0
        if recording.outputs >= 0:  # the first storage is the outputs of the step before: they are there already
            self._number(0)
            at = 2  # and so is the second, which stands for what their graph holds
        for place, stack in enumerate(recording.stacks):
            self._outside(at, stack.events[0])
            self._layers(place, 0, range(len(stack.order)))
            at = stack.events[-1]
        for place, stack in reversed(list(enumerate(recording.stacks))):
            self._outside(at, stack.returns[0])
            self._layers(place, 1, range(len(stack.order))[::-1])
            at = stack.returns[-1]
        self._outside(at, recording.end)

    # --- records of layers

    def _record(self, place: int, stack: Layers, sample: int) -> Record:
        back, record = stack.returns[::-1], Record(self._lanes)
        bounds = ((stack.events[sample], stack.events[sample + 1]), (back[sample + 1], back[sample]))
        for direction, (start, stop) in enumerate(bounds):
            where = place, sample, direction
            left = self._left[where] = record.add(self._large(start, stop))
            self.home.update(dict.fromkeys(left, where))
        record.sizes = [self.recording.sizes[storage] for storage in record.numbers]
        return record

    def _marks(self, where: Where) -> Marks:
        """What can be told apart of what a record leaves."""
        if where not in self._marked:
            sizes, gradients = self.recording.sizes, self.recording.gradients
            marks = self._marked[where] = Marks({}, {})
            seen: dict[tuple[int, bool], int] = {}
            for storage in reversed(self._left[where]):
                like = sizes[storage], storage in gradients
                marks.of[storage] = mark = (*like, seen.get(like, 0))
                marks.storages[mark] = storage
                seen[like] = mark[2] + 1
        return self._marked[where]

    def _large(self, start: int, stop: int) -> list[int]:
        """A stretch of the log, without what is negligible."""
        sizes, floor = self.recording.sizes, self.floor
        events = self.recording.events[start:stop]
        if not floor:
            return events
        return [event for event in events if sizes[event if event >= 0 else ~event] > floor]

    def _based(self, place: int, sample: int) -> int:
        """The number of a layer's first birth."""
        base = len(self.sizes)
        self.sizes += self.records[place][sample].sizes
        return base

    def _number(self, storage: int) -> int:
        """The number of a storage that no layer makes."""
        number = self.outside[storage] = len(self.sizes)
        self.sizes.append(self.recording.sizes[storage])
        return number

    # --- the step

    def _outside(self, start: int, stop: int) -> None:
        """A stretch outside the stacks; what layers have left behind may go here, all of it, layer by layer."""
        left: list[int] = []
        for event in self._large(start, stop):
            if event < 0 and ~event in self.home:
                if left and self.home[left[0]][0] != self.home[~event][0]:
                    self._bury_all(left)
                left.append(~event)
                continue
            self._bury_all(left)
            if event >= 0:
                number = self._number(event)
                self._lines.open[self._lanes[event]].append(number)
                self._staying.append(number)
            else:
                self._end(~event)
        self._bury_all(left)

    def _layers(self, place: int, direction: int, layers: range) -> None:
        """All layers of a stack: those at once that have the same around them."""
        bases, paths, order = self.bases[place], self.paths[place], self.recording.stacks[place].order
        around = surroundings(order)
        for key, alike in groupby(layers, lambda layer: (id(paths[layer][direction]), *(around[layer] or (-layer,)))):
            first, *others = alike
            told = self._told.get(key)
            if told:
                others.insert(0, first)
            elif around[first]:
                told = self._tell(key, place, first, direction)
            else:
                self._follow(place, first, direction)
            if not told:
                for layer in others:
                    self._follow(place, layer, direction)
            elif others:
                self._again(told, [bases[layer] for layer in others])
        staying = [record.staying[direction] for record in self.records[place]]
        self._staying += [bases[layer] + number for layer in layers for number in staying[order[layer]]]

    def _tell(self, key: tuple[int, ...], place: int, layer: int, direction: int) -> Told | None:
        """The moves of a layer, and of those like it if no others than the layers near by have a part in them."""
        self._lines.cut()
        self._log, self._near = [], True
        self._follow(place, layer, direction)
        if not self._near:
            return None
        told = self._told[key] = Told(self.bases[place][layer], dict(self._lines.open), self._log)
        self._lines.cut()  # what comes behind is no part of it
        return told

    def _again(self, told: Told, bases: list[int]) -> None:
        """The moves of layers that do the same as another."""
        self._lines.repeat(told, bases)
        ended = [number + base - told.base for base in bases for number in told.ended]
        self._twice |= not self._ended.isdisjoint(ended)
        self._ended.update(ended)

    def _follow(self, place: int, layer: int, direction: int) -> None:
        base, order = self.bases[place][layer], self.recording.stacks[place].order
        for run, other in self.paths[place][layer][direction]:
            for lane, moves in run.items():
                self._lines.open[lane] += [base + move if move >= 0 else move - base for move in moves]
            if other in self.home:
                self._die(place, layer, other)
            elif other >= 0 and order[layer] not in (order[:layer] if direction else order[layer + 1 :]):
                self._end(other)  # what all layers share goes with the one that runs last

    def _die(self, place: int, layer: int, storage: int) -> None:
        """What another layer has made: the storage that really dies here is its like in the neighbour."""
        where, stack = self.home[storage], self.recording.stacks[place]
        home, sample, _ = where
        order, away = stack.order, sample - stack.order[layer]
        if home != place:
            self._near = False
            self._bury(storage, self._latest(where))
        elif storage in stack.shared:
            if layer <= order.index(order[layer]):
                self._bury(storage, order.index(sample))
        elif abs(away) > 1:
            self._die_afar(where, layer, storage, away)
        else:
            self._die_beside(where, layer, storage)

    def _latest(self, where: Where) -> int:
        """The layer that was the last to run of those that a record stands for."""
        place, sample, direction = where
        order = self.recording.stacks[place].order
        return order.index(sample) if direction else len(order) - 1 - order[::-1].index(sample)

    def _die_afar(self, where: Where, layer: int, storage: int, away: int) -> None:
        """What a layer has made that is not the next: buffers go so many records on, others as far as where both are recorded."""
        place, sample, _ = where
        order = self.recording.stacks[place].order
        self._near &= abs(away) <= NEAR
        if storage in self.recording.buffers and self._die_at(where, layer + away, storage):
            return
        like = layer + (made := order.index(sample)) - order.index(order[layer])
        there = like in range(len(order)) and order[like] == sample
        self._near &= there and abs(like - layer) <= NEAR
        if there or not self._die_at(where, like, storage):
            self._bury(storage, like if there else made)

    def _die_at(self, where: Where, layer: int, storage: int) -> bool:
        """What a layer has made that has the mark of this one, if there is any."""
        place, _, direction = where
        if layer not in range(len(self.bases[place])):
            return False
        sample = self.recording.stacks[place].order[layer]
        like = self._marks((place, sample, direction)).storages.get(self._marks(where).of[storage])
        if like is not None:
            self._bury(like, layer)
        return like is not None

    def _die_beside(self, where: Where, layer: int, storage: int) -> None:
        """What the next layer has made: of layers in turn with others, the next that has its like."""
        place, sample, _ = where
        order = self.recording.stacks[place].order
        away = sample - order[layer]
        for other in range(layer + away, len(order) if away > 0 else -1, away) if away else (layer,):
            if self._die_at(where, other, storage):
                self._near &= abs(other - layer) <= NEAR
                return
        self._near = False

    def _bury_all(self, storages: list[int]) -> None:
        """The deaths of what the layers of a stack have made, whichever they are, one layer after the other."""
        if storages:
            for layer in range(len(self.bases[self.home[storages[0]][0]])):
                for storage in storages:
                    self._bury(storage, layer)
            storages.clear()

    def _bury(self, storage: int, layer: int) -> None:
        """The death of what a layer has made, if it is one that has."""
        place, sample, _ = self.home[storage]
        if self.recording.stacks[place].order[layer] == sample:
            record = self.records[place][sample]
            self._twice |= storage in record.gone
            self._let_go(storage, self.bases[place][layer] + record.numbers[storage])

    def _end(self, storage: int) -> None:
        """The death of what no layer has made."""
        if storage == 1 and self.recording.outputs >= 0:
            self._cleared, self._near = self._lines.mark(), False
        number = self.outside.get(storage)
        if number is not None:
            self._let_go(storage, number)

    def _let_go(self, storage: int, number: int) -> None:
        self._log.append(number)
        self._lines.open[self._lanes[storage]].append(~number)
        self._twice |= number in self._ended
        self._ended.add(number)
