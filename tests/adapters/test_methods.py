"""The methods with a preset against peft itself: every tensor that one adds, or that it refuses."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.adapters.methods import BUILDERS
from memcalc.errors import RunInvalid
from memcalc.presets import find
from memcalc.tensors import expand
from tests.adapters.reference import adapted, recorded

if TYPE_CHECKING:
    from memcalc.tensors import Tensor

CASES: list[Any] = recorded("methods")["cases"]
LONG = {"bf16": "bfloat16", "fp32": "float32"}
# where the library names a shared tensor after the first module that has it, or numbers what lies in a list
SHARED = re.compile(r"^(lily_[AB]\.default)\.[\d.]+(weight)$")
ON_THE_HOST = ("frod_",)  # buffers that stay there: forward copies them, layer by layer


def tail(tensor: Tensor) -> str:
    """The name below the module: shared tensors have none in front."""
    name = next(expand(tensor.name))
    found = re.search(
        r"(?:^|\.)((?:self_attn|mlp)\.\w+_proj|embed_tokens|self_attn|base_layer)\.(?!.*_proj\.)(.*)$", name
    )
    return SHARED.sub(r"\1.\2", found[2] if found else name)


def kind(tensor: Tensor) -> str:
    return "buffer" if tensor.buffer else "trained" if tensor.trainable else "frozen"


@pytest.mark.parametrize("row", CASES, ids=[f"{i}-{row[1]['method']}" for i, row in enumerate(CASES)])
def test_tensors_of_every_method(row: list[Any]) -> None:
    model, words, dtype, expected = row
    if isinstance(expected, str):
        with pytest.raises(RunInvalid) as refusal:
            adapted(model, words, dtype)
        assert all(fault.where.startswith("lora.") for fault in refusal.value.faults)
        return
    made = adapted(model, words, dtype)
    found: Counter[tuple[str, tuple[int, ...], str, str]] = Counter()
    for tensor in (*made.adapters, *made.buffers, *(t for t in made.base if t.trainable)):
        found[tail(tensor), tensor.shape, LONG.get(tensor.dtype, tensor.dtype), kind(tensor)] += tensor.count
    assert found == {
        (name, tuple(shape), dtype, kind): count
        for name, shape, dtype, kind, count in expected
        if kind != "buffer" or not name.startswith(ON_THE_HOST)
    }


@pytest.mark.parametrize("method", sorted(set(BUILDERS) - {"dora"}))
def test_a_method_is_in_a_case(method: str) -> None:
    rows = (*recorded("cases")["cases"], *CASES)
    assert any(row[1].get("method", "lora") == method for row in rows)
    assert find("adapters", method)["source"].startswith("peft")


@pytest.mark.parametrize(
    ("words", "where", "what"),
    [
        ({"method": "boft", "options": {"boft_blocksize": 4}}, "lora.options.boft_blocksize", "it has boft_block_size"),
        ({"method": "hira", "options": {"depth": 2}}, "lora.options.depth", "no option of hira"),
        ({"method": "hira", "bias": "all"}, "lora.bias", "hira has no such key"),
        ({"method": "road", "layers": [0]}, "lora.layers", "road has no such key"),
        ({"method": "lora", "options": {"depth": 2}}, "lora.options.depth", "it has none"),
        ({"method": "trainable-tokens"}, "lora.token_indices", "must name the tokens"),
    ],
)
def test_options_a_method_does_not_have(words: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(RunInvalid) as refusal:
        adapted("llama", words)
    assert [fault.where for fault in refusal.value.faults] == [where]
    assert what in refusal.value.faults[0].what
