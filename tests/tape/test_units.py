"""Which modules a strategy wraps, and what tensors they hold."""

from __future__ import annotations

import pytest

from memcalc.models import load_model
from memcalc.tape.units import Wrapped, holds, stacks
from memcalc.tensors import Tensor

STACKS = [
    ("llama-2-7b", ["model.layers"]),
    ("gpt2", ["transformer.h"]),
    ("t5-small", ["encoder.block", "decoder.block"]),
    ("resnet-50", [f"resnet.encoder.stages.{stage}.layers" for stage in range(4)]),
]


@pytest.mark.parametrize(("model", "paths"), STACKS)
def test_layers_are_those_of_the_outermost_stacks_or_of_stages(model: str, paths: list[str]) -> None:
    assert list(dict.fromkeys(stacks(load_model(model).body))) == paths


def test_tensors_go_with_their_layer() -> None:
    tensors = [
        Tensor("embed.weight", (10, 4)),
        Tensor("layers.{0..3}.up.weight", (8, 4), 4),
        Tensor("layers.{0..3}.experts.{0..1}.weight", (2, 4), 8),
        Tensor("layers.{2..3}.lora.weight", (2, 4), 2),
        Tensor("layers.{0..3}.table", (5,), 4, buffer=True),
        Tensor("head.weight", (10, 4), tied_to="embed.weight"),
    ]
    found = Wrapped(["layers"], tensors)
    assert [tensor.name for tensor in found.rest] == ["embed.weight"]
    assert [(tensor.name, tensor.count) for tensor in found.of("layers", 1)] == [
        (tensors[1].name, 1),
        (tensors[2].name, 2),
    ]
    assert len(found.of("layers", 3)) == 3
    assert not found.of("layers", 4)
    assert [(len(members), layers) for members, layers in found.alike("layers")] == [(2, [0, 1]), (3, [2, 3])]


def test_a_pattern_holds_its_numbers() -> None:
    assert holds("{0..2,5..9..2}", 7)
    assert not holds("{0..2,5..9..2}", 6)
    assert holds("3", 3)
