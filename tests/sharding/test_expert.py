"""Which part of stacked experts a rank holds: along the inner width, wherever a class has put that axis."""

from __future__ import annotations

import pytest

from memcalc.blocks.mlp import Experts
from memcalc.models import load_model
from memcalc.sharding.expert import divided_experts
from memcalc.ways import Ways

# packed_colwise and rowwise of base_model_tp_plan over two ranks, by hand: [experts, outputs, inputs] in mixtral's class,
# [experts, inputs, outputs] in those of gpt-oss, Llama 4 and the privacy filter; biases of the outputs
PARTS = {
    "mixtral-8x7b": {"gate_up_proj": (8, 14336, 4096), "down_proj": (8, 4096, 7168)},
    "gpt-oss-20b": {"gate_up_proj": (32, 2880, 2880), "down_proj": (32, 1440, 2880),
                    "gate_up_proj_bias": (32, 2880), "down_proj_bias": (32, 2880)},
    "llama-4-scout": {"gate_up_proj": (16, 5120, 8192), "down_proj": (16, 4096, 5120)},
    "privacy-filter": {"gate_up_proj": (128, 640, 640), "down_proj": (128, 320, 640),
                       "gate_up_proj_bias": (128, 640), "down_proj_bias": (128, 640)},
}  # fmt: skip


def stacked(name: str) -> Experts:
    """The first experts of a preset's model."""
    waiting = [load_model(name).body]
    while not isinstance(waiting[0], Experts):
        waiting = [*waiting.pop(0).parts(), *waiting]
    return waiting[0]


def refuse(_: str, reason: str) -> None:
    pytest.fail(reason)


@pytest.mark.parametrize("name", PARTS)
def test_a_rank_has_a_part_of_every_experts_inner_width(name: str) -> None:
    part = divided_experts(stacked(name), Ways(expert_tensor=2), refuse)
    assert {param.name: param.shape for param in part.own()} == PARTS[name]
