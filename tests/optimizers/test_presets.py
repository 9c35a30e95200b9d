"""Every optimizer preset is well formed: known keys, a source, advice, rules that name only what there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from memcalc import presets
from memcalc.optimizers.rules import GROUP_KEYS, KEYS, SHAPE_RULES, SHAPES
from memcalc.optimizers.terms import FACTS, OPERATIONS, TESTS, WORDS

NAMES = presets.names("optimizers")
CARD_KEYS = {
    "id", "aliases", "library", "version", "source", "options", "sizes", "conditions", "states", "group", "once", "step",
    "keeps_master", "frees_gradients", "accepts", "variants", "advice", "like",
}  # fmt: skip
OPTION_KEYS = {"default", "choices", "min", "max", "type", "optional", "from_model"}


def cards() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in NAMES:
        card = presets.find("optimizers", name)
        yield name, card
        for library, variant in card.get("variants", {}).items():
            if isinstance(variant, Mapping):
                yield f"{name} in {library}", variant


CARDS = dict(cards())


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_says_whose_it_is_and_what_it_is_good_for(name: str) -> None:
    card = presets.find("optimizers", name)
    assert set(card) <= CARD_KEYS
    assert set(card["advice"]) <= {"quality", "drop_in", "best_for", "note"}
    assert card["advice"].get("best_for") or card["advice"].get("note")
    if "like" in card:
        assert presets.has("optimizers", card["like"])
    else:
        assert card["source"]
        assert card["library"]
        assert "states" in card


@pytest.mark.parametrize("name", [name for name in CARDS if "in" in name.split()])
def test_a_variant_has_its_own_source(name: str) -> None:
    assert set(CARDS[name]) <= CARD_KEYS
    assert CARDS[name]["source"]


@pytest.mark.parametrize("name", CARDS)
def test_rules_use_only_the_words_there_are(name: str) -> None:
    card = CARDS[name]
    for spec in card.get("options", {}).values():
        if isinstance(spec, Mapping):
            assert set(spec) <= OPTION_KEYS
            assert "default" in spec
    if "like" in card:
        return
    words = {
        *WORDS,
        *FACTS,
        "implementation",
        *card.get("options", {}),
        *card.get("sizes", {}),
        *card.get("conditions", {}),
    }
    for condition in card.get("conditions", {}).values():
        _check_condition(condition, words)
    for rule in _rules(card):
        _check_rule(rule, words)


def _rules(card: Mapping[str, Any]) -> Iterator[Any]:
    for key in ("states", "group", "once"):
        yield from card.get(key, ())
    for temporaries in card.get("step", {}).values():
        assert set(temporaries) <= {"together", "before", "each", "held", "lasting", "turn", "stacked"}
        for rules in temporaries.values():
            yield from rules


def _check_rule(rule: Any, words: set[str]) -> None:
    if isinstance(rule, str):
        return
    assert set(rule) <= (GROUP_KEYS if "keep" in rule else KEYS)
    for key in ("when", "unless"):
        _check_condition(rule.get(key, {}), words)
    for key in ("shape", "storage", "as"):
        _check_shape(rule.get(key, "scalar"), words)
    _check_size(rule.get("count", 1), words)
    assert rule.get("for_each", "axis") == "axis"
    device = rule.get("device", "gpu")
    for where, condition in device.items() if isinstance(device, Mapping) else [(device, {})]:
        assert where in {"gpu", "host", "paged"}
        _check_condition(condition, words)
    for inner in (*rule.get("keep", ()), *rule.get("else", ())):
        _check_rule(inner, words)


def _check_shape(shape: Any, words: set[str]) -> None:
    if isinstance(shape, str):
        assert shape in SHAPES
    elif isinstance(shape, list):
        for extent in shape:
            _check_size(extent, words)
    elif "when" in shape:
        _check_condition(shape["when"], words)
        _check_shape(shape["then"], words)
        _check_shape(shape.get("else", "scalar"), words)
    else:
        assert set(shape) <= SHAPE_RULES


def _check_size(term: Any, words: set[str]) -> None:
    if isinstance(term, Mapping):
        assert set(term) <= OPERATIONS
        for parts in term.values():
            for part in parts:
                _check_size(part, words)
    elif isinstance(term, str):
        assert term in words


def _check_condition(condition: Any, words: set[str]) -> None:
    if isinstance(condition, str):
        assert condition in words
        return
    for key, wanted in condition.items():
        if key in {"any", "all"}:
            for one in wanted:
                _check_condition(one, words)
        elif key == "not":
            _check_condition(wanted, words)
        else:
            assert key in words
            if isinstance(wanted, Mapping):
                assert set(wanted) <= TESTS
