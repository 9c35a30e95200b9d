"""The record of a layer as births and deaths of numbered blocks, for every layer like it."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from memcalc.tape.values import SMALL

if TYPE_CHECKING:
    from memcalc.tape.step import Recording

EDGE = 2  # layers at each end of a stack that are followed whole in any case
NEAR = 3  # layers to either side that one's moves may be told by

Lane: TypeAlias = int  # where blocks meet: twice the number of a stream, and one more where the requests are large
Run: TypeAlias = "dict[Lane, list[int]]"  # of moves
Path: TypeAlias = "list[tuple[Run, int]]"  # runs, each up to the death of what another has made (-1: none)
Where: TypeAlias = "tuple[int, int, int]"  # a layer's record: which stack, which record of it, forward (0) or backward
Mark: TypeAlias = "tuple[int, bool, int]"  # of what a layer leaves: size, if a gradient, how many like it come behind


class Marks(NamedTuple):
    """What the record of a layer leaves in one direction: the mark of each storage, and the storage of each mark."""

    of: dict[int, Mark]
    storages: dict[Mark, int]


class Told(NamedTuple):
    """The moves of a layer whose first birth has the number `base`, by lane, and the births of others that they end."""

    base: int
    runs: dict[Lane, list[int]]
    ended: list[int]


class Record:
    """The record of a layer as moves of numbered births, forward before backward, in `paths` of the two directions.

    `numbers` are those of the storages made here, `lanes` tell of all storages where their moves go. `passing` are the
    storages that go in the direction they are made in, `brief` those of them that go before anything is made that stays;
    `lean` are the paths without those. `gone` are the storages that go here, whoever has made them.
    """

    def __init__(self, lanes: list[Lane]) -> None:
        self.lanes = lanes
        self.sizes: list[int] = []
        self.numbers: dict[int, int] = {}
        self.passing: set[int] = set()
        self.brief: set[int] = set()
        self.gone: set[int] = set()
        self.slices: list[list[int]] = []
        self.paths: list[Path] = []
        self.lean: list[Path] = []

    def add(self, events: list[int]) -> list[int]:
        """One direction; what is made in it and stays."""
        born, gone = [event for event in events if event >= 0], {~event for event in events if event < 0}
        self.numbers.update(zip(born, range(len(self.numbers), len(self.numbers) + len(born)), strict=True))
        self.passing.update(gone.intersection(born))
        self.gone |= gone
        self.slices.append(events)
        self.paths.append(self._path(events))
        return [storage for storage in born if storage not in gone]

    @cached_property
    def staying(self) -> list[list[int]]:
        """The births of each direction that neither path ends."""
        numbers, gone = self.numbers, self.gone
        return [[numbers[event] for event in events if event >= 0 and event not in gone] for events in self.slices]

    def thin(self) -> None:
        """Find the paths without what is brief."""
        for events in self.slices:
            self._time(events)
        brief = self.brief
        self.lean = [
            self._path([event for event in events if (event if event >= 0 else ~event) not in brief])
            for events in self.slices
        ]

    def _time(self, events: list[int]) -> None:
        """Find out what of a slice is brief."""
        stays, since = 0, dict[int, int]()
        for event in events:
            if event in self.passing:
                since[event] = stays
            elif event >= 0:
                stays += 1
            elif since.get(~event) == stays:
                self.brief.add(~event)

    def _path(self, events: list[int]) -> Path:
        found: Path = []
        run: Run = defaultdict(list)
        numbers, lanes = self.numbers, self.lanes
        for event in events:
            storage = event if event >= 0 else ~event
            number = numbers.get(storage)
            if number is None:
                found.append((run, storage))
                run = defaultdict(list)
            else:
                run[lanes[storage]].append(number if event >= 0 else ~number)
        return [*found, (run, -1)]

    @property
    def moves(self) -> int:
        """How many there are."""
        return sum(map(len, self.slices))


def lanes(recording: Recording) -> list[Lane]:
    """The lane of each storage; pieces that lie side by side are small, however many they are."""
    streams = recording.streams
    found: list[Lane] = [size > SMALL for size in recording.sizes]
    for storage in recording.pieces:
        found[storage] = 0
    return [2 * streams.get(storage, 0) + lane for storage, lane in enumerate(found)] if streams else found


def chosen(order: list[int], records: list[Record], most: int) -> list[list[Path]]:
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


def surroundings(order: list[int]) -> list[tuple[int, ...]]:
    """The records of the layers near by; none for layers near the ends, and for the first and the last of each record."""
    last = dict(zip(order, range(len(order)), strict=True))
    first = dict(zip(reversed(order), reversed(range(len(order))), strict=True))
    mid = frozenset(range(NEAR, len(order) - NEAR)).difference(first.values(), last.values())
    return [tuple(order[layer - NEAR : layer + NEAR + 1]) if layer in mid else () for layer in range(len(order))]
