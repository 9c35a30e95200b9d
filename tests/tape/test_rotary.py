"""Ways to rotate, and in-place and choosing operations, counted by hand in tensors (formulas: transformers' modeling files)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memcalc.blocks.attention import Attention
from memcalc.tape import functions as f
from memcalc.tape.hf.rotary import rotary_tables, rotate
from tests.tape.tapes import live, parameter, run_back, tape

if TYPE_CHECKING:
    from memcalc.blocks.attention import Rotation
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

B, H, S, D = 2, 4, 32, 16
HEADS, TABLE = B * H * S * D * 2, S * D * 2  # bytes in bf16 of all heads, of one table


def heads(t: Tape) -> Value:
    return parameter(t, B, H, S, D, dtype="bf16")


def kept(kind: Rotation, dim: int = D, *, fp32: bool = False) -> int:
    """Bytes alive after queries and keys are rotated: the tables, what autograd saves, and the two outputs."""
    t = tape()
    tables = rotary_tables(t, 1, S, dim, "fp32" if fp32 else "bf16")
    block = Attention("", H, H, D, rotary_dim=dim, rotation=kind, rotary_fp32=fp32)
    outputs = rotate(block, heads(t), heads(t), tables)
    assert all(out.dtype == "bf16" and out.shape == (B, H, S, D) for out in outputs)
    return live(t)


@pytest.mark.parametrize(
    ("kind", "dim", "fp32", "expected"),
    [
        ("", D, False, 2 * HEADS + 2 * TABLE),  # LlamaAttention
        ("", D, True, 2 * HEADS + 4 * TABLE),  # OlmoAttention: tables in fp32, the sums cast back
        ("", D // 2, False, 2 * HEADS + TABLE),  # PhiAttention: half the channels, joined to the others by a copy
        ("spread", D, False, 2 * HEADS + 2 * TABLE),  # CohereAttention: everything in fp32, cast back
        ("pairs-whole", D, False, 2 * HEADS + 4 * TABLE),  # HeliumAttention: tables repeated in every layer
        ("pairs", D, False, 2 * HEADS + 4 * TABLE),  # GlmAttention
        ("pairs-fp32", D, True, 2 * HEADS + 8 * TABLE),  # Ernie4_5Attention
    ],
)
def test_what_a_rotation_leaves(kind: Rotation, dim: int, fp32: bool, expected: int) -> None:
    assert kept(kind, dim, fp32=fp32) == expected


def test_a_clamp_in_place_saves_what_was_there() -> None:
    t = tape()
    x = f.scale(parameter(t, 16, 64))
    y = f.clamp_(x)
    assert y.storage is x.storage
    assert live(t) == 2 * 4096


def test_a_choice_saves_its_condition() -> None:
    t = tape()
    a, b = parameter(t, 16, 64), parameter(t, 16, 64)
    out = f.where(f.compare(a), a, b)
    assert live(t) == 4096 + 1024
    run_back(t, out)
    assert live(t) == 3 * 4096  # the output and two gradients


def test_a_square_stays_in_half_precision_under_autocast() -> None:
    t = tape("bf16")
    assert f.squared(t.new((16, 64), "bf16")).dtype == "bf16"
    assert f.square(t.new((16, 64), "bf16")).dtype == "fp32"


def test_broadcast_heads_have_no_fused_kernel() -> None:
    t = tape()
    q, k = heads(t), parameter(t, B, 1, S, D, dtype="bf16")
    assert f.attention(q, k, k).storage is not None
    fused = live(t)
    t = tape()
    q, k = heads(t), parameter(t, B, 1, S, D, dtype="bf16")
    out = f.attention(q, k, k, gqa=False)
    assert live(t) > fused
    assert out.shape == (B, H, S, D)
