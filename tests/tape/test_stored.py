"""Frozen weights that are stored in a dtype of their own, under autocast.

torch 2.13.0, aten/src/ATen/autocast_mode.cpp cached_cast: every floating dtype but that of autocast is cast for a product, and
float8_e4m3fn counts as floating; F.linear then saves the cast weight where its input needs a gradient (seen with
saved_tensors_hooks: a Linear(64, 128) in float8 saves bfloat16 [64, 128]).
"""

from __future__ import annotations

from typing import Any

from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run

LAYERS, WIDTH, TEXT, POOLED = 3, 128, 96, 64
FLUX = {"_class_name": "FluxTransformer2DModel", "num_layers": 1, "num_single_layers": LAYERS, "attention_head_dim": 64,
        "num_attention_heads": 2, "joint_attention_dim": TEXT, "pooled_projection_dim": POOLED, "guidance_embeds": False,
        "axes_dims_rope": [8, 28, 28]}  # fmt: skip
RUN: dict[str, Any] = {
    "model": FLUX,
    "image_size": 256,
    "seq_len": 32,
    "lora": {"rank": 4, "dtype": "fp32", "targets": ["proj_out"]},
}


def kept(frozen: str, **more: Any) -> int:
    """Activations at the peak, which is the end of the forward pass here."""
    memory = estimate_run(parse_run({**RUN, "precision": {"recipe": "amp-bf16", "frozen": frozen}, **more})).memory
    return memory.components.activations


def test_what_is_stored_in_8_bits_is_cast_as_what_is_stored_in_32() -> None:
    assert kept("fp8") == kept("fp32")


def test_cast_weights_live_until_their_backward() -> None:
    # from the second single layer on the input has a gradient, the first adapter's: proj_mlp, q, k and v, proj_out of a layer
    # and the output's projection to 64 channels are kept as they were cast, two bytes each; modulations come from the time
    layer = 4 * WIDTH * WIDTH + 3 * WIDTH * WIDTH + 5 * WIDTH * WIDTH
    assert kept("fp8") - kept("bf16") == 2 * ((LAYERS - 1) * layer + 64 * WIDTH)


def test_checkpoints_keep_none() -> None:
    assert kept("fp8", checkpointing="full") < kept("bf16")
