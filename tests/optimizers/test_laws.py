"""What holds for every optimizer and every tensor."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memcalc import presets
from memcalc.dtypes import nbytes
from memcalc.optimizers import Parameter, resolve

SHAPES = st.lists(st.integers(1, 300), min_size=0, max_size=4).map(tuple)
DTYPES = st.sampled_from(["fp32", "bf16", "fp16"])
ROLES = st.sampled_from(["linear", "embedding", "norm", "conv", "expert", "conv1d", "parameter"])
NAMES = presets.names("optimizers")


@given(st.sampled_from(NAMES), SHAPES, DTYPES, ROLES, st.sampled_from(["", "model.layers.0.self_attn.q_proj.weight"]))
def test_every_optimizer_takes_every_tensor(
    name: str, shape: tuple[int, ...], dtype: str, role: str, full: str
) -> None:
    found = resolve(name)
    for tensor in found.states(shape, dtype, role, full):
        assert all(extent >= 0 for extent in tensor.shape)
        assert tensor.bytes >= nbytes(math.prod(tensor.shape), tensor.dtype)
        assert tensor.device in {"gpu", "host", "paged"}
    assert found.step_peak([(Parameter(shape, dtype, role, full), 3)]) >= 0


@given(st.sampled_from(NAMES), SHAPES, DTYPES)
def test_the_same_question_has_the_same_answer(name: str, shape: tuple[int, ...], dtype: str) -> None:
    assert resolve(name).states(shape, dtype) == resolve({"name": name}).states(shape, dtype)


@given(SHAPES, DTYPES)
def test_adam_keeps_two_of_the_parameter(shape: tuple[int, ...], dtype: str) -> None:
    states = resolve("adamw").states(shape, dtype)
    assert sum(t.bytes for t in states) == 2 * nbytes(math.prod(shape), dtype) + 4
    assert [t.device for t in states] == ["host", "gpu", "gpu"]


@given(st.integers(1, 10**6), DTYPES)
def test_eight_bits_never_cost_more_than_thirty_two(elements: int, dtype: str) -> None:
    eight, full = (
        sum(t.bytes for t in resolve(name).states((elements,), dtype)) for name in ("adamw-8bit", "adamw-32bit")
    )
    assert eight <= full == 8 * elements


@given(st.integers(1, 400), st.integers(1, 400), DTYPES)
def test_factored_moments_grow_with_the_sides(rows: int, columns: int, dtype: str) -> None:
    assert sum(t.bytes for t in resolve("adafactor").states((rows, columns), dtype)) == 4 * (rows + columns) + 4


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_galore_keeps_moments_of_its_rank(rows: int, columns: int, rank: int) -> None:
    low, moments = (
        min(rank, rows, columns),
        resolve({"name": "galore-adamw", "rank": rank}).states((rows, columns), "bf16"),
    )
    assert sum(t.bytes for t in moments[1:]) == 2 * 2 * low * max(rows, columns)
    assert moments[0].bytes == 2 * low * min(rows, columns)


@given(SHAPES, DTYPES, st.integers(1, 5))
def test_a_step_needs_no_less_for_more_parameters(shape: tuple[int, ...], dtype: str, count: int) -> None:
    for spec in ("adamw", "adafactor", "lion", "came"):
        few, many = (resolve(spec).step_peak([(Parameter(shape, dtype), n)]) for n in (count, count + 1))
        assert few <= many


@pytest.mark.parametrize("elements", [99_999, 100_000, 100_001])
def test_only_large_tensors_are_paged(elements: int) -> None:
    devices = {t.name: t.device for t in resolve("paged-adamw-8bit").states((elements,), "fp32")}
    assert devices["state1"] == ("paged" if elements >= 100_000 else "gpu")
    assert devices["absmax1"] == "gpu"


def test_memoised_states_are_the_same_value() -> None:
    found = resolve("adamw")
    assert found.states((2, 2), "bf16") is found.states([2, 2], "bf16")
