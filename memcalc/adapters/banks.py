"""Adapters that layers share parts of: RandLoRA, PVeRA, VB-LoRA, UniLoRA, TinyLoRA, Lily (peft, tuners/<method>).

A method has the parts of each site and, once for all sites, those that are shared.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from memcalc.adapters.cards import integer
from memcalc.adapters.parts import Part
from memcalc.adapters.targets import ALL_LINEAR
from memcalc.errors import fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.adapters.sites import Site
    from memcalc.adapters.spec import Lora


def randlora(s: Site, _run: Lora) -> Iterator[Part]:
    """Scales of a sum of random products that has full rank (Albert et al. 2025)."""
    least = min(s.inputs, s.outputs)
    bases = math.ceil(least / s.rank)
    yield Part("randlora_lambda.default", (s.rank, bases))
    yield Part("randlora_gamma.default", (bases, least))


def randlora_bases(sites: tuple[Site, ...], run: Lora) -> Iterator[Part]:
    """The random bases for the largest side, B, and the smallest, A, of all layers (tuners/randlora/model.py)."""
    large = max(s.outputs for s in sites), max(s.inputs for s in sites)
    rank, least, most = run.rank or 1, min(large), max(large)
    yield Part("randlora_A.default", (rank, 1, least), trainable=False, buffer=True)
    yield Part("randlora_B.default", (most, math.ceil(least / rank), rank), trainable=False, buffer=True)


def pvera(s: Site, _run: Lora) -> Iterator[Part]:
    """VeRA's vectors, one of them for means and variances."""
    yield Part("pvera_lambda_b.default", (s.outputs,))
    yield Part("pvera_lambda_d.default", (2 * s.rank,))


def pvera_projections(sites: tuple[Site, ...], run: Lora) -> Iterator[Part]:
    """VeRA's matrices, A twice as high (tuners/pvera/model.py)."""
    rank = run.rank or 1
    yield Part("pvera_A.default", (2 * rank, max(s.inputs for s in sites)), trainable=False, buffer=True)
    yield Part("pvera_B.default", (max(s.outputs for s in sites), rank), trainable=False, buffer=True)


def vblora(s: Site, run: Lora) -> Iterator[Part]:
    """Logits that choose vectors of the bank for each stretch of A and B (Li et al. 2024)."""
    length, vectors = integer(run, "vector_length"), integer(run, "num_vectors")
    for side, features in (("in", s.inputs), ("out", s.outputs)):
        if features % length:
            what = f"{side}_features ({features}) of {s.module} must be divisible by it ({length})"
            raise fault("lora.options.vector_length", what)
    yield Part("vblora_logits_A.default", (s.rank, s.inputs // length, vectors))
    yield Part("vblora_logits_B.default", (s.outputs // length, s.rank, vectors))


def vblora_bank(_sites: tuple[Site, ...], run: Lora) -> Iterator[Part]:
    """The vectors."""
    yield Part("vblora_vector_bank.default", (integer(run, "num_vectors"), integer(run, "vector_length")))


def unilora(s: Site, _run: Lora) -> Iterator[Part]:
    """Which entry of the one vector, and how scaled, stands at each place of A and B."""
    for kind, dtype in (("indices", "int64"), ("scales", "")):
        for side, shape in (("A", (s.rank, s.inputs)), ("B", (s.outputs, s.rank))):
            yield Part(f"unilora_{kind}_{side}.default", shape, trainable=False, buffer=True, dtype=dtype)


def unilora_vector(_sites: tuple[Site, ...], run: Lora) -> Iterator[Part]:
    """The one vector that is trained."""
    yield Part("unilora_theta_d.default", (integer(run, "theta_d_length"),))


def tinylora(s: Site, run: Lora) -> Iterator[Part]:
    """The weight's first singular directions and random mixtures between them, all frozen."""
    inputs, outputs = (s.outputs, s.inputs) if s.kind == "embedding" else (s.inputs, s.outputs)
    rank = min(s.rank, inputs, outputs)
    shapes = (("A", (rank, inputs)), ("B", (outputs, rank)), ("P", (integer(run, "u"), rank, rank)))
    for name, shape in shapes:
        yield Part(f"tinylora_{name}.default", shape, trainable=False, buffer=True)


def tinylora_vectors(sites: tuple[Site, ...], run: Lora) -> Iterator[Part]:
    """Weights of the mixtures: one vector per group of layers, of which `weight_tying` 1 makes a single one."""
    layers, tying = sum(s.count for s in sites), float(run.options["weight_tying"] or 0.0)
    if not 0 <= tying <= 1:
        raise fault("lora.options.weight_tying", f"must be between 0 and 1; it is {tying}")
    groups = max(1, round(layers * (1.0 - tying)))
    used = min(math.ceil(layers / max(1, layers // groups)), groups)
    for group in range(used):
        yield Part(f"tinylora_v.default.{group}", (integer(run, "u"),))


def lily(s: Site, run: Lora) -> Iterator[Part]:
    """The router over the shared B, and an A where each layer has its own (tuners/lily/layer.py)."""
    rank = run.rank or 1
    if integer(run, "stride_A") == 1:
        yield Part("lily_A.default.weight", (rank, s.inputs))
    yield Part("lily_router.default.weight", (integer(run, "num_B"), rank))


def lily_factors(sites: tuple[Site, ...], run: Lora) -> Iterator[Part]:
    """The B of each group of alike layers, and an A for every `stride_A` of them (tuners/lily/model.py).

    Alike are those of one name and shape; of one shape where a regular expression names them all. all-linear is names.
    """
    pattern = run.targets if isinstance(run.targets, str) and run.targets.lower() != ALL_LINEAR else ""
    rank, stride = run.rank or 1, integer(run, "stride_A")
    groups: dict[tuple[str, int, int], int] = {}
    for s in sites:
        key = pattern or s.module.rpartition(".")[2], s.inputs, s.outputs
        groups[key] = groups.get(key, 0) + s.count
    for number, ((_, inputs, outputs), layers) in enumerate(groups.items()):
        yield Part(f"lily_B.default.{number}.weight", (integer(run, "num_B") * rank, outputs))
        for block in range(math.ceil(layers / stride) if stride > 1 else 0):
            yield Part(f"lily_A.default.{number}.{block}.weight", (rank, inputs))
