"""What each method adds: to each site, and once for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.adapters import banks, factors, lowrank, lycoris, rotations, spectral, vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from memcalc.adapters.parts import Part
    from memcalc.adapters.sites import Site
    from memcalc.adapters.spec import Lora

BUILDERS: dict[str, Callable[[Site, Lora], Iterable[Part]]] = {
    "lora": lowrank.lora, "dora": lowrank.lora, "adalora": lowrank.adalora, "loha": lycoris.loha,
    "lokr": lycoris.lokr, "ia3": vectors.ia3, "vera": vectors.vera, "oft": vectors.oft,
    "boft": rotations.boft, "hra": rotations.hra, "road": rotations.road, "psoft": rotations.psoft,
    "beft": rotations.beft, "fourierft": spectral.fourierft, "waveft": spectral.waveft, "c3a": spectral.c3a,
    "shira": spectral.shira, "supertuning": spectral.supertuning, "frod": spectral.frod, "hira": factors.hira,
    "deft": factors.deft, "glora": factors.glora, "peanut": factors.peanut, "delora": factors.delora,
    "gralora": factors.gralora, "osf": factors.osf, "poly": factors.poly, "miss": factors.miss,
    "randlora": banks.randlora, "pvera": banks.pvera, "vblora": banks.vblora, "unilora": banks.unilora,
    "tinylora": banks.tinylora, "lily": banks.lily,
}  # fmt: skip
SHARED: dict[str, Callable[[tuple[Site, ...], Lora], Iterable[Part]]] = {
    "vera": lambda sites, _: vectors.vera_projections(sites), "randlora": banks.randlora_bases,
    "pvera": banks.pvera_projections, "vblora": banks.vblora_bank, "unilora": banks.unilora_vector,
    "tinylora": banks.tinylora_vectors, "lily": banks.lily_factors,
}  # fmt: skip
