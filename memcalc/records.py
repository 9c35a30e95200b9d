"""The record of a layer as births and deaths of numbered blocks, for every layer like it."""

from __future__ import annotations

from typing import TypeAlias

Lane: TypeAlias = "tuple[int, bool]"  # where blocks meet: the number of a stream, and whether the requests are large
Run: TypeAlias = "dict[Lane, list[int]]"  # of moves
Path: TypeAlias = "list[tuple[Run, int]]"  # runs, each up to the death of what another has made (-1: none)


class Record:
    """The record of a layer as moves of numbered births, forward before backward, in `paths` of the two directions.

    `passing` are the storages that go in the direction they are made in, `brief` those of them that go before anything
    is made that stays; `lean` are the paths without those. Of each direction's births, `staying` are those that neither
    path ends.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.lanes: list[Lane] = []
        self.numbers: dict[int, int] = {}  # of storages
        self.passing: set[int] = set()
        self.brief: set[int] = set()
        self.slices: list[list[int]] = []
        self.ended: set[int] = set()
        self.staying: list[list[int]] = []
        self.paths: list[Path] = []
        self.lean: list[Path] = []

    def add(self, events: list[int]) -> list[int]:
        """The births of a slice, numbered behind those before it."""
        born = [event for event in events if event >= 0]
        self.numbers.update(zip(born, range(len(self.numbers), len(self.numbers) + len(born)), strict=True))
        self.passing.update({~event for event in events}.intersection(born))
        self.slices.append(events)
        return born

    def walk(self) -> None:
        """Find the paths, now that all storages are numbered."""
        numbers = self.numbers
        self.paths = [self._path(events) for events in self.slices]
        self.ended = {numbers[~event] for events in self.slices for event in events if ~event in numbers}
        self.staying = [
            [numbers[event] for event in events if event >= 0 and numbers[event] not in self.ended]
            for events in self.slices
        ]

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
        run: Run = {}
        numbers, lanes = self.numbers, self.lanes
        for event in events:
            number = numbers.get(event if event >= 0 else ~event)
            if number is None:
                found.append((run, ~event))
                run = {}
            else:
                run.setdefault(lanes[number], []).append(number if event >= 0 else ~number)
        return [*found, (run, -1)]

    @property
    def moves(self) -> int:
        """How many there are."""
        return sum(map(len, self.slices))
