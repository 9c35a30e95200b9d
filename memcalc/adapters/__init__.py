"""Adapters beside a frozen base model: LoRA and its kin, virtual tokens, trained copies, as peft 0.21 makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.adapters.result import Adapted
from memcalc.adapters.spec import Lora

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions
    from memcalc.tensors import Tensor

__all__ = ["Adapted", "Lora", "adapt"]


def adapt(
    tensors: tuple[Tensor, ...],
    lora: Lora,
    model_type: str = "",
    dimensions: Dimensions | None = None,
    base_dtype: str = "bf16",
) -> Adapted:
    """The tensors of a model with adapters on it (peft, get_peft_model).

    `model_type` finds the library's default targets; `dimensions` are the model's config.json, which virtual tokens
    need; `base_dtype` is what the base is stored in ('quantized' where it will be packed). Shapes are the logical ones:
    quantise `Adapted.tensors` afterwards. RunInvalid names the key of the section that can't be.
    """
    from memcalc.adapters.apply import apply  # noqa: PLC0415 - runs without adapters need only the words

    return apply(tensors, lora, model_type, dimensions, base_dtype)
