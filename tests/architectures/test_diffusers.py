"""Models of diffusers: long skips, heads by an old name, streams that end, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.architectures import build
from memcalc.blocks.attention import Attention
from memcalc.blocks.basic import Conv
from memcalc.blocks.image import Join, Keep, Resample
from memcalc.blocks.joint import JointAttention, JointBlock
from memcalc.blocks.unet import ResBlock
from memcalc.errors import RunInvalid
from tests.architectures.walk import kinds

UNET: dict[str, Any] = {
    "block_out_channels": [32, 64], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "cross_attention_dim": 40, "sample_size": 16,
}  # fmt: skip
SD3: dict[str, Any] = {
    "num_attention_heads": 3,
    "attention_head_dim": 16,
    "num_layers": 3,
    "caption_projection_dim": 48,
}


def test_a_class_is_found_in_any_case() -> None:
    assert build("unet2dconditionmodel", UNET).tensors == build("UNet2DConditionModel", UNET).tensors


@pytest.mark.parametrize("layers", [1, 2, [1, 3]])
def test_every_state_that_is_kept_is_joined(layers: int | list[int]) -> None:
    model = build("UNet2DConditionModel", {**UNET, "layers_per_block": layers})
    assert len(kinds(model, Keep)) == len(kinds(model, Join))


def test_joined_states_widen_what_a_residual_block_reads() -> None:
    up = [r for r in kinds(build("UNet2DConditionModel", UNET), ResBlock) if isinstance(r.conv1, Conv)][-6:]
    assert [r.conv1.inputs for r in up if isinstance(r.conv1, Conv)] == [128, 128, 96, 96, 64, 64]


def test_the_map_is_halved_and_doubled_again_between_levels() -> None:
    model = build("UNet2DConditionModel", UNET)
    assert len([conv for conv in kinds(model, Conv) if conv.stride == 2]) == len(kinds(model, Resample)) == 1
    assert model.image == (4, 16, 16)


def test_attention_head_dim_is_the_number_of_heads() -> None:
    heads = {mixer.heads for mixer in kinds(build("UNet2DConditionModel", UNET), Attention)}
    assert heads == {8}  # diffusers keeps to the name its first configs had


def test_the_last_layer_of_sd3_ends_the_text_stream() -> None:
    blocks = kinds(build("SD3Transformer2DModel", {**SD3, "dual_attention_layers": [0]}), JointBlock)
    assert [block.context_mlp is None for block in blocks] == [False, False, True]
    assert [block.dual is None for block in blocks] == [False, True, True]
    outs = [mixer.context_out for mixer in (b.attention for b in blocks) if isinstance(mixer, JointAttention)]
    assert [out is None for out in outs] == [False, False, True]


def test_sd3s_positions_are_a_stored_buffer_and_pixarts_are_not() -> None:
    buffers = [t.name for t in build("SD3Transformer2DModel", SD3).tensors if t.buffer]
    assert buffers == ["pos_embed.pos_embed"]
    assert not any(t.buffer for t in build("PixArtTransformer2DModel", {"num_layers": 1}).tensors)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"down_block_types": ["KDownBlock2D", "DownBlock2D"]}, "model.down_block_types"),
        ({"addition_embed_type": "text_image"}, "model.addition_embed_type"),
        ({"attention_type": "gated"}, "model.attention_type"),
        ({"class_embed_type": "no such"}, "model.class_embed_type"),
    ],
)
def test_what_is_not_known_of_a_unet_is_refused(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(RunInvalid) as caught:
        build("UNet2DConditionModel", {**UNET, **changes})
    assert [fault.where for fault in caught.value.faults] == [where]
