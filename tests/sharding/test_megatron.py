"""Megatron-LM's distributed optimizer: what its switches keep of the main parameters, on Llama 2 7B over 8 ranks."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate

P = 6_738_415_616  # a multiple of 8 * 128, so that no buffer is padded


@pytest.mark.parametrize(("options", "each"), [
    ({}, 4),  # main parameters in fp32
    ({"use_precision_aware_optimizer": True}, 2),  # of which bf16 weights lack 16 bits (store_param_remainders)
    ({"use_precision_aware_optimizer": True, "store_param_remainders": False}, 4),
    ({"use_precision_aware_optimizer": True, "main_params_dtype": "fp16"}, 2),
])  # fmt: skip
def test_main_parameters(options: dict[str, Any], each: int) -> None:
    """OptimizerConfig (megatron/core/optimizer/optimizer_config.py) and Transformer Engine's FusedAdam."""
    sharding = {"strategy": "megatron", "distributed_optimizer": True, **options}
    held = estimate({"model": "llama-2-7b", "gpus": 8, "sharding": sharding}).memory.components
    assert held.master_weights == each * P // 8
