"""Whose kernel takes the place of a norm, a rotation or a gated activation: Liger's, or what torch.compile makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f

if TYPE_CHECKING:
    from types import ModuleType

    from memcalc.blocks.basic import Norm
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def unsloths(t: Tape) -> ModuleType | None:
    """Unsloth's functions over layers with LoRA, where the run has them."""
    if "lora" not in t.setting.fused or t.setting.adapter != "lora" or t.setting.lora_dropout:
        return None
    from memcalc.tape.hf import unsloth  # noqa: PLC0415 - few runs have them

    return unsloth


def takes(t: Tape, part: str) -> bool:
    """Whether a kernel takes the place of this part (rope, mlp)."""
    return part in t.setting.fused or "compiled" in t.setting.fused


def takes_norm(t: Tape, norm: Norm) -> bool:
    """Whether a kernel takes the place of this norm."""
    fused = t.setting.fused
    return bool(fused) and ("compiled" in fused or "torch-norm" in fused or bool(_whose(t).takes(t, norm)))


def rms_norm(t: Tape, x: Value, weight: Value | None) -> Value:
    """The norm of the last dimension."""
    if "torch-norm" in t.setting.fused:
        return f.rms_norm(x, weight)
    out: Value = _whose(t).rms_norm(t, x, weight)
    return out


def gated(gate: Value, up: Value) -> Value:
    """act(gate) * up."""
    out: Value = _whose(gate.tape).gated(gate, up)
    return out


def rope(q: Value, k: Value, tables: tuple[Value, Value]) -> tuple[Value, Value]:
    """Queries and keys [batch, heads, seq, dim], rotated."""
    rotated: tuple[Value, Value] = _whose(q.tape).rope(q, k, tables)
    return rotated


def _whose(t: Tape) -> ModuleType:
    """The file of the kernels that the run has."""
    if "compiled" in t.setting.fused:
        from memcalc.tape.hf import compiled  # noqa: PLC0415 - most runs have no such kernels

        return compiled
    from memcalc.tape.hf import liger  # noqa: PLC0415

    return liger
