"""The record of a layer as births and deaths of numbered blocks, for every layer like it."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TypeAlias

Lane: TypeAlias = int  # where blocks meet: twice the number of a stream, and one more where the requests are large
Run: TypeAlias = "dict[Lane, list[int]]"  # of moves
Path: TypeAlias = "list[tuple[Run, int]]"  # runs, each up to the death of what another has made (-1: none)


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
            if storage in numbers:
                run[lanes[storage]].append(numbers[storage] if event >= 0 else ~numbers[storage])
            else:
                found.append((run, storage))
                run = defaultdict(list)
        return [*found, (run, -1)]

    @property
    def moves(self) -> int:
        """How many there are."""
        return sum(map(len, self.slices))
