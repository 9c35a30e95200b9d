"""Overlay: bytes that come and go beside the log of a tape, in the order of the real step rather than of its record.

The tape records a layer once where many are alike. What a strategy does by counting elements over the whole model
(buckets that fill across layers, a window of gathered parameters) is different in each layer: it lies over the schedule
of the real step, slice by slice.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from operator import add
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcalc.tape.laid import Laid, Overlay, Part
    from memcalc.timeline.slices import Slice


class Heights:
    """How high stretches of a log rise: each slice cut at given places, looked at once for all like it."""

    def __init__(self, signed: list[int]) -> None:
        self.signed = signed
        self._cut: dict[tuple[Slice, tuple[int, ...]], tuple[list[int], int]] = {}

    def cut(self, piece: Slice, places: tuple[int, ...]) -> tuple[list[int], int]:
        """(the highest of each stretch between the places, above where the slice begins; where the slice ends)."""
        known = self._cut.get((piece, places))
        if known is None:
            path, start = [0, *accumulate(self.signed[piece.start : piece.stop])], piece.start
            bounds = [start, *places, piece.stop]
            tops = [max(path[a - start : b - start + 1]) if b > a else path[a - start] for a, b in pairwise(bounds)]
            known = self._cut[piece, places] = tops, path[-1]
        return known

    def over(self, piece: Slice, laid: Sequence[Laid]) -> tuple[int, int]:
        """(the highest, the end) of a slice with what is laid over it, above where both begin."""
        tops, end = self.cut(piece, tuple([item.at for item in laid]))
        extra = list(accumulate([item.nbytes for item in laid], initial=0))
        return max(0, *map(add, tops, extra)), end + extra[-1]

    def peak(self, piece: Slice, laid: Sequence[Laid]) -> tuple[int, int]:
        """(events of the log, items laid) that are behind where a slice is at its highest."""
        tops, _ = self.cut(piece, tuple([item.at for item in laid]))
        extra, best, number = 0, tops[0], 0
        for index, item in enumerate(laid):
            extra += item.nbytes
            if tops[index + 1] + extra > best:
                best, number = tops[index + 1] + extra, index + 1
        first = laid[number - 1].at if number else piece.start
        last = laid[number].at if number < len(laid) else piece.stop
        path = [0, *accumulate(self.signed[piece.start : last])]
        stretch = path[first - piece.start : last - piece.start + 1]
        return first + stretch.index(max(stretch)), number


def spread(signed: Sequence[int], piece: Slice, laid: Sequence[Laid]) -> list[int]:
    """The signed bytes of a slice with those laid over it put in."""
    made: list[int] = []
    at = piece.start
    for item in laid:
        made += signed[at : item.at]
        made.append(item.nbytes)
        at = item.at
    return [*made, *signed[at : piece.stop]]


def alike(overlay: Overlay) -> Overlay:
    """The same where slices that have equal items have the very same: what follows from these is found once."""
    known: dict[tuple[Laid, ...], Sequence[Laid]] = {}
    return {number: known.setdefault(tuple(laid), laid) for number, laid in overlay.items()}


def alone(overlay: Overlay, slices: int) -> list[tuple[int, int]]:
    """For each of so many slices: (the highest, the end) of all that is laid so far, without the log beneath."""
    live, levels, known = 0, [], dict[int, tuple[int, int]]()
    for number in range(slices):
        laid = overlay.get(number, ())
        if id(laid) not in known:
            path = list(accumulate([item.nbytes for item in laid], initial=0))
            known[id(laid)] = max(path), path[-1]
        top, total = known[id(laid)]
        levels.append((live + top, live + total))
        live += total
    return levels


def part_of(overlay: Overlay, part: Part) -> Overlay:
    """Of all that is laid what is of one part; the same for slices that have the same."""
    alike = {id(laid): laid for laid in overlay.values()}
    found = {key: [item for item in laid if item.part == part] for key, laid in alike.items()}
    return {number: found[id(laid)] for number, laid in overlay.items()}


def highest(overlay: Overlay) -> int:
    """The most that is laid at a time."""
    live = most = 0
    for number in sorted(overlay):
        for item in overlay[number]:
            live += item.nbytes
            most = max(most, live)
    return most


def parts(laid: Sequence[Laid]) -> dict[Part, int]:
    """Bytes by part, in all."""
    found: dict[Part, int] = {}
    for item in laid:
        found[item.part] = found.get(item.part, 0) + item.nbytes
    return found


class Pool:
    """What is made and let go of on a stream of its own, for the allocator's replay."""

    def __init__(self) -> None:
        self.moves: list[int] = []
        self.alive: dict[object, int] = {}
        self.made = 0

    def birth(self, key: object, nbytes: int) -> None:
        """A block."""
        self.alive[key] = self.made
        self.made += 1
        self.moves.append(nbytes)

    def death(self, key: object) -> None:
        """It is given back, if it was there."""
        number = self.alive.pop(key, None)
        if number is not None:
            self.moves.append(~number)

    def clear(self) -> None:
        """All of them are given back."""
        self.moves += [~number for number in self.alive.values()]
        self.alive.clear()
