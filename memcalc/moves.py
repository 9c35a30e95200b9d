"""A training step as births and deaths of numbered blocks, the record of a layer in the place of every layer like it.

Of a model with many layers, those between the ends of a stack are followed without what they let go of at once: what it
takes the others have shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcalc.allocator import SMALL, Parted
from memcalc.records import Record

if TYPE_CHECKING:
    from memcalc.records import Lane, Path
    from memcalc.tape.recorder import Layers
    from memcalc.tape.step import Recording

MOVES = 10_000  # that a step should not have many more of: most are followed whole
EDGE = 2  # layers at each end of a stack that are followed whole in any case


class Home(NamedTuple):
    """Where a storage of a layer is made: in which record of which stack, its number there, and which of its like it is."""

    place: int
    sample: int
    direction: int
    number: int
    mark: tuple[int, int]


class Moves:
    """All moves of a step up to the optimizer's, and the sizes of all births.

    Storages of at most `floor` bytes are left out.

    * `streams` has the moves of each stream, small and large ones apart; the modules' own is 0.
    * `left` are the births that nothing has ended, the last first: so gradients go in the order of their parameters.
    * `before` and `outputs` are the numbers of the step before's outputs and of this one's; -1 where nobody holds them.
    """

    def __init__(self, recording: Recording, floor: int) -> None:
        self.recording, self.floor = recording, floor
        self.sizes: list[int] = []
        self.lanes: list[Lane] = []  # of all births
        self._lanes = [
            (recording.streams.get(storage, 0), size > SMALL) for storage, size in enumerate(recording.sizes)
        ]
        self.outside: dict[int, int] = {}  # numbers of storages that no layer makes
        self.home: dict[int, Home] = {}
        self.like: dict[tuple[int, int, int], dict[tuple[int, int], int]] = {}  # a slice's storages by their marks
        self.records = [
            [self._record(place, stack, sample) for sample in range(len(stack.events) - 1)]
            for place, stack in enumerate(recording.stacks)
        ]
        self.paths = [
            _chosen(stack.order, records, MOVES // len(recording.stacks))
            for stack, records in zip(recording.stacks, self.records, strict=True)
        ]
        self.bases = [
            [self._based(place, sample) for sample in stack.order] for place, stack in enumerate(recording.stacks)
        ]
        self._moves: dict[Lane, list[int]] = {}
        self._staying: list[int] = []  # births that no path of their own layer ends
        self._ended: set[int] = set()  # by others
        self._twice = False  # whether several let go of the same
        self._run()
        self.outputs = self.outside.get(recording.outputs, -1)
        self.before = self.outside.get(0, -1) if recording.outputs >= 0 else -1
        self.left = [number for number in reversed(self._staying) if number not in self._ended]
        self.streams = self._parted()

    def _run(self) -> None:
        recording, at = self.recording, 0
        if recording.outputs >= 0:  # the first storage is the outputs of the step before: they are there already
            self._number(0)
            at = 1
        for place, stack in enumerate(recording.stacks):
            self._outside(at, stack.events[0])
            for layer in range(len(stack.order)):
                self._layer(place, layer, 0)
            at = stack.events[-1]
        for place, stack in reversed(list(enumerate(recording.stacks))):
            self._outside(at, stack.returns[0])
            for layer in reversed(range(len(stack.order))):
                self._layer(place, layer, 1)
            at = stack.returns[-1]
        self._outside(at, recording.end)

    def _parted(self) -> dict[int, Parted]:
        """The moves of each stream; of what several layers let go of, the first death counts."""
        found = self._moves
        if self._twice:
            found = {lane: list(dict.fromkeys(moves)) for lane, moves in found.items()}
        streams = dict.fromkeys((0, *(stream for stream, _ in found)))
        return {stream: Parted(*(found.get((stream, large), []) for large in (False, True))) for stream in streams}

    # --- records of layers

    def _record(self, place: int, stack: Layers, sample: int) -> Record:
        back, record = stack.returns[::-1], Record()
        bounds = ((stack.events[sample], stack.events[sample + 1]), (back[sample + 1], back[sample]))
        sizes, lanes = self.recording.sizes, self._lanes
        for direction, (start, stop) in enumerate(bounds):
            born = record.add(self._large(start, stop))
            record.sizes += [sizes[storage] for storage in born]
            record.lanes += [lanes[storage] for storage in born]
            self._settle(record, (place, sample, direction), born)
        record.walk()
        return record

    def _settle(self, record: Record, where: tuple[int, int, int], born: list[int]) -> None:
        """Find out what another slice takes over of what this one has made."""
        sizes, gradients = self.recording.sizes, self.recording.gradients
        marks = self.like[where] = {}
        seen: dict[int, int] = {}
        for storage in reversed(born):
            if storage in record.passing:
                continue
            size = sizes[storage]
            mark = (size, seen.get(size, 0))
            self.home[storage] = Home(*where, record.numbers[storage], mark)
            marks[mark] = storage
            seen[size] = mark[1] + (storage not in gradients)

    def _large(self, start: int, stop: int) -> list[int]:
        """A stretch of the log, without what is negligible."""
        sizes, floor = self.recording.sizes, self.floor
        events = self.recording.events[start:stop]
        if not floor:
            return events
        return [event for event in events if sizes[event if event >= 0 else ~event] > floor]

    def _based(self, place: int, sample: int) -> int:
        """The number of a layer's first birth."""
        base, record = len(self.sizes), self.records[place][sample]
        self.sizes += record.sizes
        self.lanes += record.lanes
        return base

    def _number(self, storage: int) -> int:
        """The number of a storage that no layer makes."""
        number = self.outside[storage] = len(self.sizes)
        self.sizes.append(self.recording.sizes[storage])
        self.lanes.append(self._lanes[storage])
        return number

    # --- the step

    def _outside(self, start: int, stop: int) -> None:
        """A stretch outside the stacks; what layers have left behind may go here, all of it, layer by layer."""
        left: list[int] = []
        for event in self._large(start, stop):
            if event < 0 and ~event in self.home:
                if left and self.home[left[0]].place != self.home[~event].place:
                    self._bury_all(left)
                left.append(~event)
                continue
            self._bury_all(left)
            if event >= 0:
                self._begin(event)
            else:
                self._end(~event)
        self._bury_all(left)

    def _layer(self, place: int, layer: int, direction: int) -> None:
        base, order = self.bases[place][layer], self.recording.stacks[place].order
        for run, other in self.paths[place][layer][direction]:
            for lane, moves in run.items():
                self._moves.setdefault(lane, []).extend([base + move if move >= 0 else move - base for move in moves])
            if other in self.home:
                self._die(place, layer, other)
            elif other >= 0 and order[layer] not in (order[:layer] if direction else order[layer + 1 :]):
                self._end(other)  # what all layers share goes with the one that runs last
        self._staying += [base + number for number in self.records[place][order[layer]].staying[direction]]

    def _die(self, place: int, layer: int, storage: int) -> None:
        """What another layer has made: the storage that really dies here is its like in the neighbour."""
        home, stack = self.home[storage], self.recording.stacks[place]
        order, away = stack.order, home.sample - stack.order[layer]
        if home.place != place:
            self._bury(storage, 0)
        elif storage in stack.shared:
            if layer <= order.index(order[layer]):
                self._bury(storage, order.index(home.sample))
        elif abs(away) > 1:
            made = order.index(home.sample)
            like = layer + made - order.index(order[layer])  # as far from this layer as it was where both are recorded
            self._bury(storage, like if like in range(len(order)) and order[like] == home.sample else made)
        else:
            marks = self.like[place, order[layer + away], home.direction]
            self._bury(marks.get(home.mark, storage), layer + away)

    def _bury_all(self, storages: list[int]) -> None:
        """The deaths of what the layers of a stack have made, whichever they are, one layer after the other."""
        if storages:
            for layer in range(len(self.bases[self.home[storages[0]].place])):
                for storage in storages:
                    self._bury(storage, layer)
            storages.clear()

    def _bury(self, storage: int, layer: int) -> None:
        """The death of what a layer has made, if it is one that has."""
        home = self.home[storage]
        if self.recording.stacks[home.place].order[layer] == home.sample:
            self._twice |= home.number in self.records[home.place][home.sample].ended
            self._let_go(self.bases[home.place][layer] + home.number)

    def _begin(self, storage: int) -> None:
        """The birth of what no layer makes."""
        number = self._number(storage)
        self._moves.setdefault(self.lanes[number], []).append(number)
        self._staying.append(number)

    def _end(self, storage: int) -> None:
        """The death of what no layer has made."""
        number = self.outside.get(storage)
        if number is not None:
            self._let_go(number)

    def _let_go(self, number: int) -> None:
        self._moves.setdefault(self.lanes[number], []).append(~number)
        self._twice |= number in self._ended
        self._ended.add(number)


def _chosen(order: list[int], records: list[Record], most: int) -> list[list[Path]]:
    """For each layer its paths, whole or lean."""
    lengths = [record.moves for record in records]
    if sum(lengths[sample] for sample in order) <= most:
        return [records[sample].paths for sample in order]
    for record in records:
        record.thin()
    whole = followed([(lengths[sample], 2 * len(records[sample].brief)) for sample in order], most)
    return [
        records[sample].paths if all_of else records[sample].lean for sample, all_of in zip(order, whole, strict=True)
    ]


def followed(layers: list[tuple[int, int]], most: int) -> list[bool]:
    """Which layers are followed whole, so that there are `most` moves; given of each its moves and those that pass.

    Those at both ends, and of the others as many as may be, spread evenly.
    """
    between = range(EDGE, len(layers) - EDGE)
    passing = sum(layers[number][1] for number in between)
    spare = max(most - sum(moves for moves, _ in layers) + passing, 0)
    return [
        number not in between or (number + 1) * spare // passing > number * spare // passing if passing else True
        for number in range(len(layers))
    ]
