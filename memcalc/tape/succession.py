"""Tensors as they follow one another in a model: layer by layer, where a stack has layers of several kinds."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from memcalc.tensors import count_of, indices

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcalc.tensors import Tensor


NUMBER = re.compile(r"\.(\{[^{}]*\}|\d+)\.")


def layer_by_layer(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The same tensors, each with the run of like layers that it is made for: their counts tell one run from the next.

    A pattern stands for a tensor of every layer that has it: {0..2} of one kind, {3} of another, {0..3} of all. Two runs
    of as many layers, one behind the other, differ by the last layer of the second.
    """
    made: list[Tensor] = []
    before = 1  # layers of the run before
    for _, members in groupby(tensors, key=_stem):
        for times, run in _runs(list(members)):
            if times == before > 1:
                made += [replace(tensor, count=tensor.count - tensor.count // times) for tensor in run]
                made += [replace(tensor, count=tensor.count // times) for tensor in run]
                before = 1
            else:
                made += run
                before = times
    return made


def _stem(tensor: Tensor) -> str:
    """A name up to the number of the layer; '' outside of layers."""
    return _cut(tensor.name)[0]


def _cut(name: str) -> tuple[str, str, str]:
    """A name before, at and behind the number of the layer, which may be a pattern."""
    found = NUMBER.search(name)
    return (name[: found.start()], found[1], name[found.end() :]) if found else ("", "", name)


def _runs(members: list[Tensor]) -> Iterator[tuple[int, list[Tensor]]]:
    """A stack's tensors, one run of like layers after the other, and how many layers each has."""
    cuts = [_cut(tensor.name) for tensor in members]
    if len({number for _, number, _ in cuts}) == 1:
        yield count_of(cuts[0][1]), members
        return
    layers: dict[int, list[tuple[str, Tensor]]] = {}
    for tensor, (_, number, rest) in zip(members, cuts, strict=True):
        own = replace(tensor, count=tensor.count // count_of(number))
        for layer in indices(number):
            layers.setdefault(layer, []).append((rest, own))
    for _, alike in groupby(sorted(layers.items()), key=lambda layer: [_kind(*own) for own in layer[1]]):
        run = list(alike)
        yield len(run), [replace(tensor, count=tensor.count * len(run)) for _, tensor in run[0][1]]


def _kind(rest: str, tensor: Tensor) -> tuple[object, ...]:
    """What like tensors of two layers have in common."""
    return rest, tensor.shape, tensor.count, tensor.dtype, tensor.trainable
