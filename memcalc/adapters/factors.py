"""Adapters of small factors per layer: HiRA, DEFT, GLoRA, PEANuT, DeLoRA, GraLoRA, OSF, Poly, MiSS (peft, tuners/<method>)."""

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

PATHS = {"config_A_B": ("constant", "lora", "none", "vector"), "config_C": ("lora", "none", "vector"),
         "config_D_E": ("constant", "none", "vector")}  # fmt: skip


def hira(s: Site, _run: Lora) -> Iterator[Part]:
    """A and B of LoRA's shapes, whose product multiplies the weight (Huang et al. 2025)."""
    infix = "_embedding" if s.kind == "embedding" else ""
    yield Part(f"hira{infix}_A.default", (s.rank, s.inputs, *s.kernel))
    yield Part(f"hira{infix}_B.default", (s.outputs, s.rank, *(1 for _ in s.kernel)))


def deft(s: Site, run: Lora) -> Iterator[Part]:
    """A projection of the outputs and, but for PaRa, what is put in its place."""
    if word(run, "decomposition_method") not in ("qr", "relu"):
        raise fault("lora.options.decomposition_method", "must be one of qr, relu")
    yield Part("deft_P.default", (s.outputs, s.rank))
    if not truth(run, "para"):
        yield Part("deft_R.default", (s.rank, s.inputs))


def glora(s: Site, run: Lora) -> Iterator[Part]:
    """W + W·A + B, and with a bias b + b·D + E + W·C: each path a product, a vector, a number, or zeros (Chavan et al. 2023)."""
    for key, known in PATHS.items():
        if word(run, key) not in known:
            raise fault(f"lora.options.{key}", f"{word(run, key)}: valid values are {', '.join(known)}")
    for letter in "AB":
        yield from _path(
            f"glora_{letter}.default", word(run, "config_A_B"), (s.outputs, s.inputs), (s.outputs, 1), s.rank
        )
    shape = (s.inputs, 1)
    yield from _path("glora_C.default", word(run, "config_C") if s.bias else "none", shape, shape, s.rank)
    for letter in "DE":
        kind = word(run, "config_D_E") if s.bias else "none"
        yield from _path(f"glora_{letter}.default", kind, (s.outputs,), (s.outputs,), s.rank)


def _path(name: str, kind: str, shape: tuple[int, ...], vector: tuple[int, ...], rank: int) -> Iterator[Part]:
    if kind == "lora":
        yield Part(f"{name}.Xd", (shape[0], rank))
        yield Part(f"{name}.Xu", (rank, shape[1]))
    elif kind == "none":
        yield Part(f"{name}.zeros", shape, trainable=False, buffer=True, dtype="base")
    else:
        yield Part(f"{name}.X", vector if kind == "vector" else (1,))


def peanut(s: Site, run: Lora) -> Iterator[Part]:
    """A network that makes the update from the weight: A over the outputs, B back, and hidden layers between them."""
    yield Part("peanut_A.default.weight", (s.rank, s.outputs))
    yield Part("peanut_B.default.weight", (s.outputs, s.rank))
    for side in ("encoders", "decoders"):
        for layer in range(integer(run, "depth")):
            yield Part(f"peanut_{side}.default.{layer}.weight", (s.rank, s.rank))


def delora(s: Site, _run: Lora) -> Iterator[Part]:
    """A, B and a bound on their product, beside the norms of the weight's columns (Bini et al. 2025)."""
    yield Part("delora_A.default", (s.rank, s.inputs))
    yield Part("delora_B.default", (s.outputs, s.rank))
    yield Part("delora_lambda.default", (1,))
    yield Part("delora_w_norm.default", (s.inputs,), trainable=False, buffer=True)


def gralora(s: Site, run: Lora) -> Iterator[Part]:
    """A pair per block of the weight, k blocks on each side, and LoRA's pair of `hybrid_r` beside them."""
    blocks, hybrid = integer(run, "gralora_k"), integer(run, "hybrid_r")
    if s.rank % blocks or s.inputs % blocks or s.outputs % blocks:
        raise fault("lora.options.gralora_k", f"{blocks} must divide the rank ({s.rank}) and both sides of {s.module}")
    yield Part("gralora_A.default", (blocks, s.inputs // blocks, s.rank))
    yield Part("gralora_B.default", (blocks, s.rank, s.outputs // blocks))
    if hybrid:
        yield Part("gralora_A_general.default.weight", (hybrid, s.inputs))
        yield Part("gralora_B_general.default.weight", (s.outputs, hybrid))


def osf(s: Site, _run: Lora) -> Iterator[Part]:
    """All but the first `rank` singular directions of the weight, in its dtype; their start and the rest as buffers.

    (tuners/osf/layer.py.) Without a rank half of the directions are frozen.
    """
    least = min(s.inputs, s.outputs)
    high = min(s.rank, least) if s.rank else least // 2
    low = least - high
    for name, shape in (("S_low", (low,)), ("U_low", (s.outputs, low)), ("V_low", (low, s.inputs))):
        yield Part(f"osf_svd_params.default.{name}", shape)
    for name, shape in (("U", (s.outputs, low)), ("S", (low,)), ("V", (low, s.inputs))):
        yield Part(f"_osf_{name}_low_init.default", shape, trainable=False, buffer=True)
    if s.outputs > s.inputs:
        yield Part("_osf_U_high.default", (s.outputs, high), trainable=False, buffer=True)
    elif s.outputs < s.inputs:
        yield Part("_osf_V_high.default", (high, s.inputs), trainable=False, buffer=True)


def poly(s: Site, run: Lora) -> Iterator[Part]:
    """Skills, LoRA pairs in splits, and the logits that mix them for each task (Ponti et al. 2022)."""
    tasks, skills, splits = (integer(run, f"n_{what}") for what in ("tasks", "skills", "splits"))
    yield Part("poly_lora_A.default", (splits, skills, s.inputs // splits, s.rank))
    yield Part("poly_lora_B.default", (splits, skills, s.rank, s.outputs // splits))
    yield Part("poly_router.default.module_logits", (tasks, splits * skills))


def miss(s: Site, run: Lora) -> Iterator[Part]:
    """A block that all stretches of r inputs share (Kang & Yin 2024); `bat` (Bone): a block of r·r per r outputs."""
    if s.rank > s.inputs:
        raise fault("lora.rank", f"{s.rank} must be at most in_features ({s.inputs}) of {s.module}")
    init, least = word(run, "init_weights"), math.gcd(s.inputs, s.outputs)
    if init == "bat":
        if least % s.rank:
            raise fault(
                "lora.rank", f"the weight matrix of {s.module} must be fully divisible into [{s.rank}, {s.rank}] blocks"
            )
        yield Part("miss_block.default", (s.outputs // s.rank, s.rank, s.rank))
        return
    mini = integer(run, "mini_r")
    if init == "mini" and s.outputs % mini:
        raise fault("lora.options.mini_r", f"the {s.outputs} outputs of {s.module} must be divisible by it ({mini})")
    yield Part("miss_block.default", (s.rank, mini if init == "mini" else s.outputs))
