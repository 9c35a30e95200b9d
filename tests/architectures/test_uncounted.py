"""Keys that a class reads and memcalc does not: listed in cards, warned of where a config sets them."""

from __future__ import annotations

import pytest

from memcalc import estimate
from memcalc.architectures import dimensions
from memcalc.architectures.uncounted import UNCOUNTED, uncounted
from memcalc.presets import find, names

LISTED = {
    name: card["uncounted"] for name in names("architectures") if "uncounted" in (card := find("architectures", name))
}
BERT = {"model_type": "bert", "num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 2, "vocab_size": 100}


def test_every_listed_key_says_what_is_not_counted_and_each_is_listed_somewhere() -> None:
    assert {key for keys in LISTED.values() for key in keys} == UNCOUNTED.keys()


@pytest.mark.parametrize("model_type", LISTED)
def test_no_listed_key_is_on_by_default(model_type: str) -> None:
    defaults = find("architectures", model_type).get("defaults", {})
    assert not any(defaults.get(key) for key in LISTED[model_type])


def test_a_config_that_sets_one_is_warned_of() -> None:
    warnings = estimate({"model": {**BERT, "chunk_size_feed_forward": 16}}).warnings
    assert [(w.path, w.code) for w in warnings] == [("model.chunk_size_feed_forward", "not-counted")]
    assert not estimate({"model": {**BERT, "chunk_size_feed_forward": 0}}).warnings


def test_nested_configs_are_read_as_well() -> None:
    nested = {"model_type": "encoder-decoder", "encoder": {**BERT, "chunk_size_feed_forward": 16},
              "decoder": {**BERT, "is_decoder": True, "add_cross_attention": True}}  # fmt: skip
    assert "model.encoder.chunk_size_feed_forward" in {w.path for w in estimate({"model": nested}).warnings}


def test_a_list_of_nothing_sets_nothing() -> None:
    config = {"model_type": "step3p5", "num_hidden_layers": 2, "moe_layers_enum": "1"}
    limits = ([0.0, 0.0], [0.0, 7.0])
    found = [
        [path for path, _ in uncounted(dimensions("step3p5", {**config, "swiglu_limits": limit}))] for limit in limits
    ]
    assert found == [[], ["model.swiglu_limits"]]
