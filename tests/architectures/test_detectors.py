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
        ("rt_detr", {"decoder_layers": 0}, "one at least"),
        ("rt_detr", {"image_size": 96}, "300 queries are chosen among the 189 pixels"),
        ("rt_detr_v2", {"image_size": 32, "num_queries": 22}, "22 queries are chosen among the 21 pixels"),
        ("deformable_detr", {"decoder_layers": 0}, "one at least"),
        ("detr", {"position_embedding_type": "learned"}, "sinusoids"),
        ("table-transformer", {"position_embedding_type": "learned"}, "sinusoids"),
        ("table-transformer", {"decoder_attention_heads": 7}, "embed_dim must be divisible by num_heads"),
        ("timm_wrapper", {"architecture": "resnet50"}, "timm has its own modules"),
        ("pvt_v2", {"linear_attention": True}, "linear attention"),
        ("rt_detr_v2", {"decoder_method": "discrete"}, "bilinearly"),
        ("rt_detr", {"backbone_config": {"model_type": "swin"}}, "a backbone of the type 'swin'"),
        ("rt_detr", {"backbone": "resnet50d", "use_timm_backbone": True}, "timm's 'resnet50d'"),
        ("rt_detr", {"backbone_config": {"model_type": "rt_detr_resnet", "out_indices": [2, 3, 9]}}, "has 5 maps"),
        ("rt_detr", {"encoder_in_channels": [512, 1024]}, "2 maps are read, of 3"),
        ("rt_detr", {"decoder_attention_heads": 7}, "must be divisible by num_heads, but got 256 and 7"),
        ("deformable_detr", {"decoder_attention_heads": 7}, "must be divisible by num_heads, but got 256 and 7"),
        ("deformable_detr", {"num_feature_levels": 10**12}, "more than 32"),
        ("deformable_detr", {"two_stage": True, "with_box_refine": True}, "two stages"),
        ("mask2former", {"decoder_layers": 0}, "one at least"),
        ("maskformer", {"use_auxiliary_loss": True}, "the loss of its last layer"),
        ("maskformer", {"decoder_config": {"model_type": "conditional_detr"}}, "detr alone"),
        ("mask2former", {"num_attention_heads": 7}, "must be divisible by num_heads, but got 256 and 7"),
        ("mask2former", {"feature_strides": [4, 8, 16]}, "4, 8, 16 and 32 pixels"),
        ("mask2former", {"backbone_config": {"model_type": "vit"}}, "a backbone of the type 'vit'"),
        ("mask2former", {"backbone_config": {"model_type": "swin"}}, "4 maps are read, one of every stage"),
        ("sam2_vision_model", {"backbone_channel_list": [768, 384]}, "one number of channels for each"),
        (
            "sam2_vision_model",
            {"backbone_config": {"global_attention_blocks": [3]}},
            "layer 3, which pools, needs windows",
        ),
        ("FluxControlNetModel", {"num_mode": 10}, "union"),
        ("SD3ControlNetModel", {"use_pos_embed": False}, "shares its transformer's embeddings"),
        ("SD3ControlNetModel", {"pos_embed_type": None}, "sinusoids"),
        ("PixArtTransformer2DModel", {"attention_type": "gated"}, "GLIGEN"),
        ("MochiTransformer3DModel", {"activation_fn": "gelu"}, "swiglu alone"),
        ("llava_next_video", {"spatial_pool_mode": "conv"}, "a convolution shrinks"),
        ("owlvit", {"architectures": ["OwlViTModel"]}, "the head of OwlViTModel"),
        ("dpt", {"is_hybrid": True}, "convolutional backbone"),
        ("dpt", {"backbone_out_indices": [2, 5, 8, 10]}, "the last layer's among them"),
        ("depth_anything", {"head_in_index": 1}, "the last of the fused maps"),
        (
            "depth_anything",
            {"backbone_config": {"model_type": "dinov2", "out_indices": [9, 10, 11, 12]}},
            "reshape_hidden",
        ),
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


def test_more_texts_asked_of_an_image_take_more() -> None:
    run = {"precision": "fp32", "batch_size": 2, "optimizer": "sgd"}
    few, many = (
        estimate({**run, "model": {"model_type": "owlvit", "max_text_queries": count}}).memory for count in (1, 20)
    )
    patches, texts = (768 // 32) ** 2, 2 * 19  # 19 texts more for each of two images, whose tokens are 512 numbers
    logits, layers = 4 * texts * patches, 12 * 4 * texts * 16 * 512
    assert many.peak_allocated > few.peak_allocated + logits + 2 * layers


def test_the_layers_that_make_no_depth_do_not_learn() -> None:
    idle = {tensor.name for tensor in build("dpt", {}).tensors if tensor.idle}
    assert {"dpt.layernorm.weight", "neck.fusion_stage.layers.0.residual_layer1.convolution1.weight"} <= idle
    assert not any("readout" in name or "fusion_stage.layers.1" in name for name in idle)
    idle = {tensor.name for tensor in build("owlvit", {}).tensors if tensor.idle}
    assert idle == {"owlvit.visual_projection.weight", "owlvit.logit_scale"}
