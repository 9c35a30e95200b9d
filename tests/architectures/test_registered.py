"""Parameters are listed in the order in which the classes' __init__ registers their modules."""

from __future__ import annotations

import pytest

from memcalc.architectures import build


def both(module: str, *names: str) -> list[str]:
    """The weights and biases of those in a module."""
    return [f"{module}.{name}.{kind}".removeprefix(".") for name in names for kind in ("weight", "bias")]


# of one layer: its named_parameters() in transformers 5.23
ATTENTION = ["self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight"]
NORMS = ["input_layernorm.weight", "post_attention_layernorm.weight"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight"]
LAYERS = {
    "qwen3_moe": [*ATTENTION, "self_attn.q_norm.weight", "self_attn.k_norm.weight", *EXPERTS, *NORMS],
    "deepseek_v3": [
        "self_attn.q_a_proj.weight", "self_attn.q_a_layernorm.weight", "self_attn.q_b_proj.weight",
        "self_attn.kv_a_proj_with_mqa.weight", "self_attn.kv_a_layernorm.weight", "self_attn.kv_b_proj.weight",
        "self_attn.o_proj.weight", *EXPERTS, "mlp.shared_experts.gate_proj.weight",
        "mlp.shared_experts.up_proj.weight", "mlp.shared_experts.down_proj.weight", *NORMS,
    ],
    "gpt_neo": [
        "ln_1.weight", "ln_1.bias", "attn.attention.k_proj.weight", "attn.attention.v_proj.weight",
        "attn.attention.q_proj.weight", "attn.attention.out_proj.weight", "attn.attention.out_proj.bias", "ln_2.weight",
        "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
    ],
    "whisper": [
        "self_attn.k_proj.weight", *both("self_attn", "v_proj", "q_proj", "out_proj"), *both("", "self_attn_layer_norm"),
        "encoder_attn.k_proj.weight", *both("encoder_attn", "v_proj", "q_proj", "out_proj"),
        *both("", "encoder_attn_layer_norm", "fc1", "fc2", "final_layer_norm"),
    ],
    "wavlm": [
        "attention.gru_rel_pos_const", *both("attention", "k_proj", "v_proj", "q_proj", "out_proj", "gru_rel_pos_linear"),
        *both("", "layer_norm", "feed_forward.intermediate_dense", "feed_forward.output_dense", "final_layer_norm"),
    ],
    "WanTransformer3DModel": [
        "scale_shift_table", *both("attn1", "to_q", "to_k", "to_v", "to_out.0"), "attn1.norm_q.weight", "attn1.norm_k.weight",
        *both("attn2", "to_q", "to_k", "to_v", "to_out.0"), "attn2.norm_q.weight", "attn2.norm_k.weight",
        *both("", "norm2"), *both("ffn", "net.0.proj", "net.2"),
    ],
    "FluxTransformer2DModel": [
        *both("norm", "linear"), *both("", "proj_mlp", "proj_out"), "attn.norm_q.weight", "attn.norm_k.weight",
        *both("attn", "to_q", "to_k", "to_v"),
    ],
}  # fmt: skip
# of the embeddings
EMBEDDINGS = {
    "bert": ["word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight"],
    "electra": ["word_embeddings.weight", "position_embeddings.weight", "token_type_embeddings.weight"],
    "longformer": ["word_embeddings.weight", "token_type_embeddings.weight", "LayerNorm.weight", "LayerNorm.bias"],
}


@pytest.mark.parametrize("model_type", LAYERS)
def test_a_layers_parameters_are_listed_as_they_are_registered(model_type: str) -> None:
    layer, names = LAYERS[model_type], [tensor.name for tensor in build(model_type, {}).tensors if not tensor.buffer]
    last = next(name.removesuffix(layer[0]) for name in reversed(names) if name.endswith(layer[0]))
    assert [name.removeprefix(last) for name in names if name.startswith(last)] == layer


@pytest.mark.parametrize("model_type", EMBEDDINGS)
def test_tables_are_listed_as_they_are_registered(model_type: str) -> None:
    names, want = [tensor.name for tensor in build(model_type, {}).tensors if not tensor.buffer], EMBEDDINGS[model_type]
    first = next(place for place, name in enumerate(names) if name.endswith(want[0]))
    above = names[first].removesuffix(want[0])
    assert [name.removeprefix(above) for name in names[first : first + len(want)]] == want


def test_a_model_of_two_lists_each_ones_as_it_registers_them() -> None:
    decoder = {"model_type": "bert", "is_decoder": True, "add_cross_attention": True}
    names = [
        tensor.name
        for tensor in build("encoder-decoder", {"encoder": {"model_type": "bert"}, "decoder": decoder}).tensors
    ]
    for above in ("encoder.", "decoder.bert."):
        found = [name.removeprefix(f"{above}embeddings.") for name in names if name.startswith(f"{above}embeddings.")]
        assert found[:3] == EMBEDDINGS["bert"]


# in each tower of a model of images and texts: what its first layer's named_parameters() are in transformers 5.23
TOWERS = {
    "llava": (
        "model.vision_tower.encoder.layers.{0..22}.",
        [*both("self_attn", "k_proj", "v_proj", "q_proj", "out_proj"), *both("", "layer_norm1"), *both("mlp", "fc1", "fc2")],
    ),
    "gemma3": (
        "model.vision_tower.encoder.layers.{0..11}.",
        [*both("", "layer_norm1"), *both("self_attn", "k_proj", "v_proj", "q_proj", "out_proj"), *both("", "layer_norm2")],
    ),
    "mistral3": (
        "model.vision_tower.transformer.layers.{0..23}.",
        ["attention_norm.weight", *(f"feed_forward.{name}_proj.weight" for name in ("gate", "up", "down"))],
    ),
    "qwen3_asr": (
        "model.audio_tower.",
        [f"layers.{{0..23}}.self_attn.{name}" for name in both("", "k_proj", "v_proj")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("model_type", TOWERS)
def test_a_towers_parameters_are_listed_as_its_own_class_registers_them(model_type: str) -> None:
    above, first = TOWERS[model_type]
    names = [tensor.name for tensor in build(model_type, {}).tensors if not tensor.buffer]
    found = [name.removeprefix(above) for name in names if name.startswith(above)][: len(first)]
    assert found == first


def test_a_projection_that_is_registered_behind_the_text_is_listed_there() -> None:
    names = [tensor.name for tensor in build("mllama", {}).tensors]
    last = max(place for place, name in enumerate(names) if name.startswith("model.language_model."))
    assert names[last + 1].startswith("model.multi_modal_projector.")


def test_tokens_of_an_image_model_come_first() -> None:
    names = [tensor.name for tensor in build("dinov2", {}).tensors if not tensor.buffer]
    assert [name.rpartition(".")[2] for name in names[:3]] == ["cls_token", "mask_token", "position_embeddings"]
