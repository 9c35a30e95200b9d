"""What stacked experts are made of: a weight and a bias for every row, their products, and the gate between them.

Source: transformers 5.23, integrations/moe.py, and the classes named below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.adapters import adapted_weight

if TYPE_CHECKING:
    from memcalc.blocks.base import Param
    from memcalc.blocks.mlp import Experts
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

# forwards whose gate bounds both of its factors (swiglu_limit)
CLAMPED = frozenset({"gpt_oss", "minimax_m3", "deepseek_v4", "step", "privacy"})


def gate(block: Experts, x: Value) -> Value:
    """_default_apply_gate; GptOssExperts._apply_gate, which clamps both and adds 1; BeamExperts', in fp32."""
    if block.formula == "beam":
        first, up = f.chunk(x, 2)
        return f.to(f.mul(activate(block.activation, f.to(first, "fp32")), f.to(up, "fp32")), x.dtype)
    if block.formula not in CLAMPED:
        first, up = f.chunk(x, 2)
        return f.mul(activate(block.activation, first), up)
    if block.formula == "gpt_oss":
        half = x.shape[-1] // 2
        first, up = f.narrow(x, -1, half), f.narrow(x, -1, half)
    else:
        first, up = f.chunk(x, 2)
    if block.formula == "step":
        return f.mul(f.clamp(activate(block.activation, first)), f.clamp(up))
    first, up = f.clamp(first), f.clamp(up)
    if block.formula == "deepseek_v4":
        return f.mul(activate(block.activation, first), up)
    return swiglu(first, up)


def swiglu(first: Value, up: Value) -> Value:
    """(up + 1) * first * sigmoid(alpha * first)."""
    glu = f.mul(first, f.sigmoid(f.scale(first)))
    return f.mul(f.shift(up), glu)


def weight_of(block: Experts, which: int) -> Param:
    """The experts' first weight, or their second."""
    return [param for param in block.params if not param.name.endswith("bias")][which]


def expert_weight(t: Tape, param: Param) -> Value:
    """The weight, unpacked whole where bitsandbytes keeps it by parametrization (nn/parametrize.py): autograd saves the copy."""
    if t.setting.packing.parametrized and t.weights.packed(t.path):
        return t.new(param.shape, t.setting.compute)
    return t.weight(param.name, param.shape)


def expert_bias(t: Tape, block: Experts, which: int, rows: int, order: Value) -> Value | None:
    """Every row's bias, where the experts have one."""
    name = f"{weight_of(block, which).name}_bias"
    bias = next((param for param in block.params if param.name == name), None)
    return f.index(t.weight(name, bias.shape), order, (rows, bias.shape[1])) if bias else None


def expert_linear(
    t: Tape, block: Experts, which: int, x: Value, offsets: Value, bias: Value | None, merged: list[Value]
) -> Value:
    """_grouped_linear: the product, and every row's bias added in place; the weight is among `merged` from then on."""
    weight = adapted_weight(t, expert_weight(t, weight_of(block, which)))
    merged.append(weight)
    out = f.grouped_mm(f.to(x, weight.dtype), weight if block.transposed else f.swap(weight), offsets)
    return f.add_(out, bias) if bias else out


def row_weights(t: Tape, block: Experts, which: int, expert: Value) -> tuple[Value, Value | None]:
    """A copy of its expert's weight, and bias, for each row."""
    param, rows = weight_of(block, which), expert.shape[0]
    weight = adapted_weight(t, expert_weight(t, param))
    selected = f.index(weight, expert, (rows, *param.shape[1:]))
    return selected, expert_bias(t, block, which, rows, expert)


def batched_linear(block: Experts, x: Value, weight: Value, bias: Value | None) -> Value:
    """_batched_linear."""
    if block.transposed:
        out = f.squeeze(f.bmm(*(f.lower(part) for part in (f.unsqueeze(x, 1), weight))), 1)
    else:
        out = f.squeeze(f.bmm(*(f.lower(part) for part in (weight, f.unsqueeze(x, -1)))), -1)
    return f.add_(out, bias) if bias else out
