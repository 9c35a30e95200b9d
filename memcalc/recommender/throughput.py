"""How long a step takes: a model that is simple enough to be stated, made for ranking runs and not for a stopwatch.

A step is `grad_accum` micro steps and one step of the optimizer. Matrix products run at a share of the GPU's dense rate,
every tensor that is made is moved twice over its memory, gradients and gathered weights travel over the links, and
overlap with the computation where the framework overlaps them. The shares are in presets/overheads/speed.yaml.
Not in it: kernel launches, data loading, checkpoints being written, and how well a certain shape of product does.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, NamedTuple

from memcalc.dataclass import dataclass
from memcalc.presets import find

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.gpus import Gpu
    from memcalc.recommender.work import Work

GIGA = 10**9
TERA = 10**12
SLOWEST = 31.5  # GB/s both ways of PCIe 3.0 x16, where a preset says nothing of its links
GATHERING = frozenset({"zero3", "fsdp", "hsdp"})  # weights travel to where they are needed, forward and backward


class Load(NamedTuple):
    """What one rank of a run does beside its micro step; sizes in bytes.

    `weights` are those of the rank's replica, as they are gathered, `gradients` those it reduces; `updated` is all that
    the optimizer's step reads and writes on the GPU, `hosted` what it updates in host memory, `paged` what a step fetches
    from there and sends back, `staged` what a micro step does. `tensor_traffic` is what tensor parallelism sends in a micro
    step.
    """

    dtype: str = "bf16"
    strategy: str = "none"
    gpus: int = 1
    data: int = 1
    pipeline: int = 1
    grad_accum: int = 1
    weights: int = 0
    gradients: int = 0
    updated: int = 0
    fused: bool = True
    hosted: int = 0
    paged: int = 0
    staged: int = 0
    weights_from_host: bool = False
    tensor_traffic: int = 0


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds of one optimizer step on one GPU, and of its parts; `busy` is the share of the dense rate that is used."""

    seconds: float
    parts: Mapping[str, float] = field(default_factory=dict)
    busy: float = 0.0


def pace(work: Work, load: Load, card: Gpu) -> Pace | None:
    """The time of a step; None where the rates of the GPU are not known (a bare size) or it lacks the dtype."""
    peak = rate(card, load.dtype)
    if not peak or not card.bandwidth:
        return None
    shares = find("overheads", "speed")
    products = (work.flops - work.attention) / products_rate(card, load.dtype, shares)
    attention = work.attention / (peak * _by_capability(shares["attention"], card.capability))
    memory = shares["moves"] * work.made / (card.bandwidth * GIGA * shares["memory"])
    micro = products + attention + memory
    parts = {
        "products": load.grad_accum * products,
        "attention": load.grad_accum * attention,
        "memory": load.grad_accum * memory,
        "optimizer": _update(load, card, shares),
        "communication": _communication(load, card, shares, micro),
        "offload": _offload(load, card, shares, micro),
        "bubble": bubble(load.pipeline, load.grad_accum) * load.grad_accum * micro,
    }
    seconds = sum(parts.values())
    return Pace(seconds, parts, work.flops * load.grad_accum / (seconds * peak))


def rate(card: Gpu, dtype: str) -> float:
    """Dense FLOP per second of products in a dtype, fp32 without TF32, as PyTorch's default has it; 0 where unknown."""
    if dtype == "bf16" and not card.bf16:
        return 0.0
    return float(card.tflops.get(dtype) or 0.0) * TERA


def products_rate(card: Gpu, dtype: str, shares: Mapping[str, Any]) -> float:
    """FLOP per second that large products attain: measured on that GPU, else the usual share of its dense rate."""
    reached = card.reached.get(dtype)
    return reached * TERA if reached else rate(card, dtype) * float(shares["products"])


def bubble(stages: int, micro_batches: int) -> float:
    """Idle share of a 1F1B pipeline: (p - 1) / m of the time its micro batches take (Narayanan et al. 2021, 2.2)."""
    return (stages - 1) / micro_batches


def bus(card: Gpu, ranks: int, shares: Mapping[str, Any]) -> float:
    """Bytes per second that a ring of ranks moves through each of them: the link's, or a node's network over its GPUs.

    Every GPU of a node has a ring of its own through its own adapter, so a node's whole network counts (NCCL's busbw).
    """
    link = (card.link or SLOWEST) / 2 * GIGA * shares["link"]
    if ranks <= card.per_node:
        return float(link)
    arch = card.arch if card.link_kind else "default"
    network = shares["network"].get(arch, shares["network"]["default"]) * GIGA * shares["link"]
    return float(min(link, network))


def _communication(load: Load, card: Gpu, shares: Mapping[str, Any], micro: float) -> float:
    """Seconds that communication adds: volumes as in Rajbhandari et al. 2020 (ZeRO), 7, over the ring's bandwidth.

    The all-reduce of gradients overlaps with the last backward pass (two thirds of a micro step), gathered weights with
    all of it; what tensor parallelism sends does not.
    """
    along = load.tensor_traffic * load.grad_accum / bus(card, 1, shares)
    if load.data == 1:
        return along
    speed, share = bus(card, load.gpus, shares), (load.data - 1) / load.data
    if load.strategy in GATHERING:
        per_micro = share * (2 * load.weights + load.gradients) / speed
        return along + load.grad_accum * max(0.0, per_micro - micro)
    if load.strategy in ("zero1", "zero2", "megatron"):
        reduced = max(0.0, share * load.gradients / speed - 2 * micro / 3)
        return along + reduced + share * load.weights / speed
    return along + max(0.0, 2 * share * load.gradients / speed - 2 * micro / 3)


def _update(load: Load, card: Gpu, shares: Mapping[str, Any]) -> float:
    passes = 1 if load.fused else shares["unfused"]
    return float(passes * load.updated / (card.bandwidth * GIGA * shares["memory"]))


def _offload(load: Load, card: Gpu, shares: Mapping[str, Any], micro: float) -> float:
    """Seconds of the step on the host and of the way there and back over PCIe; activations travel while others are made."""
    if not (load.hosted or load.staged or load.paged):
        return 0.0
    lane = (card.pcie or SLOWEST) / 2 * GIGA * float(shares["link"])
    staged = load.grad_accum * max(0.0, 2 * load.staged / lane - micro) + 2 * load.paged / lane
    if not load.hosted:
        return staged
    ranks = min(load.gpus, card.per_node)
    split = load.data if load.strategy not in ("none", "ddp") else 1
    fetched = 2 * load.grad_accum * load.weights / split / lane if load.weights_from_host else 0.0
    travelled = (load.gradients + load.weights) / split / lane
    return staged + fetched + travelled + 2 * load.hosted * ranks / (float(shares["host"]) * GIGA)


def _by_capability(table: Mapping[str, float], capability: str) -> float:
    return float(table.get(capability, table["default"]))
