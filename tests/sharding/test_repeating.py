"""Buckets over layers that are alike: what is found once is what each of them makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memcalc.sharding.buckets import Reducer
from memcalc.sharding.flat import Flat
from memcalc.sharding.repeating import Repeats
from memcalc.sharding.zero12 import ZeroOneTwo
from memcalc.sharding.zero_options import Settings
from memcalc.tensors import Tensor

if TYPE_CHECKING:
    from memcalc.sharding.flat import Piece
    from memcalc.tape.laid import Part

LAYERS = 40
TENSORS = tuple(Tensor(f"layers.{{0..39}}.{name}.weight", (elements,), LAYERS) for name, elements in
                (("up", 700), ("gate", 500), ("norm", 3)))  # fmt: skip


@pytest.fixture
def flat() -> Flat:
    return Flat(TENSORS, 4)


def layers(flat: Flat) -> list[list[Piece]]:
    """The parameters of each layer, as their gradients come."""
    return [[flat.named[tensor.name][layer][1] for tensor in reversed(TENSORS)] for layer in reversed(range(LAYERS))]


def reducer(flat: Flat, bucket: int, *, contiguous: bool) -> Reducer:
    settings = Settings(reduce_bucket_size=bucket, contiguous_gradients=contiguous)
    return Reducer(ZeroOneTwo("zero2", 4, stage=2, settings=settings), flat)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize("bucket", [300, 1000, 1203, 2500, 10**6])
def test_layers_that_are_alike(flat: Flat, bucket: int, *, contiguous: bool) -> None:
    """The same comes and goes, layer by layer, and the same waits behind the last; some layers are not looked at."""
    plain, known = reducer(flat, bucket, contiguous=contiguous), reducer(flat, bucket, contiguous=contiguous)
    looks = 0
    repeats: Repeats[list[tuple[Part, int]]] = Repeats(known)

    def made(reducer: Reducer, pieces: list[Piece]) -> list[tuple[Part, int]]:
        before = len(reducer.made)
        reducer.gradient(pieces)
        return reducer.made[before:]

    def looked(pieces: list[Piece]) -> list[tuple[Part, int]]:
        nonlocal looks
        looks += 1
        return made(known, pieces)

    for pieces in layers(flat):
        assert repeats.of("layer", pieces, lambda own=pieces: looked(own)) == made(plain, pieces)  # type: ignore[misc]
        assert (known.bucket, known.flags, known.totals) == (plain.bucket, plain.flags, plain.totals)
    assert bucket > 2500 or looks < LAYERS
