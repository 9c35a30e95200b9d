"""Adapters against peft itself: trainable tensors, parameters and bytes that were counted on real models."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.adapters import adapt
from memcalc.architectures import build, dimensions
from memcalc.dimensions import Dimensions
from memcalc.dtypes import nbytes
from memcalc.errors import RunInvalid
from memcalc.tensors import expand_tensor
from tests.adapters.reference import adapted, by_dtype, recorded, section, tensors_of

LLAMA: list[Any] = recorded("llama")["cases"]
CASES: list[Any] = recorded("cases")["cases"]


@pytest.mark.parametrize(
    "row", LLAMA, ids=[f"{i}-{row[0]}-{row[1].get('method', 'lora')}" for i, row in enumerate(LLAMA)]
)
def test_llama_of_three_sizes(row: list[Any]) -> None:
    model, words, parameters, count, size, originals, kinds = row
    dims = recorded("llama")["models"][model]
    made = adapt(build("llama", dims).tensors, section(words), "llama", dimensions("llama", dims))
    trained = [t for t in made.tensors if t.trainable]
    assert made.trainable == parameters
    assert sum(t.count for t in trained) == count
    assert sum(t.count * nbytes(t.elements, t.dtype) for t in trained) == size
    copied = {t.name.replace(".modules_to_save.default", "") for t in made.saved if "modules_to_save" in t.name}
    assert sum(2 * t.parameters for t in made.base if t.name in copied) == originals
    for kind in kinds:
        if kind not in ("weight", "bias"):
            of_kind = [t for t in trained if f".{kind}." in f".{t.name}." and not t.name.endswith(".bias")]
            assert sum(t.parameters for t in of_kind) == kinds[kind], kind


def refusals(model: str, words: dict[str, Any], dtype: str) -> list[str]:
    """Where a run is refused; or the warnings, where it is counted all the same and told that peft refuses it."""
    try:
        made = adapted(model, words, dtype)
    except RunInvalid as refusal:
        return [fault.where for fault in refusal.faults]
    return [*made.warnings] or ["not refused"]


@pytest.mark.parametrize(
    "row", CASES, ids=[f"{i}-{row[0]}-{row[1].get('method', 'lora')}" for i, row in enumerate(CASES)]
)
def test_small_models_of_every_family(row: list[Any]) -> None:
    model, words, dtype, count, *expected = row
    if count is None:
        assert all(where.startswith("lora.") or "and refuses" in where for where in refusals(model, words, dtype))
        return
    made = adapted(model, words, dtype)
    trained = tuple(t for t in made.tensors if t.trainable)
    assert by_dtype(trained) == expected[0]
    assert sum(t.count for t in trained if not t.tied_to) == count
    assert by_dtype(made.buffers) == (expected[1] if len(expected) > 1 else {})


@pytest.mark.parametrize("row", CASES[::7], ids=[f"{7 * i}-{row[0]}" for i, row in enumerate(CASES[::7])])
def test_patterns_stand_for_the_same_as_single_names(row: list[Any]) -> None:
    """The way through patterns and the way through every name by itself lead to the same tensors."""
    model, words, dtype, count, *_ = row
    if count is None:
        return
    known = recorded("cases")["models"][model]
    single = tuple(one for tensor in tensors_of(model) for one in expand_tensor(tensor))
    lora = section({"task": "none", **words})
    alone = adapt(single, lora, known["model_type"], Dimensions(known["config"]), dtype)
    together = adapted(model, words, dtype)
    opened = {(t.name, t.shape, t.trainable, t.dtype) for group in together.tensors for t in expand_tensor(group)}
    assert opened == {(t.name, t.shape, t.trainable, t.dtype) for t in alone.tensors}
