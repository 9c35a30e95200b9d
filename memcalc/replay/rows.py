"""Moves of like layers in a row, followed at once where some of them show what all behind them do.

They do where they leave what waits as it was, but for more or fewer of like segments in one piece, of which there were
enough whenever one was asked for, and where what they end and leave are such segments too: which of these a block is
matters to nobody, and nothing else can tell the next layers from these.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from memcalc.replay.allocator import Pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcalc.replay.allocator import Block, CachingAllocator
    from memcalc.replay.records import Lane, Run, Told

Waiting: TypeAlias = "dict[int, int | list[bool]]"  # by size

MANY = 48  # layers in a row, beyond which it is worth a look


class Shown(NamedTuple):
    """What some layers do: what waits `before` them and `behind` them, by size, and what births take; `reserved` bytes are new.

    Of what waits in a size it tells how many there are, where all are segments in one piece, or else which of them are. Of a
    birth it tells its size and that of the block it takes: negative where this is a part of a segment, 0 where it is new.
    """

    before: Waiting
    behind: Waiting
    taken: list[tuple[int, int]]
    reserved: int

    @property
    def change(self) -> dict[int, tuple[int, int]] | None:
        """Segments that wait behind them and how many more that are, by size; None if more changes, or comes of a want of them."""
        found = {}
        for size in self.before.keys() | self.behind.keys():
            before, behind = self.before.get(size, 0), self.behind.get(size, 0)
            if before != behind:
                if isinstance(before, list) or isinstance(behind, list) or self._other(size):
                    return None
                found[size] = behind, behind - before
        return found

    def _other(self, size: int) -> bool:
        """Whether a birth takes something larger than what may wait in a size, or a part of a segment of that size."""
        return any(asked <= size and not 0 < abs(given) < size and given != size for asked, given in self.taken)

    def lasting(self, change: dict[int, tuple[int, int]]) -> list[int]:
        """How often the same may come again until what waits in a size gives out."""
        given = [size for _, size in self.taken]
        return [(wait - given.count(size)) // -more for size, (wait, more) in change.items() if more < 0]


class Row:
    """The moves of a layer and of those like it, `times` in all, their numbers `step` further each time; `sizes` of all births."""

    def __init__(self, moves: list[int], sizes: Sequence[int], times: int = 1, step: int = 0) -> None:
        self.moves, self.sizes, self.times, self.step = moves, sizes, times, step

    @cached_property
    def all(self) -> list[int]:
        """The moves of all layers."""
        return self.part(range(self.times))

    def part(self, layers: range) -> list[int]:
        """The moves of some layers."""
        if self.times == 1:
            return self.moves
        moves, ways = self.moves, [layer * self.step for layer in layers]
        return [move + way if move >= 0 else move - way for way in ways for move in moves]

    def without(self, gone: set[int]) -> Row:
        """The same but for some moves."""
        return self if gone.isdisjoint(self.all) else Row([move for move in self.all if move not in gone], self.sizes)

    @cached_property
    def made(self) -> list[int]:
        """The births of the first layer that stay."""
        gone = {~move for move in self.moves if move < 0}
        return [move for move in self.moves if move >= 0 and move not in gone]

    @cached_property
    def ended(self) -> list[int]:
        """The births of others that the first layer ends."""
        made = {move for move in self.moves if move >= 0}
        return [~move for move in self.moves if move < 0 and ~move not in made]

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
                if row.times > MANY and pool.__class__ is Pool:
                    _in_turn(pool, row, alive)
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
        return {lane: list(chain.from_iterable(row.all for row in rows)) for lane, rows in self.rows.items()}

    def streams(self, *, once: bool) -> dict[int, Stream]:
        """The rows of each stream; `once` if of the deaths of a birth the first alone counts."""
        self.cut()
        rows: dict[Lane, list[Row]] = self.rows
        if once:
            rows = {lane: [Row(list(dict.fromkeys(moves)), self.sizes)] for lane, moves in self.flat().items()}
        found = dict.fromkeys((0, *(lane // 2 for lane in rows)))
        return {stream: Stream(rows.get(2 * stream, []), rows.get(2 * stream + 1, [])) for stream in found}


def _in_turn(pool: Pool, row: Row, alive: list[Block]) -> None:
    """A look at some layers, unless they show at once that it is of no use, and as many behind them; then at twice as many."""
    at, few = 0, 1
    while at < row.times:
        if at + 2 * few <= row.times and _hopeful(pool, row, at, alive):
            at = _at_once(pool, row, at, few, alive)
        layers = range(at, min(at + few, row.times))
        pool.follow(row.part(layers), row.sizes, alive)
        at, few = layers.stop, 2 * few


def _at_once(pool: Pool, row: Row, at: int, few: int, alive: list[Block]) -> int:
    """So many layers, and those behind them that do the same; the layer that comes next."""
    look = range(at, at + few)
    shown = _watched(pool, row.part(look), row.sizes, alive)
    change = shown.change
    if change is None or not _apart(pool, row, row.made + row.ended, look, alive):
        return look.stop
    times = min([(row.times - look.stop) // few, *shown.lasting(change)])
    layers = range(look.stop, look.stop + few * times)
    if not layers or not _laid(row, look, layers, alive):
        return look.stop
    pool.reserved += times * shown.reserved
    for size, (_, more) in change.items():
        pool.lay(size, max(times * more, 0))
        del pool.waiting[size][: max(-times * more, 0)]
    return layers.stop


def _watched(pool: Pool, moves: list[int], sizes: Sequence[int], alive: list[Block]) -> Shown:
    """Follow layers and see what they do."""
    before, reserved = _waiting(pool), pool.reserved
    taken = []
    for move in moves:
        if move >= 0:
            known = pool.reserved
            alive[move] = block = pool.take(sizes[move])
            rest = block.behind
            size, behind = (block.size + rest.size, rest.behind) if rest.free else (block.size, rest)
            taken.append((sizes[move], 0 if pool.reserved > known else size if block.before is behind else -size))
        else:
            pool.give(alive[~move])
    return Shown(before, _waiting(pool), taken, pool.reserved - reserved)


def _waiting(pool: Pool) -> Waiting:
    """What waits: how many blocks of a size, where all are segments in one piece, or else which of them are."""
    found: Waiting = {}
    for size, blocks in pool.waiting.items():
        if blocks:
            whole = pool.wholes[size]
            count = blocks.count(whole)
            found[size] = count if count == len(blocks) else [block is whole for block in blocks]
    return found


def _hopeful(pool: Pool, row: Row, at: int, alive: list[Block]) -> bool:
    """Whether what the layer before has left and what the next one ends are segments in one piece."""
    left = not at or _apart(pool, row, row.made, range(at - 1, at), alive)
    return left and _apart(pool, row, row.ended, range(at, at + 1), alive)


def _apart(pool: Pool, row: Row, births: list[int], layers: range, alive: list[Block]) -> bool:
    """Whether births of a layer and its like have segments in one piece, like ones for each."""
    for birth in births:
        blocks = alive[row.of(birth, layers)]
        if pool.wholes.get(blocks[0].size) is not blocks[0] or blocks.count(blocks[0]) < len(blocks):
            return False
    return True


def _laid(row: Row, look: range, layers: range, alive: list[Block]) -> bool:
    """Put down what layers leave, as those that have shown it; whether they end what these have ended."""
    for birth in row.made:
        alive[row.of(birth, layers)] = [alive[birth + look[0] * row.step]] * len(layers)
    return all(
        alive[row.of(birth, layers)].count(alive[birth + look[0] * row.step]) == len(layers) for birth in row.ended
    )
