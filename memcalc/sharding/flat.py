"""Parameters one after the other in a flat buffer, cut into as many partitions as there are ranks.

Source: DeepSpeed 0.19.8, runtime/zero/stage_1_and_2.py (flatten_dense_tensors_aligned, get_data_parallel_partitions,
get_partition_info): the buffer is padded to twice the ranks (nccl_start_alignment_factor), partitions cut parameters.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import cached_property
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from memcalc.known import Known
from memcalc.tensors import expand

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcalc.tensors import Tensor

ALIGNMENT = 2
_STACK = re.compile(r"(?<![^.])(\d+|\{[^{}]*\})(?:\.|$)")


class Piece(NamedTuple):
    """One parameter in the buffer: where it starts, and how many elements it has."""

    start: int
    elements: int


ByLayer: TypeAlias = "dict[int, list[Piece]]"


def flat_of(tensors: tuple[Tensor, ...], ranks: int, aligned: int = 1, *, round_robin: bool = False) -> Flat:
    """The trained ones of these tensors in their flat buffer."""
    trained = tuple(tensor for tensor in tensors if tensor.trainable and not tensor.buffer and not tensor.tied_to)
    key = trained, ranks, aligned, round_robin
    return FLATS.get(key, None, lambda: Flat(trained, ranks, aligned, round_robin=round_robin))


class Flat:
    """The trained parameters of a model in the order of named_parameters, layer after layer.

    With `round_robin` every `ranks`-th follows the first, then those behind the second …; each begins at a multiple of
    `aligned` elements.
    """

    def __init__(self, tensors: Iterable[Tensor], ranks: int, aligned: int = 1, *, round_robin: bool = False) -> None:
        self.ranks = ranks
        self.pieces: list[Piece] = []
        self.named: dict[str, list[tuple[tuple[int, ...], Piece]]] = {}  # with its number in each stack around it
        listed = ordered(tensors)
        if round_robin:
            listed = [entry for first in range(ranks) for entry in listed[first::ranks]]
        self._numbers = [numbers for _, numbers, _ in listed]
        end = 0
        for tensor, numbers, elements in listed:
            start = end if aligned == 1 else -(-end // aligned) * aligned
            piece = Piece(start, elements)
            self.pieces.append(piece)
            self.named.setdefault(tensor.name, []).append((numbers, piece))
            end = start + elements
        self.elements = end
        self.size = -(-end // (ALIGNMENT * ranks)) * ALIGNMENT * ranks
        self.partition = self.size // ranks

    @cached_property
    def layers(self) -> list[list[Piece]]:
        """The parameters layer by layer: those that follow one another in a layer of the outermost stack, or outside."""
        pieces = iter(self.pieces)
        return [[next(pieces) for _ in alike] for _, alike in groupby(self._numbers, lambda numbers: numbers[:1])]

    @cached_property
    def listed(self) -> dict[str, str]:
        """The name that each single parameter is listed under."""
        return {single: name for name in self.named for single in expand(name)}

    @cached_property
    def starts(self) -> list[int]:
        """Where each parameter starts."""
        return [piece.start for piece in self.pieces]

    def found(self, name: str, depth: int = 0) -> tuple[ByLayer, list[Piece]]:
        """The pieces of a tensor by its layer in the stack with `depth` others around it, and all of them.

        A single one's name stands for those listed with it.
        """
        name = name if name in self.named else self.listed.get(name, name)
        there: ByLayer = {}
        own = self.named.get(name, [])
        for numbers, piece in own:
            if depth < len(numbers):
                there.setdefault(numbers[depth], []).append(piece)
        return there, [piece for _, piece in own]

    def overlapping(self, rank: int) -> list[Piece]:
        """The parameters of which a rank's partition has any."""
        first, last = rank * self.partition, min((rank + 1) * self.partition, self.elements)
        if first >= last:
            return []
        return self.pieces[bisect_right(self.starts, first) - 1 : bisect_right(self.starts, last - 1)]

    def inside(self, rank: int) -> list[tuple[Piece, int]]:
        """(parameter, its elements in the partition) of a rank, the padding at the end with the last."""
        there = [(one, sum(n for owner, n in self.owners(one) if owner == rank)) for one in self.overlapping(rank)]
        padding = self.partition - sum(elements for _, elements in there)
        return [*there[:-1], (there[-1][0], there[-1][1] + padding)] if there else []

    @cached_property
    def fullest(self) -> int:
        """The rank whose partition overlaps the most, counting each parameter whole; the last of them."""
        whole = [self.whole(rank) for rank in range(self.ranks)]
        return max(range(self.ranks), key=lambda rank: (whole[rank], rank))

    def whole(self, rank: int) -> int:
        """Elements of all parameters that a rank's partition has any of."""
        there = self.overlapping(rank)
        return there[-1].start + there[-1].elements - there[0].start if there else 0

    def owners(self, piece: Piece) -> list[tuple[int, int]]:
        """(rank, elements) of each partition that a parameter reaches into, in order."""
        (at, elements), size = piece, self.partition
        end, rank = at + elements, at // size
        if end <= (rank + 1) * size:
            return [(rank, elements)] if elements else []
        found = []
        while at < end:
            stop = min(end, (rank + 1) * size)
            found.append((rank, stop - at))
            at, rank = stop, rank + 1
        return found


FLATS: Known[Flat] = Known()


class Member(NamedTuple):
    """A tensor with the stacks around it, outermost first, and the numbers that it has in each; `times` is how often there."""

    tensor: Tensor
    elements: int
    stacks: tuple[str, ...]
    numbers: tuple[frozenset[int], ...]
    times: int


Entry: TypeAlias = "tuple[Tensor, tuple[int, ...], int]"  # a parameter's number in each stack around it, its elements


def ordered(tensors: Iterable[Tensor]) -> list[Entry]:
    """Every parameter, layers one after the other."""
    numbers: dict[str, frozenset[int]] = {}
    return _walk([_member(tensor, numbers) for tensor in tensors], ())


def sizes(tensors: Iterable[Tensor]) -> list[tuple[int, bool]]:
    """(elements, whether it is trained) of every parameter, in the same order."""
    numbers: dict[str, frozenset[int]] = {}
    return _sizes([_member(tensor, numbers) for tensor in tensors], 0)


def _sizes(members: list[Member], depth: int) -> list[tuple[int, bool]]:
    found: list[tuple[int, bool]] = []
    for inside, stacked in _groups(members, depth):
        known: dict[int, list[tuple[int, bool]]] = {}
        for _, layer in _layers(inside, depth) if stacked else ():
            if id(layer) not in known:
                known[id(layer)] = _sizes(layer, depth + 1)
            found += known[id(layer)]
        if not stacked:
            found += [(one.elements, one.tensor.trainable) for one in inside for _ in range(one.times)]
    return found


def _groups(members: list[Member], depth: int) -> Iterator[tuple[list[Member], bool]]:
    """Members that follow one another in the same stack, or in none; which of the two."""
    for stack, group in groupby(members, lambda member: member.stacks[depth] if depth < len(member.stacks) else None):
        yield list(group), stack is not None


def _layers(members: list[Member], depth: int) -> list[tuple[int, list[Member]]]:
    """The members of each layer of a stack, the same list for those that hold the same."""
    first = members[0].numbers[depth]
    if len({member.numbers[depth] for member in members}) == 1:
        return [(number, members) for number in sorted(first)]
    found: dict[int, list[Member]] = {}
    for member in members:
        for number in member.numbers[depth]:
            found.setdefault(number, []).append(member)
    known: dict[tuple[int, ...], list[Member]] = {}
    return [(number, known.setdefault(tuple(map(id, found[number])), found[number])) for number in sorted(found)]


def _member(tensor: Tensor, numbers: dict[str, frozenset[int]]) -> Member:
    """A tensor by its name; `numbers` are those that the patterns met so far stand for."""
    *parts, _ = _STACK.split(tensor.name)
    paths, patterns = parts[::2], parts[1::2]
    for pattern in patterns:
        if pattern not in numbers:
            numbers[pattern] = frozenset(map(int, expand(pattern)))
    own = tuple([numbers[pattern] for pattern in patterns])
    return Member(tensor, tensor.elements, tuple(paths), own, tensor.count // prod(map(len, own)))


def _walk(members: list[Member], above: tuple[int, ...]) -> list[Entry]:
    depth, found = len(above), list[Entry]()
    if max([len(member.stacks) for member in members], default=0) == depth:
        return _listed(members, above)
    for inside, stacked in _groups(members, depth):
        if not stacked:
            found += _listed(inside, above)
            continue
        for number, layer in _layers(inside, depth):
            found += _walk(layer, (*above, number))
    return found


def _listed(members: list[Member], above: tuple[int, ...]) -> list[Entry]:
    """What is in no further stack."""
    return [(member.tensor, above, member.elements) for member in members for _ in range(member.times)]
