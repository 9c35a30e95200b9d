"""Adapters that turn or scale a layer: BOFT (Liu et al. 2024), HRA (Yuan et al. 2024), RoAd (Liao & Monz 2024), PSOFT, BEFT."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from memcalc.adapters.cards import integer, truth, word
from memcalc.adapters.parts import Part
from memcalc.errors import fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.adapters.sites import Site
    from memcalc.adapters.spec import Lora


def boft(s: Site, run: Lora) -> Iterator[Part]:
    """Blocks that rotate the inputs, once per butterfly factor, a scale per output, and the permutations.

    (peft, tuners/boft/layer.py.) The permutations P are whole matrices [factors, inputs, inputs]. More than one factor
    needs BOFT's CUDA extension: without it peft makes one.
    """
    width = s.inputs * (s.kernel[0] ** 2 if s.kernel else 1)
    block, count = _blocks(s, run, width)
    factors = integer(run, "boft_n_butterfly_factor")
    if factors < 1:
        raise fault("lora.options.boft_n_butterfly_factor", f"must be a positive integer; it is {factors}")
    if factors > 1 and width % (block * 2 ** (factors - 1)):
        raise fault("lora.options.boft_n_butterfly_factor", f"{factors} butterfly factors of blocks of {block} do not "
                                                            f"divide the {width} inputs of {s.module}")  # fmt: skip
    yield Part("boft_R.default", (factors, count, block, block))
    yield Part("boft_s.default", (1, s.outputs) if s.kernel else (s.outputs, 1))
    yield Part("boft_P", (factors, width, width), trainable=False, buffer=True, dtype="fp32")


def _blocks(s: Site, run: Lora, width: int) -> tuple[int, int]:
    """(size, number) of the blocks: one is asked for, the other follows."""
    size, number = integer(run, "boft_block_size"), integer(run, "boft_block_num")
    key, given = ("boft_block_num", number) if number else ("boft_block_size", size)
    if bool(size) == bool(number):
        raise fault(f"lora.options.{key}", "BOFT takes boft_block_size or boft_block_num (the other one 0), not both: "
                                           "together they make the inputs")  # fmt: skip
    if width % given:
        raise fault(f"lora.options.{key}", f"in_features ({width}) of {s.module} must be divisible by {key} ({given})")
    return (width // number, number) if number else (size, width // size)


def hra(s: Site, _run: Lora) -> Iterator[Part]:
    """Householder vectors, a column each (tuners/hra/layer.py)."""
    yield Part("hra_u.default", (s.inputs * math.prod(s.kernel), s.rank))


def road(s: Site, run: Lora) -> Iterator[Part]:
    """Angles and scales of pairs of outputs: shared by a pair, or one, or two per output (tuners/road/layer.py)."""
    group, variant = integer(run, "group_size"), word(run, "variant")
    share = {"road_1": 1, "road_2": 2, "road_4": 4}.get(variant)
    if share is None:
        raise fault("lora.options.variant", f"{variant}: the variants are road_1, road_2 and road_4")
    if group <= 0 or group % 2:
        raise fault("lora.options.group_size", f"must be a positive even number; it is {group}")
    if s.outputs % group:
        raise fault("lora.options.group_size", f"the {s.outputs} outputs of {s.module} must be divisible by {group}")
    yield Part("road_theta.default", (s.outputs * share // 2,))
    yield Part("road_alpha.default", (s.outputs * share // 2,))


def psoft(s: Site, run: Lora) -> Iterator[Part]:
    """A rotation of the space of rank r between the weight's principal factors, kept as buffers (tuners/psoft/layer.py)."""
    r = s.rank
    if r > min(s.inputs, s.outputs):
        raise fault("lora.rank", f"{r} must be at most the smaller side of {s.module}, {min(s.inputs, s.outputs)}")
    orthogonal, triangle = truth(run, "psoft_orth"), math.comb(r, 2)
    yield Part("psoft_R.default.weight", (triangle,) if orthogonal else (r, r))
    for letter in ("b", "a"):
        if truth(run, f"psoft_mag_{letter}"):
            yield Part(f"psoft_R.default.vector_{letter}", (r,))
    for name in ("rows", "cols") if orthogonal else ():
        yield Part(f"psoft_R.default.{name}", (triangle,), trainable=False, buffer=True, dtype="int64")
    yield Part("_psoft_A_cache.default", (r, s.inputs), trainable=False, buffer=True)
    yield Part("_psoft_B_cache.default", (s.outputs, r), trainable=False, buffer=True)


def beft(s: Site, _run: Lora) -> Iterator[Part]:
    """A bias (tuners/beft/layer.py)."""
    yield Part("beft_bias.default", (1, s.outputs))
