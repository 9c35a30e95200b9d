"""Gpu: what a training process finds on one device: usable bytes, what the runtime takes of them, rates, price.

A device is what a framework counts as one: a die of an MI250X, a core of a TPU v3. Figures come from presets/gpus; what
the CUDA context, cuBLAS and NCCL take comes from presets/overheads.
"""

from __future__ import annotations

import re
from dataclasses import field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from memcalc import presets
from memcalc.dataclass import dataclass
from memcalc.errors import UnknownName, fault
from memcalc.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MIB: Final = 2**20
GIB: Final = 2**30

_MAKERS: Final = frozenset({"nvidia", "geforce", "tesla", "amd", "instinct", "radeon", "intel", "google", "aws"})
_SIZE: Final = re.compile(r"[+-]?[0-9._]+(?:e[+-]?[0-9]+)?\s*(?:[kmgtp](?:i?b)?|b|bytes)", re.ASCII | re.IGNORECASE)
_PCIE_LANE: Final = {"3.0": 0.985, "4.0": 1.969, "5.0": 3.938, "6.0": 7.563}  # GB/s in one direction (PCI-SIG)


@dataclass(frozen=True)
class Gpu:
    """One device. `usable` is all a process can ever get, its own context included; 0 and empty mean not known.

    `context` (bytes) is what the runtime and its loaded kernels take outside the framework's allocator;
    `cublas_workspace` (bytes) is taken inside it, once for each stream that multiplies matrices. `bandwidth` is the
    memory's, `link` the fabric's to its neighbours, `pcie` the host's, in GB/s (1e9 bytes), links in both directions
    together. `tflops` are dense peaks by dtype, `reached` what large matrix products attained. `price` is the lowest
    and the highest seen, in USD per device and hour. `assumed` says how an ambiguous name was read.
    """

    name: str
    title: str
    usable: int
    usable_how: str
    vendor: str = ""
    arch: str = ""
    capability: str = ""
    context: int = 0
    cublas_workspace: int = 0
    bandwidth: float = 0.0
    tflops: Mapping[str, float] = field(default_factory=dict, hash=False)
    reached: Mapping[str, float] = field(default_factory=dict, hash=False)
    link: float = 0.0
    link_kind: str = ""
    pcie: float = 0.0
    per_node: int = 8
    price: tuple[float, float] | None = None
    bf16: bool = True
    fp8: bool = True
    note: str = ""
    assumed: str = ""
    source: str = ""


@lru_cache(maxsize=256)
def gpu(spec: str | int) -> Gpu:
    """The device of that id, alias or reported name in any spelling ("NVIDIA H100 80GB HBM3"), or of a size ("80GiB").

    UnknownName where there is none, with the nearest; RunInvalid for a size that is none.
    """
    wanted = str(spec).strip()
    name = known(wanted)
    if name:
        return _of_preset(presets.find("gpus", name), wanted)
    if _SIZE.fullmatch(wanted):
        return _of_size(wanted)
    unit = f", or say what memory it has: {wanted}GiB" if wanted.isdecimal() and len(wanted) < 4 else ""
    raise UnknownName("GPU", wanted, presets.index().get("gpus", {}), f"memcalc gpus{unit}")


def communicator_bytes(device: Gpu, ranks: int, communicators: int = 1, *, all_to_all: bool = False) -> int:
    """Bytes that NCCL or RCCL keeps on each of `ranks` devices, outside the allocator; none on one device or a TPU.

    Estimates from measured communicators (presets/overheads/cuda.yaml): the first by the kind of link, each further one
    less, an all-to-all over every pair its own.
    """
    if ranks < 2 or communicators < 1 or device.link_kind == "ici":
        return 0
    table = presets.find("overheads", "cuda")["nccl"]
    first = table["pcie"] if not device.link_kind else table["nvswitch" if device.link >= 900 else "nvlink"]
    return int(first + table["another"] * (communicators - 1) + table["all_to_all"] * all_to_all) * MIB


def communicators_measured() -> tuple[int, int]:
    """The least and the most bytes of one communicator that anybody measured (presets/overheads/cuda.yaml)."""
    least, most = presets.find("overheads", "cuda")["nccl_measured"]
    return least * MIB, most * MIB


def known(wanted: str) -> str:
    """The id or alias in the index that `wanted` spells, or nothing."""
    if presets.has("gpus", wanted):
        return wanted
    return _spellings().get(_squeezed(wanted), "") if wanted else ""


@lru_cache(maxsize=1)
def _spellings() -> dict[str, str]:
    return {_squeezed(name): name for name in presets.index().get("gpus", {})}


def _squeezed(name: str) -> str:
    """A name without its maker, spaces, dashes and case; "80G" and "80 GiB" at its end become "80gb"."""
    words = re.split(r"[^a-z0-9.]+", name.lower())
    return re.sub(r"([0-9])g(?:i?b)?$", r"\1gb", "".join(word for word in words if word not in _MAKERS))


def _of_preset(card: Mapping[str, Any], wanted: str) -> Gpu:
    usable, name, assumed = _memory(card, wanted)
    capability, link = str(card.get("compute_capability", "")), card.get("link", {})
    pcie = _pcie(link.get("pcie", ""))
    price = card.get("price")
    return Gpu(
        name=name,
        title=card["title"],
        usable=usable,
        usable_how=card["memory"]["how"],
        vendor=card["vendor"],
        arch=card["arch"],
        capability=capability,
        context=_context(card, capability),
        cublas_workspace=_cublas(card, capability),
        bandwidth=float(card["bandwidth"]),
        tflops=card["tflops"],
        reached=card.get("tflops_reached", {}),
        link=float(link.get("gb_s", pcie)),
        link_kind=link.get("kind", ""),
        pcie=pcie,
        per_node=card["per_node"],
        price=(float(price["low"]), float(price["high"])) if price else None,
        bf16=card["bf16"],
        fp8=card["fp8"],
        note=card.get("note", ""),
        assumed=assumed or _shared(card, wanted),
        source=card["source"]["memory"],
    )


def _of_size(wanted: str) -> Gpu:
    """A nameless device with exactly that many usable bytes."""
    try:
        usable = parse_bytes(wanted)
    except ValueError as error:
        raise fault("gpu", str(error)) from None
    if not usable:
        raise fault("gpu", f"{wanted!r} is no memory at all")
    title = f"a GPU with {format_bytes(usable, 'auto')}"
    return Gpu(wanted, title, usable, "given", context=_context({}, ""), cublas_workspace=_cublas({}, ""))


def _memory(card: Mapping[str, Any], wanted: str) -> tuple[int, str, str]:
    """Usable bytes, the name that says which size was meant, and what was assumed of it."""
    memory = card["memory"]
    if "visible_gib" in memory:
        return gib_bytes(min(memory["visible_gib"])), card["id"], ""
    sizes: Sequence[int] = memory["unified_gib"]
    asked = next((size for size in sorted(sizes, reverse=True) if _squeezed(wanted).endswith(f"{size}gb")), 0)
    size = asked or min(sizes)
    others = "" if asked else f"it is sold with {', '.join(map(str, sizes))} GiB; the smallest was taken"
    # Metal's default working set (torch.mps.recommended_max_memory)
    return size * GIB * 2 // 3 if size <= 36 else size * GIB * 3 // 4, f"{card['id']}-{size}gb", others


def gib_bytes(gib: float) -> int:
    """Whole bytes of a number of GiB as it is written, without a float's rounding."""
    return parse_bytes(f"{gib!r}GiB")


def _shared(card: Mapping[str, Any], wanted: str) -> str:
    number = {_squeezed(name): number for name, number in card.get("instances", {}).items()}.get(_squeezed(wanted))
    if number:
        return f"{wanted!r} has {number} of {card['id']}; as many run as gpus says"
    others = {_squeezed(name): text for name, text in card.get("shared", {}).items()}.get(_squeezed(wanted))
    return f"{wanted!r} is read as {card['id']}; there are others ({others})" if others else ""


def _context(card: Mapping[str, Any], capability: str) -> int:
    if "context_mib" in card:
        return int(card["context_mib"]) * MIB
    table = presets.find("overheads", "cuda")
    return int(table["context"].get(capability, table["context"]["default"]) + table["kernels"]) * MIB


def _cublas(card: Mapping[str, Any], capability: str) -> int:
    if card.get("vendor", "nvidia") not in {"nvidia", "amd"}:
        return 0
    table = presets.find("overheads", "cuda")["cublas_workspace"]
    return int(table.get(capability, table["default"]))


def _pcie(text: str) -> float:
    """GB/s of "5.0 x16", both directions together."""
    generation, _, lanes = text.partition(" x")
    return round(2 * _PCIE_LANE[generation] * int(lanes), 1) if lanes else 0.0
