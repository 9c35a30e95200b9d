"""LoRA's matrices as units of FSDP1's: who is one, and when the layer before is gathered."""

from __future__ import annotations

from memcalc import estimate
from memcalc.sharding.pairs import alone
from memcalc.tensors import Tensor

NAME = "model.layers.{0..31}.self_attn.q_proj"


def test_only_linear_layers_of_an_adapter_are_units() -> None:
    assert alone(Tensor(f"{NAME}.lora_A.default.weight", (8, 64), 1, "adapter"))
    assert not alone(Tensor(f"{NAME}.lora_embedding_A.default", (8, 64), 1, "adapter"))
    assert not alone(Tensor(f"{NAME}.weight", (64, 64), 1, "linear"))
    assert not alone(Tensor(f"{NAME}.lora_A.default.weight", (8, 64), 8, "adapter"))  # of as many experts


def test_the_layer_before_is_gathered_once_the_first_adapter_is_reached() -> None:
    """Adapters of the attention alone: while the MLP goes back, one layer's parameters are there, and not two."""
    base = {
        "model": "llama-3-8b",
        "precision": "bf16",
        "seq_len": 4096,
        "gpus": 8,
        "checkpointing": "full",
        "loss": "fused-linear",
    }
    sharding = {"strategy": "fsdp", "version": 1, "use_orig_params": True}
    runs = (
        {**base, "sharding": sharding, "lora": {"rank": 8, "targets": targets}}
        for targets in (["q_proj"], ["down_proj"])
    )
    attention, mlp = (estimate(run).memory.phases.backward for run in runs)
    layer = 2 * 218_112_000
    assert mlp - attention > layer // 2
