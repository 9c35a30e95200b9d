"""Model types whose code lies beside their weights: their counts are the published ones of well-known sizes."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.architectures import build

# parameters as the hub's own metadata counts the stored tensors (buffers not among them)
PUBLISHED: list[tuple[str, int, dict[str, Any]]] = [
    # internlm/internlm2-7b
    ("internlm2", 7_737_708_544, {"vocab_size": 92544, "intermediate_size": 14336, "num_key_value_heads": 8, "bias": False}),
    # baichuan-inc/Baichuan2-7B-Base, Baichuan2-13B-Base
    ("baichuan", 7_505_973_248, {"vocab_size": 125696, "max_position_embeddings": 4096}),
    (
        "baichuan", 13_896_668_160,
        {"vocab_size": 125696, "hidden_size": 5120, "intermediate_size": 13696, "num_hidden_layers": 40,
         "num_attention_heads": 40, "model_max_length": 4096},
    ),
    # THUDM/chatglm3-6b
    ("chatglm", 6_243_584_000, {"add_qkv_bias": True, "multi_query_attention": True, "multi_query_group_num": 2}),
    # Qwen/Qwen-7B
    ("qwen", 7_721_324_544, {}),
    # openbmb/MiniCPM-2B-sft-bf16
    (
        "minicpm", 2_724_880_896,
        {"hidden_size": 2304, "intermediate_size": 5760, "num_hidden_layers": 40, "num_attention_heads": 36,
         "vocab_size": 122753},
    ),
    # LGAI-EXAONE/EXAONE-3.5-7.8B-Instruct
    (
        "exaone", 7_818_448_896,
        {"hidden_size": 4096, "num_layers": 32, "intermediate_size": 14336, "num_key_value_heads": 8,
         "tie_word_embeddings": False},
    ),
    # microsoft/Phi-3-small-8k-instruct
    ("phi3small", 7_392_272_384, {}),
    # tiiuae/falcon-7b and falcon-40b as first published
    (
        "RefinedWebModel", 6_921_720_704,
        {"vocab_size": 65024, "hidden_size": 4544, "n_layer": 32, "n_head": 71, "multi_query": True, "parallel_attn": True},
    ),
    ("RefinedWeb", 41_303_293_952, {"vocab_size": 65024, "hidden_size": 8192, "n_layer": 60, "n_head": 128, "n_head_kv": 8}),
    # stabilityai/stablelm-3b-4e1t as first published
    ("stablelm_epoch", 2_795_443_200, {}),
]  # fmt: skip


@pytest.mark.parametrize(("model_type", "parameters", "given"), PUBLISHED)
def test_the_parameters_are_the_published_ones(model_type: str, parameters: int, given: dict[str, Any]) -> None:
    assert build(model_type, given).parameters == parameters


def block(group: int | None, mult: float | None) -> dict[str, Any]:
    """A layer of a searched Llama: attention with `group` heads to a key/value head or none, an MLP or none."""
    return {
        "attention": {"n_heads_in_group": group, "no_op": group is None},
        "ffn": {"ffn_mult": mult, "no_op": mult is None},
    }


def test_a_searched_llama_has_layers_of_many_kinds() -> None:
    """Widths as block_config.py rounds them: 2/3 of ffn_mult * hidden, up to a multiple of 256."""
    layers = [block(4, 2.625), block(None, 1.0), block(2, None), block(4, 2.625)]
    sizes = {"hidden_size": 512, "num_attention_heads": 8, "num_hidden_layers": 4, "vocab_size": 100}
    model = build("nemotron-nas", {**sizes, "block_configs": layers})
    shapes = {t.name: t.shape for t in model.tensors}
    assert shapes["model.layers.{0,3}.self_attn.k_proj.weight"] == (128, 512)
    assert shapes["model.layers.{0,3}.mlp.up_proj.weight"] == (1024, 512)  # 896 rounded up
    assert shapes["model.layers.1.mlp.up_proj.weight"] == (512, 512)  # 341 rounded up
    assert shapes["model.layers.2.self_attn.k_proj.weight"] == (256, 512)
    assert not any(name.startswith(("model.layers.1.self_attn", "model.layers.2.mlp")) for name in shapes)
    assert "model.layers.1.input_layernorm.weight" not in shapes
