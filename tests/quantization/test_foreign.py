from __future__ import annotations

from typing import Any

import pytest

from memcalc.quantization import scheme
from memcalc.quantization.foreign import from_config


@pytest.mark.parametrize(
    ("config", "section"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
          "bnb_4bit_quant_storage": "bfloat16", "llm_int8_skip_modules": None},
         {"name": "nf4", "double": True, "storage": "bfloat16"}),
        ({"load_in_4bit": True}, {"name": "fp4"}),
        ({"load_in_8bit": True, "llm_int8_skip_modules": ["lm_head"]}, {"name": "int8", "skip_modules": ["lm_head"]}),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1, "desc_act": True}, {"name": "gptq", "bits": 4, "group_size": -1}),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}, {"name": "awq", "bits": 4, "group_size": 128}),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 3, "group_size": 64}},
          "skip_modules": ["lm_head"]},
         {"name": "hqq", "bits": 3, "group_size": 64, "skip_modules": ["lm_head"]}),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, {"name": "fp8", "block_size": 128}),
        ({"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
         {"name": "mxfp4", "skip_modules": ["model.layers.*.self_attn"]}),
        ({"quant_method": "mxfp4", "dequantize": True}, None),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, {"name": "fp8-per-tensor"}),
        ({"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head", "*.gate"]},
         {"name": "nvfp4", "group_size": 16, "skip_modules": ["lm_head", r".*\.gate"]}),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": "lm_head"},
         {"name": "nvfp4", "skip_modules": ["lm_head"]}),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, None),
        ({"quant_method": "compressed-tensors"}, None),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_data": {}}}},
         {"name": "torchao-int8"}),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 64}}}},
         {"name": "torchao-int4", "group_size": 64}),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "UIntXWeightOnlyConfig"}}}, None),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, None),
        ({"quant_method": "aqlm"}, None),
        ({"quant_method": "quanto", "weights": "int4"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_a_quantization_config_in_our_words(config: dict[str, Any], section: dict[str, Any] | None) -> None:
    assert from_config(config) == section
    if section:
        assert scheme(section).name == section["name"]
