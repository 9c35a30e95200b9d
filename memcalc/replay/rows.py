"""Moves of like layers in a row, followed at once where whole segments alone serve them.

Which of several like segments a block is matters to nobody, so that numbers tell all there is to know of them.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from memcalc.replay.allocator import SMALL, Pool, segment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcalc.replay.allocator import Block, CachingAllocator
    from memcalc.replay.records import Lane, Run, Told

MANY = 48  # layers in a row, beyond which it is worth a look
FEW = 4  # layers followed one by one before another look at those behind them; then twice as many


class Asked:
    """Requests in a layer that segments of one size are for, and whether any block comes `back`.

    `smallest` is the least of them, `more` how many there are at its end beyond those when it begins, `most` at the most.
    """

    __slots__ = ("back", "more", "most", "smallest")

    def __init__(self) -> None:
        self.smallest, self.most, self.more, self.back = 2**62, 0, 0, False

    def born(self, size: int) -> None:
        """One more."""
        self.smallest = min(self.smallest, size)
        self.more += 1
        self.most = max(self.most, self.more)

    def died(self) -> None:
        """One less."""
        self.more -= 1
        self.back = True

    def waiting(self, times: int) -> int:
        """How many segments must wait for so many stretches of moves."""
        return self.most + max((times - 1) * self.more, 0)

    def times(self, waiting: int) -> int:
        """How many stretches of moves so many segments are enough for, where each takes some for good."""
        return (waiting - self.most) // self.more + 1 if self.more > 0 and self.most <= waiting else 0


class Needs(NamedTuple):
    """What the moves of a layer ask of whole segments, by the size of these: what of them waits for how many layers.

    `made` are the births that stay, `ended` those of others that end here, with the sizes of their segments.
    """

    asked: dict[int, Asked]
    made: dict[int, int]
    ended: dict[int, int]


class Row:
    """The moves of a layer and of those like it, `times` in all, their numbers `step` further each time; `sizes` of all births."""

    def __init__(self, moves: list[int], sizes: Sequence[int], times: int = 1, step: int = 0) -> None:
        self.moves, self.sizes, self.times, self.step = moves, sizes, times, step

    @cached_property
    def all(self) -> list[int]:
        """The moves of all layers."""
        moves, step = self.moves, self.step
        if self.times == 1:
            return moves
        ways = [way * step for way in range(self.times)]
        return [move + way if move >= 0 else move - way for way in ways for move in moves]

    def without(self, gone: set[int]) -> Row:
        """The same but for some moves."""
        return self if gone.isdisjoint(self.all) else Row([move for move in self.all if move not in gone], self.sizes)

    @cached_property
    def needs(self) -> Needs | None:
        """What a layer needs; None where not all segments are given whole."""
        births = [move if move >= 0 else ~move for move in self.moves]
        given = {size: given_whole(size) for size in {self.sizes[birth] for birth in births}}
        if not all(given.values()):
            return None
        needs = Needs({}, {}, {})
        for move, birth in zip(self.moves, births, strict=True):
            size = self.sizes[birth]
            asked = needs.asked.setdefault(given[size], Asked())
            if move >= 0:
                asked.born(size)
                needs.made[birth] = given[size]
            else:
                asked.died()
                if not needs.made.pop(birth, 0):
                    needs.ended[birth] = given[size]
        return needs

    def of(self, birth: int, layers: range) -> slice:
        """A birth in the first layer, as it is in others."""
        ends = birth + layers[0] * self.step, birth + layers[-1] * self.step
        return slice(min(ends), max(ends) + 1, abs(self.step))


class Stream(NamedTuple):
    """The moves of a stream, small requests and large ones: they never meet."""

    small: Sequence[Row]
    large: Sequence[Row]

    def without(self, gone: set[int]) -> Stream:
        """The same but for some moves."""
        return Stream(*([row.without(gone) for row in rows] for rows in self))

    def follow(self, allocator: CachingAllocator, alive: list[Block]) -> None:
        """Births and deaths in turn: n for the birth of `alive[n]`, ~n for its death."""
        for pool, rows in ((allocator.small, self.small), (allocator.large, self.large)):
            for row in rows:
                needs = row.needs if row.times > MANY and pool.__class__ is Pool and pool.least else None
                if needs:
                    _in_turn(pool, row, needs, alive)
                else:
                    pool.follow(row.all, row.sizes, alive)


class Lines:
    """The moves of each lane so far: rows, and what has come since the last of them; `sizes` of all births."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.rows: defaultdict[Lane, list[Row]] = defaultdict(list)
        self.open: Run = defaultdict(list)

    def cut(self) -> None:
        """The rows end here."""
        for lane, moves in self.open.items():
            self.rows[lane].append(Row(moves, self.sizes))
        self.open.clear()

    def mark(self) -> tuple[list[int], list[int]]:
        """Rows for moves that are to come here: small ones, and large ones."""
        self.cut()
        here: tuple[list[int], list[int]] = [], []
        for lane, moves in enumerate(here):
            self.rows[lane].append(Row(moves, self.sizes))
        return here

    def repeat(self, told: Told, bases: Sequence[int]) -> None:
        """The moves of layers that do the same as another: those with these first births."""
        away, step = bases[0] - told.base, bases[1] - bases[0] if len(bases) > 1 else 0
        self.cut()
        for lane, moves in told.runs.items():
            first = [move + away if move >= 0 else move - away for move in moves] if away else moves
            self.rows[lane].append(Row(first, self.sizes, len(bases), step))

    def flat(self) -> dict[Lane, list[int]]:
        """All moves of each lane."""
        self.cut()
        return {lane: [move for row in rows for move in row.all] for lane, rows in self.rows.items()}

    def streams(self, *, once: bool) -> dict[int, Stream]:
        """The rows of each stream; `once` if of the deaths of a birth the first alone counts."""
        self.cut()
        rows: dict[Lane, list[Row]] = self.rows
        if once:
            rows = {lane: [Row(list(dict.fromkeys(moves)), self.sizes)] for lane, moves in self.flat().items()}
        found = dict.fromkeys((0, *(lane // 2 for lane in rows)))
        return {stream: Stream(rows.get(2 * stream, []), rows.get(2 * stream + 1, [])) for stream in found}


def given_whole(size: int) -> int:
    """Bytes of a segment that a large request is given whole; 0 where so much is left that it is split."""
    taken = segment(size)
    return taken if size > SMALL and taken - size <= SMALL else 0


def _in_turn(pool: Pool, row: Row, needs: Needs, alive: list[Block]) -> None:
    """One layer after the other, but for those that can be followed at once."""
    length, at, few = len(row.moves), 0, FEW
    while at < row.times:
        times = _served(pool, needs.asked, row.times - at)
        if times and _at_once(pool, row, needs, range(at, at + times), alive):
            _serve(pool, needs.asked, times)
        else:
            times, few = min(few, row.times - at), 2 * few
            pool.follow(row.all[at * length : (at + times) * length], row.sizes, alive)
        at += times


def _served(pool: Pool, asked: dict[int, Asked], times: int) -> int:
    """How many of so many layers nothing but whole segments serves: those that wait, or new ones where nothing else fits."""
    waiting = pool.waiting
    free = {size for size in pool.sizes if waiting[size]}.union(size for size in asked if asked[size].back)
    for size, own in asked.items():
        alike = waiting.get(size, [])
        others = [other for other in free if own.smallest <= other != size]
        if (others and min(others) < size) or alike.count(pool.wholes[size]) < len(alike):
            return 0
        if others and own.waiting(times) > len(alike):
            times = own.times(len(alike))
    return times


def _at_once(pool: Pool, row: Row, needs: Needs, layers: range, alive: list[Block]) -> bool:
    """Put down what layers leave; whether what they end are whole segments."""
    for birth, size in needs.made.items():
        alive[row.of(birth, layers)] = [pool.wholes[size]] * len(layers)
    return all(
        alive[row.of(birth, layers)].count(pool.wholes[size]) == len(layers) for birth, size in needs.ended.items()
    )


def _serve(pool: Pool, asked: dict[int, Asked], times: int) -> None:
    """Let so many layers come that whole segments serve."""
    for size, own in asked.items():
        count = len(pool.waiting.get(size, ()))
        new = max(own.waiting(times) - count, 0)
        pool.reserved += new * size
        pool.lay(size, 0)
        pool.waiting[size] = [pool.wholes[size]] * (count + new - times * own.more)
