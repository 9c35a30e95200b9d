"""Adapters that train few entries of a whole update: FourierFT (Gao et al. 2024), WaveFT, C3A, SHiRA, SuperTuning, FRoD."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.adapters.cards import truth
from memcalc.adapters.parts import Part
from memcalc.errors import fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcalc.adapters.sites import Site
    from memcalc.adapters.spec import Lora


def fourierft(s: Site, _run: Lora) -> Iterator[Part]:
    """n coefficients of a spectrum as large as the weight; where they lie is kept on the host (tuners/fourierft/layer.py)."""
    _fits(s, s.rank, "n_frequency")
    yield Part("fourierft_spectrum.default", (s.rank,))


def waveft(s: Site, _run: Lora) -> Iterator[Part]:
    """n wavelet coefficients (tuners/waveft/layer.py)."""
    _fits(s, s.rank, "n_frequency")
    yield Part("waveft_spectrum.default", (s.rank,))


def c3a(s: Site, _run: Lora) -> Iterator[Part]:
    """Circulant blocks, a vector each, always in fp32 (tuners/c3a/layer.py)."""
    for side, features in (("input", s.inputs), ("output", s.outputs)):
        if features % s.rank:
            what = f"the block size ({s.rank}) should be a factor of the {side} size of {s.module} ({features})"
            raise fault("lora.rank", what)
    yield Part("c3a_kernel.default", (s.outputs // s.rank, s.inputs // s.rank, s.rank))


def shira(s: Site, _run: Lora) -> Iterator[Part]:
    """As many entries of the weight as LoRA of that rank has, and their places (int32) (tuners/shira/layer.py)."""
    entries = s.rank * (s.inputs + s.outputs)
    _fits(s, entries, "rank · (inputs + outputs)")
    yield Part("shira_weight.default", (entries,))
    yield Part("shira_indices.default", (2, entries), trainable=False, buffer=True, dtype="int32")


def supertuning(s: Site, run: Lora) -> Iterator[Part]:
    """The largest (or smallest) entries beyond a sparsity, their places, and LoRA's pair if asked (tuners/supertuning)."""
    sparsity = float(run.options["sparsity"] or 0.0)
    if not 0 <= sparsity < 1:
        raise fault("lora.options.sparsity", f"must be in [0, 1); it is {sparsity}")
    entries = int(s.inputs * s.outputs * (1.0 - sparsity))
    if entries < 1:
        raise fault("lora.options.sparsity", f"{sparsity} leaves no entry of {s.module} to train")
    yield Part("supertuning_values.default", (entries,))
    if s.rank:
        yield Part("supertuning_lora_A.default.weight", (s.rank, s.inputs))
        yield Part("supertuning_lora_B.default.weight", (s.outputs, s.rank))
    yield Part("supertuning_indices.default", (entries,), trainable=False, buffer=True, dtype="int32")


def frod(s: Site, run: Lora) -> Iterator[Part]:
    """The diagonal and a sparse part of a matrix between two fixed ones, which stay on the host (tuners/frod/layer.py)."""
    rate, square = float(run.options["sparse_rate"] or 0.0), s.inputs * s.inputs
    entries = min(int(square * rate), square - s.inputs)
    yield Part("frod_lambda_l.default", (s.inputs,))
    yield Part("frod_lambda_s_values.default", (max(entries, 1) if rate > 0 < square - s.inputs else entries,))


def proportional(sites: Iterable[Site], run: Lora) -> dict[str, int]:
    """WaveFT's coefficients per module in proportion to its weight, at least one (tuners/waveft/model.py)."""
    places = tuple(sites)
    if run.method != "waveft" or not truth(run, "proportional_parameters"):
        return {}
    total = sum(s.count * s.inputs * s.outputs for s in places)
    budget = (run.rank or 0) * sum(s.count for s in places)
    return {s.module: max(1, round(s.inputs * s.outputs / total * budget)) for s in places}


def _fits(s: Site, entries: int, what: str) -> None:
    if entries > s.inputs * s.outputs:
        raise fault(
            "lora.rank", f"{what} must be at most the entries of {s.module}: {entries} of {s.inputs * s.outputs}"
        )
