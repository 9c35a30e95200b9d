"""Names as patterns, and blocks flattened to groups of tensors."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memcalc.blocks.base import Sequence, Unused, repeat, sequence, stack
from memcalc.blocks.basic import Embedding, Linear, Norm, Raw
from memcalc.tensors import Tensor, count_of, expand, expand_tensor, listed, numbers, parameter_count, tensors


def test_what_does_not_run_is_idle_and_may_learn() -> None:
    found = tensors(sequence(Linear("a", 2, 2), Unused("", (Linear("b", 2, 2),))))
    assert [(tensor.name, tensor.idle, tensor.trainable) for tensor in found] == [
        ("a.weight", False, True),
        ("b.weight", True, True),
    ]


PATTERNS = [
    ("wte.weight", ["wte.weight"]),
    ("h.{0..2}.w", ["h.0.w", "h.1.w", "h.2.w"]),
    ("h.{1..5..2}.w", ["h.1.w", "h.3.w", "h.5.w"]),
    ("h.{0..1,4,6..7}", ["h.0", "h.1", "h.4", "h.6", "h.7"]),
    ("a.{0..1}.b.{2..3}", ["a.0.b.2", "a.0.b.3", "a.1.b.2", "a.1.b.3"]),
    ("h.{3..2}", []),
]


@pytest.mark.parametrize(("pattern", "names"), PATTERNS)
def test_a_pattern_stands_for_its_names(pattern: str, names: list[str]) -> None:
    assert list(expand(pattern)) == names
    assert count_of(pattern) == len(names)


@pytest.mark.parametrize("pattern", ["h.{0..", "h.0}", "h.{a..b}", "h.{}", "h.{0...3}", "h.{{0..1}}"])
def test_what_is_no_pattern_has_no_count(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"brace|invalid|unpack"):
        count_of(pattern)


def test_the_count_is_known_without_spelling_out() -> None:
    assert count_of("a.{0..999999999}.b.{0..9}") == 10**10


@settings(deadline=None)
@given(st.sets(st.integers(0, 200), min_size=1))
def test_numbers_and_expand_are_inverse(indices: set[int]) -> None:
    rising = sorted(indices)
    assert [int(name) for name in expand(numbers(rising))] == rising


@pytest.mark.parametrize(
    ("indices", "pattern"),
    [([7], "7"), ([0, 1, 2], "{0..2}"), ([1, 3, 5], "{1..5..2}"), ([0, 2], "{0,2}"), ([0, 1, 3], "{0..1,3}")],
)
def test_numbers_are_written_as_short_as_can_be(indices: list[int], pattern: str) -> None:
    assert numbers(indices) == pattern


def test_like_layers_are_one_group_and_unlike_ones_two() -> None:
    narrow, wide = sequence(Linear("w", 2, 3)), sequence(Linear("w", 2, 5))
    body = sequence(Embedding("embed", 7, 2), stack("layers", [narrow, wide, narrow]), Norm("norm", 2), name="model")
    assert [(t.name, t.shape, t.count, t.role) for t in tensors(body)] == [
        ("model.embed.weight", (7, 2), 1, "embedding"),
        ("model.layers.{0,2}.w.weight", (3, 2), 2, "linear"),
        ("model.layers.1.w.weight", (5, 2), 1, "linear"),
        ("model.norm.weight", (2,), 1, "norm"),
    ]


def test_layers_built_one_by_one_are_still_equal() -> None:
    body = stack("layers", [sequence(Linear("w", 2, 3)) for _ in range(4)])
    assert [t.name for t in tensors(body)] == ["layers.{0..3}.w.weight"]


def test_stacks_within_stacks_multiply() -> None:
    inner = repeat("experts", 3, Linear("w", 2, 2))
    (group,) = tensors(repeat("layers", 4, inner))
    assert (group.name, group.count) == ("layers.{0..3}.experts.{0..2}.w.weight", 12)
    assert len(list(expand_tensor(group))) == 12


def test_only_owned_trainable_memory_counts_as_parameters() -> None:
    every = [Tensor("w", (4, 4), 2), Tensor("head", (4, 4), tied_to="w"), Tensor("mean", (4,), buffer=True)]
    assert parameter_count(every) == 32
    assert Tensor("frozen", (3,), trainable=False).parameters == 3
    assert Tensor("scalar", ()).elements == 1


def test_the_module_is_the_name_without_its_last_part() -> None:
    assert Tensor("model.layers.{0..1}.mlp.up_proj.weight", (1,)).module == "model.layers.{0..1}.mlp.up_proj"
    assert Tensor("weight", (1,)).module == ""


def test_modules_that_are_registered_in_another_order_than_they_run_are_listed_in_it() -> None:
    names = (
        "model.embed.weight",
        "model.layers.{0..3}.qkv.weight",
        "model.layers.{0..3}.o.weight",
        "model.norm.weight",
    )
    group = [Tensor(name, (2, 2)) for name in names]
    ordered = [tensor.name for tensor in listed(group, ("norm", "layers", "o", "qkv"))]
    assert ordered == [names[0], names[3], names[2], names[1]]
    assert [tensor.name for tensor in listed(group, ("layers",))] == [names[0], names[3], names[1], names[2]]


def test_the_parameters_of_a_module_itself_are_listed_before_those_of_its_modules() -> None:
    names = ["attn.q.weight", "attn.sinks", "norm.weight", "scale"]
    group = [Tensor(name, (1,)) for name in names]
    assert [tensor.name for tensor in listed(group, ("norm",))] == [
        "scale",
        "attn.sinks",
        "attn.q.weight",
        "norm.weight",
    ]


def test_a_module_may_be_named_with_the_one_it_is_in() -> None:
    names = ["embed.norm", "embed.word", "head.norm", "head.dense"]
    ordered = [tensor.module for tensor in listed([Tensor(f"{name}.weight", (1,)) for name in names], ("embed.norm",))]
    assert ordered == ["embed.word", "embed.norm", "head.norm", "head.dense"]


def test_a_registered_module_comes_last_among_its_own_siblings_alone() -> None:
    names = ["embed", "layers.0.norm", "layers.0.attn.q", "layers.0.mlp.up", "layers.1.norm", "layers.1.mlp.up", "norm"]
    ordered = [tensor.module for tensor in listed([Tensor(f"{name}.weight", (1,)) for name in names], ("norm",))]
    assert ordered == [
        "embed", "layers.0.attn.q", "layers.0.mlp.up", "layers.0.norm", "layers.1.mlp.up", "layers.1.norm", "norm"
    ]  # fmt: skip


def test_a_model_within_another_lists_its_own_modules_as_it_registers_them() -> None:
    def layers(name: str, registered: tuple[str, ...] | None) -> Sequence:
        return Sequence(name, (Linear("q", 2, 2), Raw("token", (1,)), Linear("k", 2, 2)), registered=registered)

    body = Sequence("", (layers("image", ("q",)), layers("sound", ()), layers("text", None)))
    names = [tensor.name for tensor in tensors(body)]
    assert names == [
        "image.token", "image.k.weight", "image.q.weight", "sound.token", "sound.q.weight", "sound.k.weight",
        "text.q.weight", "text.token", "text.k.weight",
    ]  # fmt: skip


def test_parameters_of_a_module_itself_may_be_registered_late_too() -> None:
    group = [Tensor(name, (1,)) for name in ("mask", "token", "cut.weight")]
    assert [tensor.name for tensor in listed(group, ("mask",))] == ["token", "mask", "cut.weight"]
