from __future__ import annotations

import pytest

from memcalc.adapters.patterns import chosen, crosses, is_word, parents, partition, sample, size
from memcalc.tensors import expand

PATTERNS = [
    "lm_head.weight",
    "model.layers.{0..31}.self_attn.q_proj.weight",
    "model.layers.{0,3..9}.mlp.experts.{0..7}.w1.weight",
    "model.layers.{1..61..2}.mlp.down_proj.bias",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_sample_and_size_agree_with_the_names(pattern: str) -> None:
    names = list(expand(pattern))
    assert sample(pattern) == names[0]
    assert size(pattern) == len(names)


def test_parents_keep_braces_whole() -> None:
    assert parents("model.layers.{0..3}.mlp.up.weight") == [
        "model", "model.layers", "model.layers.{0..3}", "model.layers.{0..3}.mlp", "model.layers.{0..3}.mlp.up"
    ]  # fmt: skip
    assert parents("weight") == []


@pytest.mark.parametrize(
    ("ending", "differs"),
    [
        (".q_proj", False),
        (".self_attn.q_proj", False),
        (".3.self_attn.q_proj", True),
        (".layers.3.self_attn.q_proj", True),
        (".k_proj", False),
        (".3.mlp.q_proj", False),
    ],
)
def test_an_ending_beyond_the_braces_may_differ_between_names(ending: str, differs: bool) -> None:
    assert crosses("model.layers.{0..31}.self_attn.q_proj", ending) is differs
    assert crosses("model.layers.3.self_attn.q_proj", ending) is False


@pytest.mark.parametrize(
    ("text", "word"), [("q_proj", True), ("mlp.fc1", True), ("layers.0.mlp", False), (r"q.*", False), ("", False)]
)
def test_words_are_dotted_names_without_layer_numbers(text: str, word: bool) -> None:
    assert is_word(text) is word


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("every", [1, 2, 3, 5, 1000])
def test_partition_is_a_partition(pattern: str, every: int) -> None:
    """Every name is in exactly the part of its value, and what is refused is in none."""
    values = {name: (None if i % every == 1 else i % every) for i, name in enumerate(expand(pattern))}
    parts = partition(pattern, values.__getitem__)
    found = [(name, value) for value, part in parts for name in expand(part)]
    assert sorted(found) == sorted((name, value) for name, value in values.items() if value is not None)


def test_partition_folds_equal_layers() -> None:
    parts = partition("layers.{0..31}.q", lambda name: 2 if name in ("layers.4.q", "layers.6.q") else 8)
    assert dict(parts) == {8: "layers.{0..3,5,7..31}.q", 2: "layers.{4,6}.q"}


def test_chosen_looks_once_where_all_fare_alike() -> None:
    asked: list[str] = []

    def choose(name: str) -> int:
        asked.append(name)
        return 1

    assert chosen("h.{0..9}.mlp", 10, choose, alike=True) == (("h.{0..9}.mlp", 10, 1),)
    assert asked == ["h.0.mlp"]
    assert chosen("h.{0..9}.mlp", 10, lambda _: None, alike=True) == ()
