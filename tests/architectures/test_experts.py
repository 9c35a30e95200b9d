from __future__ import annotations

import pytest

from memcalc.architectures import build
from memcalc.architectures.experts import corrected_router, mixture, per_layer, router, stacked_experts
from memcalc.blocks.base import Stack
from memcalc.blocks.mlp import Moe
from memcalc.dimensions import Dimensions
from memcalc.errors import RunInvalid
from memcalc.tensors import tensors

C = Dimensions({"hidden_size": 8, "num_experts_per_tok": 2, "num_hidden_layers": 3, "hidden_act": "gelu"})
TINY = {"hidden_size": 16, "vocab_size": 32, "num_attention_heads": 2, "num_hidden_layers": 4}


def shapes(block: object) -> dict[str, tuple[int, ...]]:
    return {t.name: t.shape for t in tensors(block)}  # type: ignore[arg-type]


def test_stacked_experts_hold_gate_and_up_in_one_matrix_outputs_first() -> None:
    assert shapes(stacked_experts(C, 4, 6)) == {"experts.gate_up_proj": (4, 12, 8), "experts.down_proj": (4, 8, 6)}


def test_transposed_experts_hold_inputs_first_and_biases_one_row_an_expert() -> None:
    assert shapes(stacked_experts(C, 4, 6, bias=True, transposed=True)) == {
        "experts.gate_up_proj": (4, 8, 12), "experts.down_proj": (4, 6, 8),
        "experts.gate_up_proj_bias": (4, 12), "experts.down_proj_bias": (4, 8),
    }  # fmt: skip


def test_experts_without_a_gate_in_a_latent_space() -> None:
    latent = stacked_experts(C, 4, 6, hidden=5, gated=False)
    assert shapes(latent) == {"experts.up_proj": (4, 6, 5), "experts.down_proj": (4, 5, 6)}
    assert latent.activation == "gelu"


def test_a_corrections_buffer_is_no_parameter() -> None:
    gate = corrected_router(C, 4)
    buffers = {t.name: t.dtype for t in tensors(gate) if t.buffer}
    assert buffers == {"gate.e_score_correction_bias": "fp32"}
    assert sum(t.parameters for t in tensors(gate)) == 4 * 8


def test_a_mixture_sends_tokens_where_its_router_says() -> None:
    assert mixture(C, router(C, 4), 6).top_k == 2


def test_old_words_for_layers_are_todays() -> None:
    words = C.but(layer_types=["mamba", "attention", "deepseek_sparse_attention"])
    assert per_layer(words, "layer_types", []) == ["linear_attention", "full_attention", "indexed_attention"]


def test_a_list_of_another_length_than_the_layers_is_refused() -> None:
    with pytest.raises(RunInvalid, match="layer_types names 2 layers, but there are 4"):
        build("gpt_oss", {**TINY, "num_key_value_heads": 1, "layer_types": ["full_attention"] * 2})


def test_an_unknown_mark_in_a_pattern_of_blocks_is_refused() -> None:
    with pytest.raises(RunInvalid, match="nemotron_h"):
        build("nemotron_h", {"hybrid_override_pattern": "MXM"})


@pytest.mark.parametrize(
    ("model_type", "kinds"), [("jamba", 3), ("deepseek_v3", 2), ("glm_moe_dsa", 2), ("qwen3_next", 2), ("gpt_oss", 2)]
)
def test_layers_of_one_kind_are_one_value(model_type: str, kinds: int) -> None:
    model = build(model_type, {"num_hidden_layers": 12})
    stack = next(b for b in walk(model.body) if isinstance(b, Stack) and b.name == "layers")
    assert len({id(layer) for layer in stack.layers}) == kinds


def test_a_prefix_puts_experts_in_a_module_beside_the_shared_ones() -> None:
    model = build("granitemoehybrid", {**TINY, "shared_intermediate_size": 24, "mamba_n_heads": 4})
    names = {t.name for t in model.tensors}
    assert "model.layers.{0..3}.block_sparse_moe.experts.down_proj" in names
    assert "model.layers.{0..3}.shared_mlp.output_linear.weight" in names
    assert any(isinstance(block, Moe) and block.shared for block in walk(model.body))


def walk(block: object) -> list[object]:
    return [block, *(inner for part in block.parts() for inner in walk(part))]  # type: ignore[attr-defined]
