from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcalc.adapters.lycoris import factorization


@pytest.mark.parametrize(
    ("dimension", "factor", "pair"),
    [(256, -1, (16, 16)), (128, -1, (8, 16)), (127, -1, (1, 127)), (128, 4, (4, 32)), (4096, 8, (8, 512)),
     (11008, -1, (86, 128)), (14336, 8, (8, 1792)), (172, 8, (4, 43)), (64, 7, (4, 16)), (1, -1, (1, 1))],
)  # fmt: skip
def test_factorization_as_peft_documents_it(dimension: int, factor: int, pair: tuple[int, int]) -> None:
    assert factorization(dimension, factor) == pair


@given(st.integers(1, 20_000), st.one_of(st.just(-1), st.integers(1, 200)))
def test_factors_multiply_to_the_dimension(dimension: int, factor: int) -> None:
    small, large = factorization(dimension, factor)
    assert small * large == dimension
    assert factor == -1 or small <= factor
    if factor == -1:
        assert small <= math.isqrt(dimension)
