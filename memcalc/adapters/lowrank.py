"""Adapters of two thin matrices: LoRA (Hu et al. 2021), DoRA (Liu et al. 2024), AdaLoRA (Zhang et al. 2023)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from memcalc.adapters.parts import Part
from memcalc.adapters.spec import uses_dora
from memcalc.errors import fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.adapters.sites import Site
    from memcalc.adapters.spec import Lora


def lora(s: Site, run: Lora) -> Iterator[Part]:
    """A [r, inputs] and B [outputs, r]; with DoRA a magnitude per output (peft, tuners/lora/layer.py)."""
    if s.parameter:
        yield from _on_parameter(s)
        return
    yield from _on_embedding(s, run) if s.kind == "embedding" else _on_layer(s)
    if run.lora_bias:
        yield Part("lora_B.default.bias", (s.outputs,))
    if uses_dora(run):
        yield Part("lora_magnitude_vector.default.weight", _magnitude(s))


def adalora(s: Site, _run: Lora) -> Iterator[Part]:
    """P Λ Q of the initial rank: lora_A, lora_B, the singular values lora_E, and ranknum.

    `ranknum` is meant to be frozen; moving it to a 16-bit base module makes it a trainable parameter again
    (peft, tuners/adalora/layer.py, update_layer; _move_adapter_to_device_of_base_layer).
    """
    yield Part("lora_A.default", (s.rank, s.inputs * math.prod(s.kernel)))
    yield Part("lora_B.default", (s.outputs, s.rank))
    yield Part("lora_E.default", (s.rank, 1))
    yield Part("ranknum.default", (1,), trainable=False, revived=True)


def _on_layer(s: Site) -> Iterator[Part]:
    """Of a convolution, A has its kernel and B one of size 1 with its groups."""
    if s.rank % s.groups:
        raise fault("lora.rank", f"{s.rank} is not divisible by the {s.groups} groups of the convolution {s.module}")
    yield Part("lora_A.default.weight", (s.rank, s.inputs, *s.kernel))
    yield Part("lora_B.default.weight", (s.outputs, s.rank // s.groups, *(1 for _ in s.kernel)))


def _on_embedding(s: Site, run: Lora) -> Iterator[Part]:
    if run.lora_bias:
        raise fault("lora.lora_bias", f"does not go with adapters on embeddings ({s.module})")
    yield Part("lora_embedding_A.default", (s.rank, s.inputs))
    yield Part("lora_embedding_B.default", (s.outputs, s.rank))


def _on_parameter(s: Site) -> Iterator[Part]:
    """One rank per expert: A [r·experts, inputs], B [outputs, r·experts] (ParamWrapper); the wrappers are nested."""
    wrapper = "base_layer." * s.depth
    yield Part(f"{wrapper}lora_A.default.weight", (s.rank * s.experts, s.inputs))
    yield Part(f"{wrapper}lora_B.default.weight", (s.outputs, s.rank * s.experts))


def _magnitude(s: Site) -> tuple[int, ...]:
    """A norm per output channel: of an embedding per column; of a convolution it keeps the axes."""
    return (1, s.outputs, *(1 for _ in s.kernel)) if s.kernel else (s.outputs,)
