"""Tensors in the order of the layers that have them."""

from __future__ import annotations

from memcalc.tape.succession import layer_by_layer
from memcalc.tensors import Tensor


def listed(*tensors: tuple[str, int]) -> list[tuple[str, int]]:
    """(name, count) of tensors in their succession."""
    given = [Tensor(name, (4, 4), count) for name, count in tensors]
    return [(tensor.name, tensor.count) for tensor in layer_by_layer(given)]


def test_like_layers_stay_as_they_are() -> None:
    given = ("embed.weight", 1), ("layers.{0..5}.a", 6), ("layers.{0..5}.b", 6), ("norm.weight", 1)
    assert listed(*given) == [*given]


def test_layers_of_several_kinds_take_turns() -> None:
    """As nn.Module.parameters() lists them: two layers with `a`, one with `b`, two with `a`; all of them have `c`."""
    found = listed(("layers.{0..1,3..4}.a", 4), ("layers.2.b", 1), ("layers.{0..4}.c", 5))
    kinds = [(name.rpartition(".")[2], count) for name, count in found]
    assert kinds == [("a", 2), ("c", 2), ("b", 1), ("c", 1), ("a", 2), ("c", 2)]


def test_runs_of_as_many_layers_are_told_apart() -> None:
    """An encoder and a decoder of four layers each: the decoder's come behind all of the encoder's."""
    found = listed(("encoder.{0..3}.a", 4), ("encoder.{0..3}.b", 4), ("decoder.{0..3}.a", 4), ("decoder.{0..3}.b", 4))
    assert [count for _, count in found] == [4, 4, 3, 3, 1, 1]


def test_nothing_is_lost() -> None:
    """Tensors of experts are counted with their layers."""
    found = listed(("layers.{0,2}.experts.{0..7}.w", 16), ("layers.{1,3}.w", 2), ("layers.{0..3}.n", 4))
    assert sum(count for _, count in found) == 22
    assert [count for _, count in found] == [8, 1, 1, 1, 8, 1, 1, 1]
