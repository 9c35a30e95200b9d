"""Parameters that a token meets: everything but the routed experts it is not sent to.

Expected: each model's total less (experts - chosen) of its routed experts, embeddings and head included, counted on
the tensors of the real model. Vendors count differently: OpenAI leaves out the input embedding (3.61 and 5.13 billion
are these figures less 0.579 billion).
"""

from __future__ import annotations

import pytest

from memcalc.architectures import build
from memcalc.presets import find

ACTIVE = {
    "llama-4-scout": 17_172_894_720,
    "llama-4-scout-mm": 18_044_827_136,
    "llama-4-maverick": 17_184_691_200,
    "llama-4-maverick-mm": 18_056_623_616,
    "mixtral-8x7b": 12_879_925_248,
    "mixtral-8x22b": 39_152_031_744,
    "mixtral-8x22b-instruct": 39_161_468_928,
    "qwen1.5-moe-a2.7b": 2_689_173_504,
    "qwen2-57b-a14b": 14_249_270_784,
    "qwen3-30b-a3b": 3_353_032_704,
    "qwen3-235b-a22b": 22_190_763_520,
    "qwen3-coder-480b-a35b": 35_474_765_312,
    "qwen3-next-80b-a3b": 3_874_929_408,
    "phi-3.5-moe": 6_640_999_744,
    "deepseek-v2-lite": 2_661_150_208,
    "deepseek-v2": 21_375_800_320,
    "deepseek-v3": 37_552_282_624,
    "kimi-k2": 32_861_477_888,
    "moonlight-16b-a3b": 2_914_774_528,
    "glm-4.5": 33_632_251_904,
    "glm-4.5-air": 13_424_123_904,
    "gpt-oss-20b": 4_187_440_704,
    "gpt-oss-120b": 5_711_982_912,
    "olmoe-1b-7b": 1_282_017_280,
    "dbrx-132b": 36_469_708_800,
    "jamba-v0.1": 12_110_311_296,
    "deepseek-moe-16b": 2_828_650_496,
    "minimax-m2.5": 11_030_537_216,
    "mimo-v2-flash": 15_445_924_288,
    "deepseek-v3.2": 38_403_807_488,
    "deepseek-v4-flash": 13_799_622_231,
    "deepseek-v4-pro": 49_779_058_787,
    "gemma-4-26b-a4b": 4_395_322_672,
    "kimi-k2.5": 33_332_621_808,
    "nemotron-3-nano-30b-a3b": 3_580_073_408,
    "nemotron-3-super-120b-a12b": 12_770_216_960,
    "nemotron-3-ultra-550b-a55b": 56_058_818_560,
    "step-3.7-flash": 12_856_041_472,
    "glm-5": 41_784_709_632,
    "glm-5.2": 41_250_511_104,
    "qwen3-vl-235b-a22b": 22_767_151_856,
    "qwen3-vl-30b-a3b": 3_891_664_112,
    "qwen3.5-122b-a10b": 10_222_579_440,
    "qwen3.5-35b-a3b": 3_901_560_176,
    "qwen3.5-397b-a17b": 17_805_051_376,
}


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters(name: str) -> None:
    card = find("models", name)
    assert build(card["architecture"], card["dimensions"]).active == ACTIVE[name]


def test_a_dense_models_parameters_are_all_active() -> None:
    card = find("models", "nemotron-h-56b")
    model = build(card["architecture"], card["dimensions"])
    assert model.active == model.parameters == 56_324_350_464


def test_more_chosen_than_there_are_leaves_none_idle() -> None:
    sizes = {"num_local_experts": 2, "num_experts_per_tok": 4, "num_hidden_layers": 1}
    model = build("mixtral", sizes)
    assert model.active == model.parameters
