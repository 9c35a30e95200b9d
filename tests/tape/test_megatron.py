"""Megatron's own functions, counted by hand as Megatron-LM and Transformer Engine have them (no GPU here runs them)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memcalc.blocks.megatron import MegatronAttention
from memcalc.blocks.mlp import Router
from memcalc.tape import functions as f
from memcalc.tape.megatron import engine
from memcalc.tape.megatron.attention import exchanged, fused, returned, ring, unfused
from memcalc.tape.megatron.mixtures import dispatch
from memcalc.tape.recorder import Tape
from memcalc.tape.setting import Setting
from memcalc.tape.weights import Weights
from memcalc.ways import Ways
from tests.tape.tapes import live, parameter, peak, run_back, tape

if TYPE_CHECKING:
    from memcalc.tape.values import Value

B, S, HEADS, DIM = 2, 512, 8, 64
N = 2 * B * S * HEADS * DIM  # bytes of queries, or keys, or values, in bf16
ROWS = 4 * B * S * HEADS  # of a number for each row of each head


def projected(t: Tape) -> tuple[Value, Value, Value]:
    q, k, v = (f.scale(parameter(t, B, S, HEADS, DIM, dtype="bf16")) for _ in range(3))
    return q, k, v


def back(t: Tape, out: Value) -> int:
    """The most that the backward pass has beyond what is held before it, its incoming gradient included."""
    since, held = len(t.events), live(t)
    run_back(t, out)
    return peak(t, since) - held


@pytest.mark.parametrize(("kind", "statistics"), [("rms", 1), ("layer", 2)])
def test_a_norm_saves_its_input_and_its_weights_gradients_are_not_kept(kind: str, statistics: int) -> None:
    """transformer_engine/pytorch/ops/basic/{rmsnorm,layernorm}.py: dgamma (and dbeta) come beside dx, in x's dtype."""
    t, width = tape(), 8192
    out = engine.norm(t, f.scale(parameter(t, 1, 64, width, dtype="bf16")), kind)
    x = 2 * 64 * width
    assert live(t) == 2 * x + statistics * 512  # the input, the output; 64 numbers of 4 bytes in one grain
    assert back(t, out) == 2 * x + statistics * 2 * width  # the gradient that comes in, dx, and the weight's own


def test_fused_attention_saves_its_inputs_its_output_and_a_sum_for_each_row() -> None:
    """FusedAttnFunc: going back dq, dk, dv beside a sum for each row and dq's accumulator, both in fp32."""
    t = tape()
    out = fused(t, *projected(t), DIM)
    assert live(t) == 4 * N + ROWS
    assert back(t, out) == N + 3 * N + 2 * N + ROWS


def test_fused_attention_over_ranks_has_its_output_twice() -> None:
    """AttnFuncWithCPAndQKVOA2A: all that is saved lies as heads of this rank; the output goes on as its tokens."""
    t = tape()
    out = fused(t, *projected(t), DIM, 2)
    assert out.shape == (B, S, HEADS * DIM)
    assert live(t) == 5 * N + ROWS


@pytest.mark.parametrize("over", [2, 4])
def test_all_to_all_needs_three_and_there_and_back_is_the_same_shape(over: int) -> None:
    t = tape()
    x = t.new((B, S, HEADS, DIM), "bf16")
    there = exchanged(t, x, over)
    assert there.shape == (B, S * over, HEADS // over, DIM)
    assert peak(t) == 3 * N  # x; its parts, then what has come and the same in its order
    assert returned(t, there, over).shape == x.shape


def test_a_ring_saves_the_last_keys_and_values_and_passes_all() -> None:
    """AttnFuncWithCPAndKVP2P over 4 ranks, with 2 key/value heads for 8 of queries: k and v are N / 4 each."""
    t, over = tape(), 4
    q = f.scale(parameter(t, B, S, HEADS, DIM, dtype="bf16"))
    k, v = (f.scale(parameter(t, B, S, 2, DIM, dtype="bf16")) for _ in range(2))
    pair = N // 2
    given = live(t)
    assert given == N + pair
    out = ring(t, q, k, v, DIM, over)
    assert peak(t) == given + over * (pair + N) + N + ROWS  # those that came by, an output of each step, and their sum
    del q, k, v
    assert live(t) == N + pair + N + ROWS
    # what comes in, dq; two buffers of two pairs; the rows' sums, dq in fp32, a step's own dq and pair
    assert back(t, out) == N + N + 4 * pair + (ROWS + 2 * N) + (N + pair)


def test_unfused_attention_repeats_heads_for_the_queries_of_their_group() -> None:
    """DotProductAttention.forward: repeat_interleave by heads / groups, of keys and of values."""
    t = tape()
    q = t.new((B, S, HEADS, DIM), "bf16")
    k, v = (t.new((B, S, 2, DIM), "bf16") for _ in range(2))
    since = len(t.sizes)
    out = unfused(t, MegatronAttention(""), q, k, v)
    scores = 2 * B * HEADS * S * S
    assert out.shape == (B, S, HEADS * DIM)
    # keys, values, queries in their heads' order, the product and its copy in the tokens' order; scores, and their softmax
    assert sorted(t.sizes[since:]) == [N] * 5 + [scores] * 2


@pytest.mark.parametrize(("capacity", "pads", "sent"), [
    (0.0, False, 512),  # 256 tokens, 2 experts each
    (1.25, False, 512),  # no more than there is room for: a balanced load is
    (1.25, True, 640),  # room for 64 * 1.25 rows in each of 8 experts (get_capacity, moe_utils.py)
    (1.3, True, 672),  # 83.2 rows are 84 (ceil)
])  # fmt: skip
def test_rows_of_an_expert_are_padded_to_its_capacity(capacity: float, pads: bool, sent: int) -> None:
    t = Tape(Setting(ways=Ways(capacity=capacity, pads=pads, expert_tensor=2)), Weights((), str))
    plan = dispatch(t, Router("router", 512, 8, top_k=2), 256)
    assert plan == (sent, 2 * sent, 8)
