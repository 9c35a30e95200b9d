"""What buckets make of layers that are alike, found once: it depends on what waits in them and whose partition that is in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from memcalc.sharding.buckets import Reducer
    from memcalc.sharding.flat import Piece

MadeT = TypeVar("MadeT")


class Repeats(Generic[MadeT]):
    """What a reducer has made of the parameters of a layer, for the next ones that find it in the same state."""

    def __init__(self, reducer: Reducer) -> None:
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
            added = reducer.kept - kept, reducer.lasting - lasting
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
