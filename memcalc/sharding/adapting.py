"""LoRA on Megatron-LM's modules: which of its linears the names of transformers' stand for."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.adapters.targets import ALL_LINEAR, targets_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.adapters.spec import Lora
    from memcalc.model import Model

LINEARS = {
    "linear_qkv": ("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value", "W_pack"),
    "linear_proj": ("o_proj", "out_proj", "dense"),
    "linear_fc1": ("gate_proj", "up_proj", "gate_up_proj", "c_fc", "w1", "w3"),
    "linear_fc2": ("down_proj", "w2"),
    "linear_q_proj": ("q_proj",),
    "linear_q_down_proj": ("q_a_proj",),
    "linear_q_up_proj": ("q_b_proj",),
    "linear_kv_down_proj": ("kv_a_proj_with_mqa",),
    "linear_kv_up_proj": ("kv_b_proj",),
}


def translated(lora: Lora, part: Model) -> Lora:
    """The same adapters with Megatron's names for their targets, in the dtype of its weights."""
    asked = targets_of(lora, part.architecture)
    names = (asked,) if isinstance(asked, str) else asked
    wanted = LINEARS if ALL_LINEAR in names else dict.fromkeys(_named(names))
    there = {word for tensor in part.tensors for word in tensor.name.split(".")}
    found = "|".join(name for name in wanted if name in there) or "linear_qkv"
    return replace(
        lora, targets=rf".*(?<!experts)\.({found})|.*\.experts\.({found})\.[0-9]+", dtype=lora.dtype or "bf16"
    )


def in_transformers_words(lora: Lora) -> Lora:
    """The same adapters with transformers' names for the linears that Megatron's stand for."""
    if lora.targets is None or isinstance(lora.targets, str):
        return lora
    return replace(lora, targets=tuple(other for name in lora.targets for other in LINEARS.get(name, (name,))))


def _named(asked: tuple[str, ...]) -> Iterator[str]:
    for name in asked:
        if name in LINEARS:
            yield name
        yield from (linear for linear, others in LINEARS.items() if name in others)


def as_linears(part: Model) -> Model:
    """The model with every expert's weights listed as a linear's, which adapters can be put on."""
    listed = tuple(replace(tensor, role="linear") if tensor.role == "expert" else tensor for tensor in part.tensors)
    made = replace(part)
    made.__dict__["tensors"] = listed
    return made
