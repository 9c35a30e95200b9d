"""What buckets make of layers that are alike, found once: it depends on what waits in them and whose partition that is in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from memcalc.sharding.flat import Flat, Piece

MadeT = TypeVar("MadeT")


class Resumed(Protocol):
    """Buckets that can be put into a state that was found before (memcalc.sharding.buckets.Reducer)."""

    flat: Flat
    rank: int
    bucket: list[Piece]

    @property
    def flags(self) -> tuple[int, ...]:
        """What decides beside what waits in the bucket."""

    @property
    def totals(self) -> tuple[int, int]:
        """Bytes that have been added up."""

    def waiting(self, base: int) -> tuple[tuple[int, int], ...]:
        """What waits in the bucket: where it begins as seen from `base`, and its elements."""

    def resume(
        self, base: int, waiting: Iterable[tuple[int, int]], flags: Iterable[int], added: tuple[int, int]
    ) -> None:
        """As it was with that bucket and those flags; so much is added to its totals."""


class Repeats(Generic[MadeT]):
    """What a reducer has made of the parameters of a layer, for the next ones that find it in the same state."""

    def __init__(self, reducer: Resumed) -> None:
        self.reducer = reducer
        self._known: dict[Hashable, tuple[MadeT, tuple[tuple[int, int], ...], tuple[int, ...], tuple[int, int]]] = {}

    def of(self, kind: Hashable, pieces: Sequence[Piece], make: Callable[[], MadeT]) -> MadeT:
        """What is made of these parameters, a layer's of that `kind`; the reducer is left as if it had made it."""
        reducer = self.reducer
        key = self._key(kind, pieces)
        if key is None:
            return make()
        found, base = self._known.get(key), pieces[0].start
        if found is None:
            kept, lasting = reducer.totals
            made = make()
            added = reducer.totals[0] - kept, reducer.totals[1] - lasting
            self._known[key] = made, reducer.waiting(base), reducer.flags, added
            return made
        made, waiting, flags, added = found
        reducer.resume(base, waiting, flags, added)
        return made

    def _key(self, kind: Hashable, pieces: Sequence[Piece]) -> Hashable:
        """What decides; None where parameters of several partitions meet, as they do in few layers."""
        reducer = self.reducer
        if not pieces:
            return None
        base, size, there = pieces[0].start, reducer.flat.partition, [*reducer.bucket, *pieces]
        rank = min(there).start // size
        if max([start + elements for start, elements in there]) > (rank + 1) * size:
            return None
        own = tuple([(start - base, elements) for start, elements in pieces])
        return kind, rank == reducer.rank, own, reducer.waiting(base), reducer.flags
