"""Building a model from a config.json: defaults, heads, and what is refused."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

from memcalc.architectures import build, dimensions, model_types, type_of_class
from memcalc.errors import RunInvalid, UnknownName
from memcalc.presets import find

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 100,
}


@pytest.mark.parametrize("model_type", model_types())
def test_every_card_leads_to_an_architecture_that_reads_its_defaults(model_type: str) -> None:
    card = find("architectures", model_type)
    assert hasattr(import_module(f"memcalc.architectures.{card['module']}"), "architecture")
    assert card["class"]
    assert dimensions(model_type, {}).model_type == model_type


def test_absent_keys_mean_the_class_defaults() -> None:
    assert build("llama", {}).parameters == 6_738_415_616  # LlamaConfig() is Llama-7B
    assert build("gpt2", {}).parameters == 124_439_808  # GPT2Config() is GPT-2


def test_an_unknown_model_type_is_told_the_nearest_and_how_to_describe_it() -> None:
    with pytest.raises(UnknownName, match=r"'lama'.*Did you mean llama.*inline, as model: \{blocks"):
        build("lama", SMALL)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": "64"}, "model.hidden_size"),
    ({"num_hidden_layers": -1}, "model.num_hidden_layers"),
    ({"num_hidden_layers": 10**9}, "model.num_hidden_layers"),
    ({"num_attention_heads": 0}, "model.num_attention_heads"),
    ({"num_attention_heads": 128}, "model.num_attention_heads"),
    ({"hidden_size": None}, "model"),
    ({"architectures": ["LlamaDoubleHeadsModel"]}, "model.architectures"),
    ({"architectures": ["LlamaForMultipleChoice"]}, "model.architectures"),
    ({"tie_word_embeddings": "no"}, "model.tie_word_embeddings"),
]


@pytest.mark.parametrize(("changes", "where"), WRONG)
def test_dimensions_that_make_no_model_are_refused_with_their_place(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(RunInvalid) as caught:
        build("llama", {**SMALL, **changes})
    assert [fault.where for fault in caught.value.faults] == [where]


def test_layer_types_must_cover_the_layers() -> None:
    with pytest.raises(RunInvalid, match=r"model\.layer_types: it lists 1 layers of 2"):
        build("qwen2", {**SMALL, "layer_types": ["full_attention"]})


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("LlamaForCausalLM", "llama"), ("LlamaForSequenceClassification", "llama"), ("GPT2LMHeadModel", "gpt2"),
        ("GPT2Model", "gpt2"), ("Qwen2ForTokenClassification", "qwen2"), ("NoSuchForCausalLM", None),
    ],
)  # fmt: skip
def test_a_class_name_tells_the_model_type(name: str, model_type: str | None) -> None:
    assert type_of_class(name) == model_type
