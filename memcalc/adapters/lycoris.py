"""Adapters of products of small matrices: LoHa (Hyeon-Woo et al. 2022) and LoKr (Yeh et al. 2024), as LyCORIS has them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from memcalc.adapters.parts import Part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.adapters.sites import Site
    from memcalc.adapters.spec import Lora


def loha(s: Site, run: Lora) -> Iterator[Part]:
    """(w1_a w1_b) ∘ (w2_a w2_b), each pair of rank r (peft, tuners/loha/layer.py, create_adapter_parameters)."""
    inputs = s.inputs // s.groups
    core = _effective(s, run)
    for w in ("1", "2"):
        if core:
            yield Part(f"hada_t{w}.default", (s.rank, s.rank, *core))
            yield Part(f"hada_w{w}_a.default", (s.rank, s.outputs))
            yield Part(f"hada_w{w}_b.default", (s.rank, inputs))
        else:
            yield Part(f"hada_w{w}_a.default", (s.outputs, s.rank))
            yield Part(f"hada_w{w}_b.default", (s.rank, inputs * math.prod(s.kernel)))


def lokr(s: Site, run: Lora) -> Iterator[Part]:
    """The Kronecker product w1 ⊗ w2, each whole where that is not larger than its factors (tuners/lokr/layer.py)."""
    outer_in, inner_in = factorization(s.inputs // s.groups, run.decompose_factor)
    outer_out, inner_out = factorization(s.outputs, run.decompose_factor)
    if run.decompose_both and s.rank < max(outer_out, outer_in) / 2:
        yield Part("lokr_w1_a.default", (outer_out, s.rank))
        yield Part("lokr_w1_b.default", (s.rank, outer_in))
    else:
        yield Part("lokr_w1.default", (outer_out, outer_in))
    core = _effective(s, run)
    if s.rank >= max(inner_out, inner_in) / 2:
        yield Part("lokr_w2.default", (inner_out, inner_in, *s.kernel))
    elif core:
        yield Part("lokr_t2.default", (s.rank, s.rank, *core))
        yield Part("lokr_w2_a.default", (s.rank, inner_out))
        yield Part("lokr_w2_b.default", (s.rank, inner_in))
    else:
        yield Part("lokr_w2_a.default", (inner_out, s.rank))
        yield Part("lokr_w2_b.default", (s.rank, inner_in * math.prod(s.kernel)))


def factorization(dimension: int, factor: int = -1) -> tuple[int, int]:
    """Two factors of a dimension, the smaller first: `factor` itself where it divides, else the most even pair below it.

    (peft, tuners/lokr/layer.py, factorization; -1 sets no bound.)
    """
    if factor > 0 and dimension % factor == 0:
        return factor, dimension // factor
    bound = dimension if factor == -1 else factor
    small = max((m for m in range(1, math.isqrt(dimension) + 1) if dimension % m == 0 and m <= bound), default=1)
    return small, dimension // small


def _effective(s: Site, run: Lora) -> tuple[int, ...]:
    """The kernel axes of the core tensor (always two) where a convolution is decomposed in Tucker's way, else ()."""
    if not run.effective_conv or not s.kernel or math.prod(s.kernel) == 1:
        return ()
    return (*s.kernel, 1) if len(s.kernel) == 1 else s.kernel
