"""Every preset against the real optimizers: names, dtypes, shapes, bytes, tensor by tensor."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from memcalc import optimizers
from tests.optimizers.measured import Case, cases

if TYPE_CHECKING:
    from memcalc.optimizers import StateTensor

BY_OPTIMIZER: dict[str, list[Case]] = defaultdict(list)
for _case in cases():
    BY_OPTIMIZER[f"{_case.of} {_case.options}"].append(_case)


def test_the_table_is_whole() -> None:
    assert sum(len(group) for group in BY_OPTIMIZER.values()) == 8308
    assert len(BY_OPTIMIZER) > 500


@pytest.mark.parametrize("of", BY_OPTIMIZER)
def test_state_tensors_are_those_of_the_library(of: str) -> None:
    for case in BY_OPTIMIZER[of]:
        found = optimizers.resolve(case.options)
        states = found.states(case.shape, case.dtype, **case.where)
        measured = [kept for kept in case.kept if kept.scope == "parameter"]
        if case.read:
            assert sorted((t.dtype, t.bytes) for t in states) == sorted((k.dtype, k.bytes) for k in measured), case
            continue
        assert sorted(map(_key, states)) == sorted((k.name, k.dtype, k.shape, k.bytes) for k in measured), case
        assert optimizers.state(case.options, case.shape, case.dtype, **case.where)["total_bytes"] == sum(
            kept.bytes for kept in measured
        )


@pytest.mark.parametrize("of", [of for of in BY_OPTIMIZER if not of.startswith("run anew")])
def test_what_is_kept_once_is_that_of_the_library(of: str) -> None:
    for case in BY_OPTIMIZER[of]:
        if case.read:
            continue
        found = optimizers.resolve(case.options)
        for scope, tensors in (("group", found.group()), ("once", found.shared())):
            measured = [(k.name, k.dtype, k.shape, k.bytes) for k in case.kept if k.scope == scope]
            assert sorted(map(_key, tensors)) == sorted(measured), (scope, case)


def _key(tensor: StateTensor) -> tuple[str, str, tuple[int, ...], int]:
    return tensor.name, tensor.dtype, tensor.shape, tensor.bytes
