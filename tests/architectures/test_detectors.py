"""Detectors that look at points, and ControlNets of transformers: what is refused, and what a step leaves without gradients."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate
from memcalc.architectures import build
from memcalc.errors import RunInvalid


@pytest.mark.parametrize(
    ("kind", "keys", "said"),
    [
        ("rt_detr", {"image_size": [640, 600]}, "multiples of 32"),
        ("rt_detr", {"learn_initial_query": True}, "learned queries"),
        ("rt_detr_v2", {"decoder_method": "discrete"}, "bilinearly"),
        ("rt_detr", {"backbone_config": {"model_type": "swin"}}, "a backbone of the type 'swin'"),
        ("deformable_detr", {"two_stage": True, "with_box_refine": True}, "two stages"),
        ("FluxControlNetModel", {"num_mode": 10}, "union"),
        ("SD3ControlNetModel", {"use_pos_embed": False}, "shares its transformer's embeddings"),
    ],
)
def test_what_is_not_known_is_refused(kind: str, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(RunInvalid, match=said):
        build(kind, keys)


def test_boxes_given_with_noise_are_counted() -> None:
    run = {"precision": "fp32", "batch_size": 4, "optimizer": "sgd", "image_size": 256}
    with_noise, without = (
        estimate(
            {**run, "model": {"model_type": "rt_detr", "num_labels": 80, "num_denoising": count}}
        ).memory.peak_allocated
        for count in (100, 0)
    )
    pairs = (
        4 * (4 * 100) ** 2
    )  # bytes of a number for each pair of boxes: those of an image are compared with all others'
    assert with_noise > without + 6 * 6 * pairs  # six layers, each of which keeps six such matrices at least


def test_of_many_states_the_last_are_added_nowhere() -> None:
    whole = {"num_layers": 2, "num_single_layers": 38}
    model = build("FluxControlNetModel", {"num_layers": 2, "num_single_layers": 12, "transformer": whole})
    idle = {tensor.name for tensor in model.tensors if tensor.idle}
    assert {"controlnet_single_blocks.{10..11}.weight", "single_transformer_blocks.{10..11}.proj_out.weight"} <= idle
    assert not any(name.startswith("controlnet_blocks") for name in idle)


def test_the_transformer_beside_a_controlnet_does_not_learn() -> None:
    model = build("SD3ControlNetModel", {"num_layers": 2, "transformer": {"num_layers": 4}})
    learning = {tensor.name.split(".")[0] for tensor in model.tensors if tensor.trainable}
    assert "transformer" not in learning
    assert any(tensor.name.startswith("transformer.") for tensor in model.tensors)
