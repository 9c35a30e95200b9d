from __future__ import annotations

import pytest
from pydantic import ValidationError

from memcalc.adapters import Lora
from memcalc.adapters.spec import RANKS, contradictions
from tests.adapters.reference import section


def test_a_run_file_s_lists_become_tuples() -> None:
    lora = section(
        {"rank": 16, "targets": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 4}, "token_indices": {"wte": [1]}}
    )
    assert lora == Lora(rank=16, targets=("q_proj", "v_proj"), rank_pattern={"q_proj": 4}, token_indices={"wte": (1,)})


@pytest.mark.parametrize(
    "words", [{"rank": 0}, {"rank": "many"}, {"method": "qlora"}, {"dropout": 2}, {"dtype": "int8"}, {"bias": "some"}]
)
def test_values_out_of_range_are_refused(words: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        section(words)


@pytest.mark.parametrize("method", RANKS)
def test_each_method_has_its_own_first_rank(method: str) -> None:
    assert section({"method": method}).resolved_rank == RANKS[method]


def test_adalora_begins_with_init_rank() -> None:
    assert Lora(method="adalora", rank=4, init_rank=6).resolved_rank == 6
    assert Lora(method="adalora", rank=4).resolved_rank == RANKS["adalora"]


def test_all_contradictions_are_told_at_once() -> None:
    faults = contradictions(Lora(method="ia3", dora=True, bias="all", layers=1, parameters=("x",)))
    assert [fault.where for fault in faults] == ["lora.dora", "lora.bias", "lora.layers", "lora.parameters"]
