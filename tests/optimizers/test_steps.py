"""Every optimizer that could be run against its recorded step: the bytes it keeps, and those it needs at the step's peak.

steps.jsonl has a line for each optimizer and implementation: `of` is its class, other keys are options as asked for, and
`found` lists [dtype, vocabulary, tied, bytes of states, bytes at the peak of the step over what stays]. Recorded tensor by
tensor from the third step of the library's own class (the eighth of those that warm up) on fake tensors with the
parameters of a llama of two layers: torch 2.13.0, pytorch_optimizer 4.1.0, torch-optimizer 0.3.0, torch-optimi 0.3.3,
schedulefree 1.4.1, dadaptation 3.2, prodigyopt 1.1.2, lion-pytorch 0.2.5, came-pytorch 0.1.3, adam-mini 1.1.1. Each
storage is rounded up to 512 bytes; scalars are not counted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from memcalc.optimizers import Parameter, resolve

HIDDEN, INTERMEDIATE, KEYS, LAYERS = 384, 1024, 128, 2
LAYER = {
    "self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (KEYS, HIDDEN), "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN), "mlp.gate_proj": (INTERMEDIATE, HIDDEN), "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE), "input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,),
}  # fmt: skip
ROWS = [json.loads(line) for line in (Path(__file__).parent / "steps.jsonl").read_text("utf-8").splitlines()]


def parameters(dtype: str, vocabulary: int, *, tied: bool) -> list[tuple[Parameter, int]]:
    """The parameters of the llama that was recorded, in its order: each with how many there are like it."""
    table = (vocabulary, HIDDEN)
    layer = [
        (
            Parameter(shape, dtype, "linear" if len(shape) > 1 else "norm", f"model.layers.{{0..1}}.{name}.weight"),
            LAYERS,
        )
        for name, shape in LAYER.items()
    ]
    head = [] if tied else [(Parameter(table, dtype, "linear", "lm_head.weight"), 1)]
    embedding = (Parameter(table, dtype, "embedding", "model.embed_tokens.weight"), 1)
    return [embedding, *layer, (Parameter((HIDDEN,), dtype, "norm", "model.norm.weight"), 1), *head]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['of']} {row.get('implementation', '')}".strip())
def test_a_step_is_that_of_the_library(row: dict[str, Any]) -> None:
    optimizer = resolve({"name": row["of"], **{key: value for key, value in row.items() if key not in {"of", "found"}}})
    optimizer = optimizer.for_model({"hidden_size": HIDDEN, "num_attention_heads": 6})
    for dtype, vocabulary, tied, kept, needed in row["found"]:
        group = parameters(dtype, vocabulary, tied=tied)
        weights = sum(p.elements * count for p, count in group) * (4 if dtype == "fp32" else 2)
        states = sum(
            -(-tensor.bytes // 512) * 512 * count
            for p, count in group
            for tensor in optimizer.states(p.shape, p.dtype, p.role, p.name)
            if tensor.device == "gpu" and tensor.bytes > 512
        )
        assert states == pytest.approx(kept, abs=1)
        peak = 2 * weights + kept + needed
        assert 2 * weights + states + optimizer.step_peak(group) == pytest.approx(peak, rel=0.005)


def test_the_table_is_whole() -> None:
    assert len(ROWS) > 200
    assert all(row["found"] for row in ROWS)
