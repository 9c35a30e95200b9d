"""torch.einsum of two tensors: which copies it makes (aten/src/ATen/native/Linear.cpp), counted by hand."""

from __future__ import annotations

import pytest

from memcalc.tape import functions as f
from tests.tape.tapes import live, parameter, tape

CASES = [
    # equation, shapes, the output's shape, copies: elements that are there beside the output
    ("ij,jk->ik", (16, 32), (32, 64), (16, 64), 0),
    ("bij,bjk->bik", (2, 16, 32), (2, 32, 64), (2, 16, 64), 0),
    ("bihn,bjhn->bijh", (2, 8, 4, 32), (2, 8, 4, 32), (2, 8, 8, 4), 2 * (2 * 8 * 4 * 32)),  # heads behind tokens: both
    ("bhin,bhjn->bhij", (2, 4, 8, 32), (2, 4, 8, 32), (2, 4, 8, 8), 0),  # heads first: views of both
]


@pytest.mark.parametrize(("equation", "first", "second", "shape", "copied"), CASES)
def test_einsum_copies_what_it_cannot_view(
    equation: str, first: tuple[int, ...], second: tuple[int, ...], shape: tuple[int, ...], copied: int
) -> None:
    t = tape()
    a, b = parameter(t, *first), parameter(t, *second)
    out = f.einsum(equation, a, b)
    assert out.shape == shape
    assert live(t) == 4 * (out.elements + copied)


def test_einsum_under_autocast_runs_in_the_lower_dtype() -> None:
    t = tape("bf16")
    a, b = t.new((16, 32), "fp32"), t.new((32, 64), "fp32")
    assert f.einsum("ij,jk->ik", a, b).dtype == "bf16"


def test_einsum_without_a_sum_is_a_product() -> None:
    t = tape()
    assert f.einsum("i,j->ij", t.new((8,), "fp32"), t.new((16,), "fp32")).shape == (8, 16)
