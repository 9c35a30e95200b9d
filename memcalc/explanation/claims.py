"""Things often said of memory that are not so, with what is so in this run; only those that concern it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from memcalc.explanation.values import Correction
from memcalc.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.ledger import Ledger
    from memcalc.plan import Plan

GB = 10**9
ADAM = 8.0  # bytes of two fp32 moments


def corrections(plan: Plan, book: Ledger, total: int) -> tuple[Correction, ...]:
    """The corrections that concern a run whose process takes `total` bytes of a GPU."""
    asked = (_master_in_states, _all_states_of_lora, _gradients_like_states, _square_root, _like_adam, _blocks,
             _marketing, _persistent_alone)  # fmt: skip
    return tuple(Correction(claim=claim, truth=truth) for check in asked for claim, truth in check(plan, book, total))


def _per_parameter(plan: Plan, book: Ledger) -> float:
    return book.total("optimizer_states") / max(plan.trainable, 1)


def _size(n: int) -> str:
    return format_bytes(n, "GB")


def _master_in_states(plan: Plan, book: Ledger, _: int) -> Iterator[tuple[str, str]]:
    states = book.total("optimizer_states")
    if round(_per_parameter(plan, book), 1) == ADAM and not plan.run.lora:
        yield (f"Adam's states take 12 bytes per parameter: {_size(12 * plan.trainable)} for {plan.model.name}",
               f"the two moments take 8, {_size(states)} here; 12 counts the fp32 master copy in")  # fmt: skip
        yield (f"one fp32 copy of {plan.model.name} takes 2 bytes per parameter: {_size(2 * plan.trainable)}",
               f"that is a 16-bit copy; in fp32 it is {_size(4 * plan.trainable)}, and Adam keeps two such moments")  # fmt: skip


def _all_states_of_lora(plan: Plan, book: Ledger, _: int) -> Iterator[tuple[str, str]]:
    if plan.run.lora and book.total("optimizer_states"):
        everything = plan.model.parameters + plan.added
        yield (f"with adapters the optimizer still keeps 8 bytes for each parameter of the model: {_size(8 * everything)}",
               f"only what is trained has states: {_size(book.total('optimizer_states'))} for "
               f"{plan.trainable:,} parameters".replace(",", " "))  # fmt: skip


def _gradients_like_states(plan: Plan, book: Ledger, _: int) -> Iterator[tuple[str, str]]:
    gradients = book.total("gradients")
    if gradients and not plan.run.lora and round(_per_parameter(plan, book), 1) == ADAM:
        yield (f"gradients alone take {_size(8 * plan.trainable)}",
               f"{_size(gradients)}: {gradients / plan.trainable:g} bytes per parameter; 8 are Adam's states")  # fmt: skip


def _square_root(plan: Plan, book: Ledger, _: int) -> Iterator[tuple[str, str]]:
    if plan.optimizer.name.startswith("adafactor") and plan.optimizer.bytes_per_parameter is None:
        states, adam = book.total("optimizer_states"), 8 * plan.trainable
        yield ("Adafactor takes memory from O(n) to O(square root of n), about a quarter of Adam's",
               f"a row and a column of each matrix, a first moment if kept: {_size(states)}; Adam's are {_size(adam)}")  # fmt: skip


def _like_adam(plan: Plan, book: Ledger, _: int) -> Iterator[tuple[str, str]]:
    if plan.optimizer.name.startswith("lion"):
        yield ("Lion takes the same memory as Adam",
               f"half of it: one moment, {_per_parameter(plan, book):.2f} bytes per parameter here")  # fmt: skip


def _blocks(plan: Plan, _book: Ledger, _: int) -> Iterator[tuple[str, str]]:
    size = plan.optimizer.options.get("block_size")
    if plan.optimizer.library == "bitsandbytes" and "8bit" in plan.optimizer.name and size and size != 2048:
        yield ("8-bit optimizers scale blocks of 2048 elements", f"{size}: 2048 was before bitsandbytes 0.44")


def _marketing(plan: Plan, _book: Ledger, _: int) -> Iterator[tuple[str, str]]:
    card = plan.gpu
    sold = re.search(r"(\d+)gb", card.name) if card else None
    nominal = int(sold[1]) * GB if sold else 0
    if card and nominal and abs(card.usable - nominal) > nominal // 50:
        yield (f"{card.name} holds {_size(nominal)}", f"a process finds {_size(card.usable)} on it")


def _persistent_alone(plan: Plan, book: Ledger, total: int) -> Iterator[tuple[str, str]]:
    card = plan.gpu
    if card and book.persistent <= card.usable < total and plan.placement.name == "none":
        yield (f"{_size(book.persistent)} of weights, gradients and states fit {card.name}, so the run does",
               f"the whole step decides: with activations, temporaries and the context it takes {_size(total)}")  # fmt: skip
