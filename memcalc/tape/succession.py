"""Tensors as they follow one another in a model: layer by layer, where a stack has layers of several kinds."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from memcalc.tensors import count_of, indices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcalc.tensors import Tensor


Kind: TypeAlias = "tuple[str, tuple[int, ...], int, str, bool]"  # what like tensors of two layers have in common
NUMBER = re.compile(r"\.(\{[^{}]*\}|\d+)\.")


def layer_by_layer(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The same tensors, each with the run of like layers that it is made for: their counts tell one run from the next.

    A pattern stands for a tensor of every layer that has it: {0..2} of one kind, {3} of another, {0..3} of all. Two runs
    of as many layers, one behind the other, differ by the last layer of the second.
    """
    made: list[Tensor] = []
    before = 1  # layers of the run before
    for _, members in groupby((Member(*_cut(tensor.name), tensor) for tensor in tensors), key=attrgetter("stem")):
        for times, run in _runs(list(members)):
            if times == before > 1:
                made += [_counted(tensor, tensor.count - tensor.count // times) for tensor in run]
                made += [_counted(tensor, tensor.count // times) for tensor in run]
                before = 1
            else:
                made += run
                before = times
    return made


class Member(NamedTuple):
    """A tensor; its name before, at and behind the number of the layer, which may be a pattern. '' outside of layers."""

    stem: str
    number: str
    rest: str
    tensor: Tensor


def _cut(name: str) -> tuple[str, str, str]:
    found = NUMBER.search(name)
    return (name[: found.start()], found[1], name[found.end() :]) if found else ("", "", name)


def _runs(members: list[Member]) -> Iterator[tuple[int, list[Tensor]]]:
    """A stack's tensors, one run of like layers after the other, and how many layers each has."""
    counts = {number: count_of(number) for number in {member.number for member in members}}
    if len(counts) == 1:
        yield counts[members[0].number], [member.tensor for member in members]
        return
    layers: dict[int, list[tuple[Kind, Tensor]]] = {}
    for _, number, rest, tensor in members:
        own = (rest, tensor.shape, tensor.count // counts[number], tensor.dtype, tensor.trainable), tensor
        for layer in indices(number):
            layers.setdefault(layer, []).append(own)
    for _, alike in groupby(sorted(layers), key=lambda layer: [own[0] for own in layers[layer]]):
        first, *others = alike
        times = 1 + len(others)
        yield times, [_counted(tensor, count * times) for (_, _, count, _, _), tensor in layers[first]]


def _counted(tensor: Tensor, count: int) -> Tensor:
    return tensor if count == tensor.count else replace(tensor, count=count)
