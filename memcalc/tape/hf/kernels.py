"""Whose kernel takes the place of a norm, a rotation or a gated activation: Liger's, or what torch.compile makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape.hf import compiled, liger

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
    return "compiled" in t.setting.fused or liger.takes(t, norm)


def rms_norm(t: Tape, x: Value, weight: Value | None) -> Value:
    """The norm of the last dimension."""
    return compiled.rms_norm(t, x, weight) if "compiled" in t.setting.fused else liger.rms_norm(t, x, weight)


def gated(gate: Value, up: Value) -> Value:
    """act(gate) * up."""
    return compiled.gated(gate, up) if "compiled" in gate.tape.setting.fused else liger.gated(gate, up)


def rope(q: Value, k: Value, tables: tuple[Value, Value]) -> tuple[Value, Value]:
    """Queries and keys [batch, heads, seq, dim], rotated."""
    return compiled.rope(q, k, tables) if "compiled" in q.tape.setting.fused else liger.rope(q, k, tables)
