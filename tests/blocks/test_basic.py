"""The tensors of the modules everything is made of."""

from __future__ import annotations

import pytest

from memcalc.blocks.base import Block, Param
from memcalc.blocks.basic import (
    Activation,
    Conv,
    Dropout,
    Embedding,
    Linear,
    Norm,
    Raw,
    Scale,
    Softcap,
    TransposedLinear,
)

WEIGHT, BIAS = "weight", "bias"
KINDS: list[tuple[Block, tuple[Param, ...], str]] = [
    (Linear("", 3, 5), (Param(WEIGHT, (5, 3)),), "linear"),
    (Linear("", 3, 5, bias=True), (Param(WEIGHT, (5, 3)), Param(BIAS, (5,))), "linear"),
    (Linear("", 3, 5, tied_to="embed.weight"), (Param(WEIGHT, (5, 3), tied_to="embed.weight"),), "linear"),
    (
        Linear("", 3, 5, True, "embed.weight", "head.bias"),
        (Param(WEIGHT, (5, 3), tied_to="embed.weight"), Param(BIAS, (5,), tied_to="head.bias")),
        "linear",
    ),
    (TransposedLinear("", 3, 5, True), (Param(WEIGHT, (3, 5)), Param(BIAS, (5,))), "conv1d"),
    (Embedding("", 7, 3), (Param(WEIGHT, (7, 3)),), "embedding"),
    (Embedding("", 7, 3, trainable=False), (Param(WEIGHT, (7, 3), trainable=False),), "embedding"),
    (Norm("", 4), (Param(WEIGHT, (4,)),), "norm"),
    (Norm("", 4, heads=2), (Param(WEIGHT, (2, 4)),), "norm"),
    (Norm("", 4, "layer"), (Param(WEIGHT, (4,)), Param(BIAS, (4,))), "norm"),
    (Norm("", 4, "layer-no-bias"), (Param(WEIGHT, (4,)),), "norm"),
    (Norm("", 4, "group"), (Param(WEIGHT, (4,)), Param(BIAS, (4,))), "norm"),
    (Norm("", 4, "none"), (), "norm"),
    (Norm("", 4, "rms-no-weight"), (), "norm"),
    (
        Norm("", 4, "batch"),
        (
            Param(WEIGHT, (4,)), Param(BIAS, (4,)), Param("running_mean", (4,), buffer=True),
            Param("running_var", (4,), buffer=True), Param("num_batches_tracked", (), buffer=True, dtype="int64"),
        ),
        "norm",
    ),
    (Conv("", 6, 4, (3, 3)), (Param(WEIGHT, (4, 6, 3, 3)), Param(BIAS, (4,))), "conv"),
    (Conv("", 6, 6, (3,), conv_groups=6, bias=False), (Param(WEIGHT, (6, 1, 3)),), "conv"),
    (Raw("cls", (1, 1, 8)), (Param("", (1, 1, 8)),), "parameter"),
    (Raw("mean", (8,), buffer=True), (Param("", (8,), buffer=True),), "parameter"),
    (Dropout("", 0.1), (), "parameter"),
    (Activation("", "relu"), (), "parameter"),
    (Scale(""), (), "parameter"),
    (Softcap("", 30.0), (), "parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("block", "own", "role"), KINDS, ids=lambda value: type(value).__name__)
def test_a_module_owns_its_tensors(block: Block, own: tuple[Param, ...], role: str) -> None:
    assert block.own() == own
    assert block.role == role
    assert block.parts() == ()
