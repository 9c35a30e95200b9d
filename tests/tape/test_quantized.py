"""Products with packed weights: what each library keeps and unpacks, for a square weight of N x N and R rows."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate

N, B, S, LAYERS = 1024, 2, 512, 2
R = B * S
CONFIG = {"model_type": "llama", "vocab_size": 512, "hidden_size": N, "intermediate_size": N, "num_hidden_layers": LAYERS,
          "num_attention_heads": 8}  # fmt: skip
WEIGHTS = 7 * LAYERS  # of N x N each


def memory(quantize: Any, **more: Any) -> Any:
    run = {"model": CONFIG, "precision": "bf16", "optimizer": "none", "batch_size": B, "seq_len": S}
    return estimate({**run, "lora": {"rank": 4, "targets": ["q_proj"]}, "quantize": quantize, **more}).memory


def kept(quantize: Any, **more: Any) -> int:
    return int(memory(quantize, **more).components.activations)


@pytest.mark.parametrize("name", ["gptq", "torchao-int8", "torchao-float8", "torchao-intx"])
def test_autograd_keeps_what_it_sees_unpacked(name: str) -> None:
    """All but the first layer's, below which nothing learns that asks for a gradient of the input."""
    assert kept(name) - kept("nf4") == pytest.approx(2 * N * N * (WEIGHTS - 3), rel=0.01)  # q, k and v of the first
    assert kept(name, checkpointing="full") == kept("nf4", checkpointing="full")


@pytest.mark.parametrize("name", ["hqq", "quanto-int8", "eetq"])
def test_some_keep_their_input(name: str) -> None:
    """Those of the three products with one input are one, and those of norms are kept anyway: an fp32 copy is q's adapter's."""
    assert kept(name) > kept("nf4") == kept("awq")


def test_a_weight_is_unpacked_beside_copies_of_it() -> None:
    """HQQ's integers, those less the zero point, and their product with the scale: of the widest matrix at a time."""
    wide = {**CONFIG, "intermediate_size": 16 * N}
    run = {"model": wide, "checkpointing": "full", "batch_size": 1, "seq_len": 16}
    found = [memory(name, **run) for name in ("hqq", "awq")]
    hqq, awq = (each.phases.forward - each.components.weights for each in found)
    assert hqq - awq == pytest.approx(2 * 2 * 16 * N * N, rel=0.01)


@pytest.mark.parametrize("name", ["fp8", "eetq"])
def test_kernels_that_read_packed_weights_unpack_them_in_the_backward_pass_alone(name: str) -> None:
    wide = {**CONFIG, "intermediate_size": 16 * N}
    run = {"model": wide, "checkpointing": "full", "batch_size": 1, "seq_len": 16}
    packed, unpacked = memory(name, **run), memory("awq", **run)
    ahead = [found.phases.forward - found.components.weights for found in (packed, unpacked)]
    assert ahead[1] - ahead[0] > 1.5 * 16 * N * N
    assert packed.phases.backward - packed.components.weights > 2 * 16 * N * N
