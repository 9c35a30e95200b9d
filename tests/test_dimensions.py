"""The keys of a config.json over its class's defaults."""

from __future__ import annotations

import math
from typing import Any

import pytest

from memcalc.dimensions import DEEPEST, Dimensions
from memcalc.errors import RunInvalid

DEFAULTS = {"hidden_size": 64, "num_hidden_layers": 2, "bias": False, "act": "silu", "sizes": None, "dropout": 0.1}


def read(given: dict[str, Any], renamed: dict[str, str] | None = None) -> Dimensions:
    return Dimensions(given, DEFAULTS, renamed or {})


def test_a_given_key_comes_before_the_default() -> None:
    c = read({"hidden_size": 128})
    assert (c.hidden_size, c.num_hidden_layers, c["act"]) == (128, 2, "silu")
    assert "act" in c
    assert "other" not in c


@pytest.mark.parametrize("written", ["n_embd", "hidden_size"])
@pytest.mark.parametrize("asked", ["n_embd", "hidden_size"])
def test_an_old_name_and_a_new_one_are_the_same(written: str, asked: str) -> None:
    c = Dimensions({written: 96}, {"n_embd": 768}, {"hidden_size": "n_embd"})
    assert c[asked] == 96


def test_get_falls_back_where_a_key_is_absent_or_null() -> None:
    c = read({"sizes": None, "act": None})
    assert c.get("sizes", 3) == 3
    assert c.get("act", "gelu") == "gelu"
    assert c.get("nowhere", 5) == 5
    assert c.get("bias", 1) is False


def test_changes_leave_the_original_alone() -> None:
    c = read({})
    assert c.but(hidden_size=8).hidden_size == 8
    assert c.hidden_size == 64
    assert c.but(hidden_size=8).given() == {"hidden_size": 8}
    assert c.but(hidden_size=8).known()["bias"] is False


def test_nested_mappings_have_defaults_of_their_own() -> None:
    c = Dimensions({"inner": {"p": 0.5}}, {"inner": {"p": 0.0, "alibi": True}})
    assert (c.nested("inner").p, c.nested("inner").alibi) == (0.5, True)


def test_sub_configs_come_back_as_dimensions() -> None:
    c = Dimensions({}, {}, {}, {"text_config": Dimensions({"hidden_size": 5})})
    assert c.text_config.hidden_size == 5
    assert "text_config" in c


WRONG = [
    ({"hidden_size": "4096"}, "hidden_size", "whole number"),
    ({"hidden_size": 1.5}, "hidden_size", "whole number"),
    ({"hidden_size": True}, "hidden_size", "whole number"),
    ({"hidden_size": 0}, "hidden_size", "positive"),
    ({"hidden_size": -4}, "hidden_size", "positive"),
    ({"hidden_size": 10**13}, "hidden_size", "10^12"),
    ({"num_hidden_layers": DEEPEST + 1}, "num_hidden_layers", "layers"),
    ({"bias": "yes"}, "bias", "true or false"),
    ({"dropout": math.inf}, "dropout", "finite"),
]


@pytest.mark.parametrize(("given", "key", "says"), WRONG)
def test_a_value_of_the_wrong_kind_is_refused_with_its_place(given: dict[str, Any], key: str, says: str) -> None:
    with pytest.raises(RunInvalid) as caught:
        _ = read(given)[key]
    (fault,) = caught.value.faults
    assert fault.where == f"model.{key}"
    assert says in fault.what


def test_a_whole_float_is_a_whole_number() -> None:
    assert read({"hidden_size": 4096.0}).hidden_size == 4096
    assert isinstance(read({"hidden_size": 4096.0}).hidden_size, int)


def test_a_missing_key_names_the_nearest_that_is_there() -> None:
    with pytest.raises(RunInvalid, match=r"model\.vocab_size: the key is missing.*vocabsize"):
        _ = read({"vocabsize": 9}).vocab_size


def test_a_key_that_nothing_reads_and_that_reads_like_another() -> None:
    """Only what was typed and not read is held to what was read; keys of other purposes are left alone."""
    c = read({"hidden_siz": 128, "rope_theta": 10000.0, "n_layers": 3})
    assert c.get("n_layer", 2) == 2
    assert c.misspelt(["hidden_siz", "rope_theta", "n_layers"]) == {"hidden_siz": "hidden_size", "n_layers": "n_layer"}


def test_a_key_that_was_read_is_spelt_right() -> None:
    c = read({"hidden_siz": 128}).but(bias=True)
    assert c.hidden_siz == 128
    assert c.misspelt(["hidden_siz"]) == {}


def test_experts_of_a_token_are_one_number() -> None:
    with pytest.raises(RunInvalid, match=r"model\.num_experts_per_tok: \[1\] is not a whole number"):
        Dimensions({"num_experts_per_tok": [1]}, {"num_experts_per_tok": 8}, {})["num_experts_per_tok"]
