from __future__ import annotations

import re

import pytest

from memcalc.adapters.rules import Rule, layer_of
from memcalc.adapters.sites import Module

Q = "model.layers.{0..3}.self_attn.q_proj"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(names=("q_proj",), rank=8), [(Q, 4, 8)]),
        (Rule(names=("proj",)), []),  # an ending begins at a dot
        (Rule(names=("1.self_attn.q_proj",)), [("model.layers.1.self_attn.q_proj", 1, 0)]),
        (Rule(names=("model.layers.2.self_attn.q_proj",)), [("model.layers.2.self_attn.q_proj", 1, 0)]),
        (Rule(everything=True, exclude=("q_proj",)), []),
        (Rule(everything=True, exclude=("0.self_attn.q_proj",)), [("model.layers.{1..3}.self_attn.q_proj", 3, 0)]),
        (Rule(everything=True, exclude=re.compile(r".*\.[02]\..*")), [("model.layers.{1,3}.self_attn.q_proj", 2, 0)]),
        (Rule(names=("q_proj",), layers=frozenset({1, 2})), [("model.layers.{1..2}.self_attn.q_proj", 2, 0)]),
        (Rule(names=("q_proj",), layers=frozenset({1}), layers_patterns=("h",)), []),
        (Rule(names=("q_proj",), layers=frozenset({1}), layers_patterns=("h", "layers")),
         [("model.layers.1.self_attn.q_proj", 1, 0)]),
        (Rule(pattern=re.compile(r".*q_proj")), [(Q, 4, 0)]),
        (Rule(pattern=re.compile(r"q_proj")), []),  # a pattern matches whole names
        (Rule(names=("q_proj",), saved=("self_attn",)), []),  # inside a module trained as a whole
        (Rule(names=("q_proj",), rank=8, ranks=(("q_proj", 4), ("self_attn.q_proj", 2))), [(Q, 4, 4)]),
        (Rule(names=("q_proj",), rank=8, ranks=((r"layers\.0\..*", 2),)),
         [("model.layers.0.self_attn.q_proj", 1, 2), ("model.layers.{1..3}.self_attn.q_proj", 3, 8)]),
    ],
)  # fmt: skip
def test_what_a_rule_selects_of_like_modules(rule: Rule, expected: list[tuple[str, int, int]]) -> None:
    assert sorted(rule.select(Module(Q, "linear", 4, ()))) == expected


def test_a_full_name_counts_in_any_layer() -> None:
    """peft compares full names before it looks at layers_to_transform."""
    rule = Rule(names=("model.layers.1.self_attn.q_proj",), layers=frozenset({0}))
    assert rule.chooses("model.layers.1.self_attn.q_proj")


@pytest.mark.parametrize(
    ("name", "patterns", "layer"),
    [
        ("model.layers.7.mlp.experts.3.w1", (), 7),
        ("transformer.h.2.attn.c_attn", ("h",), 2),
        ("transformer.h.2.attn.c_attn", ("layers",), None),
        ("layers.2.attn", ("layers",), 2),
        ("layers.2.attn", (), None),
        ("lm_head", (), None),
    ],
)
def test_layer_is_the_first_number(name: str, patterns: tuple[str, ...], layer: int | None) -> None:
    assert layer_of(name, patterns) == layer
