"""Adapters that scale or rotate: IA3 (Liu et al. 2022), VeRA (Kopiczko et al. 2024), OFT (Qiu et al. 2023)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from memcalc.adapters.parts import Part
from memcalc.adapters.spec import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcalc.adapters.sites import Site
    from memcalc.adapters.spec import Lora


def ia3(s: Site, _run: Lora) -> Iterator[Part]:
    """One factor per output, or per input of a feed-forward layer (peft, tuners/ia3/layer.py)."""
    features = s.inputs if s.feedforward else s.outputs
    if s.kernel:
        yield Part("ia3_l.default", (1, features, *(1 for _ in s.kernel)))
    else:
        yield Part("ia3_l.default", (1, features) if s.feedforward else (features, 1))


def vera(s: Site, _run: Lora) -> Iterator[Part]:
    """Two vectors around random matrices that all sites share (peft, tuners/vera/layer.py)."""
    yield Part("vera_lambda_b.default", (s.outputs,))
    yield Part("vera_lambda_d.default", (s.rank,))


def vera_projections(sites: Iterable[Site]) -> Iterator[Part]:
    """The shared frozen matrices: A [r, largest inputs], B [largest outputs, r] (tuners/vera/model.py, _find_dim)."""
    places = tuple(sites)
    rank = places[0].rank
    yield Part("vera_A.default", (rank, max(s.inputs for s in places)), trainable=False, buffer=True)
    yield Part("vera_B.default", (max(s.outputs for s in places), rank), trainable=False, buffer=True)


def oft(s: Site, run: Lora) -> Iterator[Part]:
    """Skew-symmetric blocks that rotate the inputs: b(b-1)/2 numbers each, and the indices of their triangle.

    (peft, tuners/oft/layer.py.) A block size, or number of blocks, that does not divide the inputs gives way to the
    nearest that does.
    """
    width = s.outputs if s.kind == "embedding" else s.inputs * (s.kernel[0] ** 2 if s.kernel else 1)
    count = _divisor(width, run.rank) if run.rank and not run.block_size else 0
    block = width // count if count else _divisor(width, run.block_size or BLOCK_SIZE)
    triangle = math.comb(block, 2)
    name = "oft_embedding_R.default" if s.kind == "embedding" else "oft_R.default"
    yield Part(f"{name}.weight", (1 if run.block_share else width // block, triangle))
    yield Part(f"{name}.rows", (triangle,), trainable=False, buffer=True, dtype="int64")
    yield Part(f"{name}.cols", (triangle,), trainable=False, buffer=True, dtype="int64")


def _divisor(width: int, wanted: int) -> int:
    """The divisor of `width` nearest to `wanted`, the lower of two as near (adjust_oft_parameters)."""
    if wanted >= width:
        return width
    higher = next(n for n in range(wanted, width + 1) if width % n == 0)
    lower = next(n for n in range(wanted, 0, -1) if width % n == 0)
    return lower if wanted - lower <= higher - wanted else higher
