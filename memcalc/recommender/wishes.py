"""What a question to `recommend` says beside the run: how far the search may go, and what it goes by."""

from __future__ import annotations

from dataclasses import field, replace
from typing import TYPE_CHECKING, Any

from memcalc.adapters.spec import Lora
from memcalc.dataclass import dataclass
from memcalc.errors import Fault, RunInvalid, UsageError, nearest_names
from memcalc.gpus import gpu
from memcalc.presets import names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from memcalc.gpus import Gpu
    from memcalc.run import Run

METHODS = ("full", "lora", "qlora")
COUNTS = (1, 2, 4, 8, 16, 32, 64)  # GPUs to try where no number was asked for: a node's, then more
MAKERS = frozenset({"nvidia", "amd", "intel"})  # whose devices run what is modelled here
PACKED = "nf4"
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ADAPTERS = Lora(
    rank=16, targets="all-linear"
)  # as in the QLoRA paper (Dettmers et al. 2023, 4): adapters on every layer


@dataclass(frozen=True)
class Wishes:
    """`counts` are the numbers of GPUs that may be taken, `cards` the GPUs; empty where the search is to find out.

    `method` is full, lora or qlora; None: as the run says, and others only where nothing else fits. `vary` gives the values
    of a key, `keep` the keys that stay as they are. `price` is USD per GPU and hour, `global_batch` sequences of a step.
    """

    method: str | None = None
    task: str | None = None
    counts: tuple[int, ...] = ()
    cards: tuple[str, ...] = ()
    price: float | None = None
    global_batch: int | None = None
    vary: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    keep: frozenset[str] = frozenset()


def suited(run: Run, beside: Path | None) -> Run:
    """The run with adapters that its model takes: peft's own choice of layers, or attention's, where some of all refuse them."""
    if run.lora is not ADAPTERS:
        return run
    from memcalc.resolve import resolve  # noqa: PLC0415 - it is there by then

    for adapters in (ADAPTERS, Lora(rank=16), Lora(rank=16, targets=ATTENTION)):
        made = replace(run, lora=adapters)
        try:
            resolve(replace(made, gpu=None, gpus=1, sharding=None), beside)
        except RunInvalid:
            continue
        return made
    return run


def method_of(run: Run) -> str:
    """What a run trains: all of the model, adapters, or adapters over packed weights."""
    return ("qlora" if run.quantize else "lora") if run.lora else "full"


def by_method(run: Run, method: str) -> Run:
    """The run with another method, its own adapters and storage kept where it has some."""
    match method:
        case "full":
            return replace(run, lora=None, quantize=None)
        case "lora":
            return replace(run, lora=run.lora or ADAPTERS, quantize=None)
        case "qlora":
            return replace(run, lora=run.lora or ADAPTERS, quantize=run.quantize or PACKED)
        case _:
            near = nearest_names(method, METHODS)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"unknown method {method!r}; {hint}there are {', '.join(METHODS)}")


def methods(run: Run, wished: str | None) -> tuple[str, ...]:
    """The methods to try, in this order: the next only where nothing fits with the ones before."""
    if wished:
        return (wished,)
    own = method_of(run)
    return METHODS[METHODS.index(own) :]


def cards_of(run: Run, wishes: Wishes) -> tuple[Gpu, ...]:
    """The GPUs to look at: those named, else every preset of a maker whose devices run PyTorch with these kernels."""
    named = wishes.cards or ((run.gpu,) if run.gpu else ())
    if named:
        return tuple(gpu(name) for name in named)
    return tuple(card for card in (gpu(name) for name in names("gpus")) if card.vendor in MAKERS)


def counts_of(run: Run, wishes: Wishes, cards: Iterable[Gpu]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(numbers of GPUs to try, those to go on with where none fits): as wished, as the run says, else a node and more."""
    if wishes.counts:
        return wishes.counts, ()
    if run.gpus > 1:
        return (run.gpus,), ()
    if not (wishes.cards or run.gpu):
        return (1,), (2, 4, 8)  # which GPU is the question: one, if one will do
    node = max(1, *(card.per_node for card in cards))
    return tuple(count for count in COUNTS if count <= node), tuple(count for count in COUNTS if count > node)


def numbers(text: str, what: str) -> tuple[int, ...]:
    """8, 1,2,4 or 8..64 (doublings from 8, and 64) as whole numbers; RunInvalid otherwise."""
    try:
        found = [number for part in text.split(",") for number in _range(part.strip())]
    except ValueError:
        found = []
    if not found or min(found) < 1 or max(found) > 10**9:
        raise RunInvalid([Fault(what, f"{text!r} is not a number, a list (1,2,4) or a range (8..64)")])
    return tuple(dict.fromkeys(found))


def _range(part: str) -> list[int]:
    first, dots, last = part.partition("..")
    if not dots:
        return [int(part)]
    low, high = int(first), int(last)
    if low > high or low < 1:
        raise ValueError(part)
    found = [low]
    while found[-1] * 2 <= high:
        found.append(found[-1] * 2)
    return found if found[-1] == high else [*found, high]
