"""What a run costs: the price of its GPUs, per hour and for each million tokens or thousand samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from memcalc.gpus import Gpu

HOUR = 3600


@dataclass(frozen=True, slots=True)
class Price:
    """USD of an hour of one GPU, and where the figure is from."""

    per_gpu_hour: float
    source: str


def price_of(card: Gpu, given: float | None = None) -> Price | None:
    """The price as given, else the lowest that the GPU's preset has seen; None where neither is there."""
    if given is not None:
        return Price(given, "as given")
    return Price(card.price[0], f"the lowest price seen of {card.name}") if card.price else None


def usd_per_million(per_hour: float, items_per_second: float) -> float:
    """USD of a million items (tokens, images) of a whole job: dollars of a second over items of a second."""
    return per_hour / HOUR / items_per_second * 10**6 if items_per_second else float("inf")
