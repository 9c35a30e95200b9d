"""Parameters are listed in the order in which the classes' __init__ registers their modules."""

from __future__ import annotations

import pytest

from memcalc.architectures import build

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
}  # fmt: skip


@pytest.mark.parametrize("model_type", LAYERS)
def test_a_layers_parameters_are_listed_as_they_are_registered(model_type: str) -> None:
    layer, names = LAYERS[model_type], [tensor.name for tensor in build(model_type, {}).tensors if not tensor.buffer]
    last = next(name.removesuffix(layer[0]) for name in reversed(names) if name.endswith(layer[0]))
    assert [name.removeprefix(last) for name in names if name.startswith(last)] == layer
