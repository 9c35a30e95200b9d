"""What persists, in numbers: parameters times bytes for each component, the optimizer's state tensors one by one, and
the same by kind of layer. Everything adds up to the ledger.
"""  # noqa: D205 - one sentence and another

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from memcalc.dtypes import nbytes
from memcalc.explanation.kinds import alike, merged, modules_of
from memcalc.explanation.values import Held, Layers, Term
from memcalc.ledger import gradient_dtype, master_dtype, state_dtype, storage_dtype
from memcalc.report import PERSISTENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcalc.explanation.kinds import Kinds
    from memcalc.ledger import Entry, Ledger
    from memcalc.optimizers import StateTensor
    from memcalc.plan import Plan
    from memcalc.tensors import Tensor


class Part(NamedTuple):
    """A term before like ones are put together: the same but for its sums."""

    what: str
    dtype: str
    shape: str
    device: str
    tensors: int
    elements: int
    whole: int


def held(plan: Plan, book: Ledger) -> tuple[Held, ...]:
    """Every component that persists and is not empty, in the order of the report."""
    local = plan.local(book)
    made = {"weights": _weights, "master_weights": _masters, "gradients": _gradients, "optimizer_states": _states}
    return tuple(
        Held(
            component=name,  # type: ignore[arg-type]  # one of PERSISTENT
            bytes=0 if name in plan.placement.offloaded else local.total(name),
            whole=book.total(name),
            ranks=plan.placement.over(name),
            terms=_terms(made[name](plan, book)),
            source=_source(plan, name),
        )
        for name in PERSISTENT
        if book.total(name)
    )


def _source(plan: Plan, component: str) -> str:
    """Where the rule of a component was read: the optimizer's for its states, else the precision recipe's."""
    if component == "optimizer_states":
        return f"optimizer {plan.optimizer.name}: {plan.optimizer.source}"
    return f"precision {plan.recipe.name}: {plan.recipe.source}"


def _terms(parts: Iterable[Part]) -> tuple[Term, ...]:
    """Like parts put together, the largest first."""
    sums: dict[tuple[str, str, str, str], list[int]] = {}
    for part in parts:
        found = sums.setdefault((part.what, part.dtype, part.shape, part.device), [0, 0, 0])
        for i, number in enumerate(part[4:]):
            found[i] += int(number)
    terms = [_term(key, numbers) for key, numbers in sums.items() if numbers[2]]
    return tuple(sorted(terms, key=lambda term: -term.whole))


def _term(key: tuple[str, str, str, str], numbers: list[int]) -> Term:
    what, dtype, shape, device = key
    where: Any = device
    return Term(
        what=what, dtype=dtype, shape=shape, device=where, tensors=numbers[0], elements=numbers[1], whole=numbers[2]
    )


def _weights(plan: Plan, book: Ledger) -> Iterator[Part]:
    for entry in book.entries:
        tensor = entry.tensor
        elements = tensor.count * tensor.elements
        yield Part(_what(tensor), storage_dtype(tensor, plan.recipe), "", "gpu", tensor.count, elements, entry.weights)


def _what(tensor: Tensor) -> str:
    if tensor.role == "quantized":
        return "packed weights, scales"
    if tensor.buffer:
        return "buffers"
    if tensor.role == "adapter":
        return "adapter parameters"
    return "parameters" if tensor.trainable else "frozen parameters"


def _trained(book: Ledger) -> list[Entry]:
    return [entry for entry in book.entries if entry.tensor.trainable and not entry.tensor.buffer]


def _masters(plan: Plan, book: Ledger) -> Iterator[Part]:
    for entry in _trained(book):
        tensor, stored = entry.tensor, storage_dtype(entry.tensor, plan.recipe)
        dtype = master_dtype(stored, plan.recipe, plan.optimizer)
        elements = tensor.count * tensor.elements
        yield Part("copies", dtype, "", "gpu", tensor.count, elements, entry.master_weights)


def _gradients(plan: Plan, book: Ledger) -> Iterator[Part]:
    for entry in _trained(book):
        tensor, dtype = entry.tensor, gradient_dtype(entry.tensor, plan.recipe)
        elements = tensor.count * tensor.elements
        own = min(tensor.count * nbytes(tensor.elements, dtype), entry.gradients)
        yield Part("gradients", dtype, "", "gpu", tensor.count, elements, own)
        copy = entry.gradients - own
        yield Part("wider copies of gradients", plan.recipe.master_gradients, "", "gpu", tensor.count, elements, copy)


def _states(plan: Plan, book: Ledger) -> Iterator[Part]:
    for entry in _trained(book):
        tensor = entry.tensor
        stored = storage_dtype(tensor, plan.recipe)
        dtype = state_dtype(stored, plan.recipe, plan.optimizer)
        for state in plan.optimizer.states(tensor.shape, dtype, tensor.role, tensor.name):
            yield _state(state, shape_rule(state.shape, tensor.shape), tensor.count)
    for state in (*plan.optimizer.shared(), *plan.optimizer.group()) if _trained(book) else ():
        yield _state(state, f"once per {state.scope}", 1)


def _state(state: StateTensor, rule: str, count: int) -> Part:
    elements = count
    for extent in state.shape:
        elements *= extent
    device = "gpu" if state.device == "paged" and state.scope != "parameter" else state.device
    return Part(state.name, state.dtype, rule, device, count, elements, count * state.bytes)


def shape_rule(state: tuple[int, ...], parameter: tuple[int, ...]) -> str:
    """How the shape of a state follows that of its parameter, in words; the shape itself where it does in no usual way."""
    elements = 1
    for extent in parameter:
        elements *= extent
    if state == parameter:
        return "like the parameter"
    if not state:
        return "one number"
    if len(parameter) > 1 and state in (parameter[:-1], (*parameter[:-1], 1)):
        return "one per row"
    if len(parameter) > 1 and state == parameter[:-2] + parameter[-1:]:
        return "one per column"
    if len(state) == 1 and 0 < state[0] < elements:
        return f"one per block of {-(-elements // state[0])}"
    return "x".join(map(str, state))


def layers(book: Ledger, kinds: Kinds) -> tuple[Layers, ...]:
    """What persists by kind of layer, the largest first; what an optimizer keeps once is a row of its own."""
    groups: dict[str, list[Entry]] = {}
    for entry in book.entries:
        groups.setdefault(kind_of(entry.tensor, kinds), []).append(entry)
    rows = [_layers(kind, entries, kinds) for kind, entries in groups.items()]
    if book.shared:
        rows.append(Layers(kind="optimizer", modules=(), count=1, tensors=0, elements=0, weights=0, master_weights=0,
                           gradients=0, optimizer_states=book.shared, whole=book.shared))  # fmt: skip
    return tuple(sorted(rows, key=lambda row: (-row.whole, row.kind)))


def kind_of(tensor: Tensor, kinds: Kinds) -> str:
    """The kind of layer a tensor is part of; adapters and packed weights apart."""
    if tensor.role == "adapter":
        return "adapters"
    kind = kinds.of(tensor.name).kind
    kind = tensor.role if kind == "other" else kind
    return f"{kind}, packed" if tensor.role == "quantized" else kind


def _layers(kind: str, entries: list[Entry], kinds: Kinds) -> Layers:
    modules: dict[str, set[str]] = {}
    for entry in entries:
        module = entry.tensor.module if kind == "adapters" else kinds.of(entry.tensor.name).module
        modules.setdefault(alike(module), set()).add(module)
    sums = Counter({name: sum(getattr(entry, name) for entry in entries) for name in PERSISTENT})
    return Layers(
        kind=kind, modules=tuple(merged(paths) for paths in modules.values()), count=sum(map(_count, modules.values())),
        tensors=sum(entry.tensor.count for entry in entries),
        elements=sum(entry.tensor.count * entry.tensor.elements for entry in entries),
        weights=sums["weights"], master_weights=sums["master_weights"], gradients=sums["gradients"],
        optimizer_states=sums["optimizer_states"], whole=sum(sums.values()),
    )  # fmt: skip


def _count(paths: Iterable[str]) -> int:
    """How many modules patterns that are alike stand for."""
    return min(modules_of(merged(paths)), sum(map(modules_of, paths)))
