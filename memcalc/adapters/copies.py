"""What is trained as a copy of the base: whole modules (modules_to_save, LN tuning) and rows of an embedding."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.adapters.patterns import chosen, crosses, parents, sample
from memcalc.adapters.sites import Module, input_embedding
from memcalc.errors import fault, nearest_names
from memcalc.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from memcalc.adapters.rules import Rule


def saved_copies(names: tuple[str, ...], tensors: Iterable[Tensor], *, tied: bool) -> tuple[Tensor, ...]:
    """A trainable copy of every tensor in modules whose name ends in one of `names`; the frozen original stays.

    (peft, utils/other.py, _set_trainable and ModulesToSaveWrapper.) A copy of a tied module shares nothing, unless
    `tied` (ensure_weight_tying): then what was tied has one copy together.
    """
    if not names:
        return ()
    pairs = _copies(
        tensors, "modules_to_save", lambda module: module.endswith(names),
        lambda module: not any(crosses(module, name) for name in names),
    )  # fmt: skip
    if not tied:
        return tuple(copy for _, copy in pairs)
    return tuple({original.tied_to or original.name: copy for original, copy in reversed(list(pairs))}.values())


def ln_copies(rule: Rule, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """LN tuning (Zhao et al. 2024): a trainable copy of every chosen module (peft, tuners/ln_tuning/layer.py)."""
    return tuple(copy for _, copy in _copies(tensors, "ln_tuning_layers", rule.chooses, rule.uniform))


def token_rows(
    indices: tuple[int, ...] | Mapping[str, tuple[int, ...]], modules: Mapping[str, Module], vocab: int, place: str = ""
) -> Iterator[Tensor]:
    """Trainable rows of embeddings, and their originals as a buffer (peft, tuners/trainable_tokens/layer.py).

    `place` is the wrapper that they lie in beside other adapters. Without names the rows are the token embedding's. A
    module tied to it takes its rows where they are the same.
    """
    embedding = input_embedding(modules, vocab)
    first = embedding.weight.name if embedding and embedding.weight else ""
    asked = indices.items() if not isinstance(indices, tuple) else [(embedding.name if embedding else "", indices)]
    own = next((rows for name, rows in asked if embedding and embedding.name.endswith(name)), ())
    for name, rows in asked:
        module = _table(name, modules)
        weight = module.weight
        if weight is None or (weight.tied_to and weight.tied_to == first and rows == own):
            continue
        beyond = [row for row in rows if not 0 <= row < weight.shape[0]]
        if beyond:
            raise fault("lora.token_indices", f"{beyond[0]} is no row of {module.name}, which has {weight.shape[0]}")
        shape, stem = (len(rows), weight.shape[1]), f"{module.name}.{place}trainable_tokens"
        yield Tensor(f"{stem}_delta.default", shape, role="adapter")
        yield Tensor(f"{stem}_original.default", shape, role="adapter", trainable=False, buffer=True)


def _table(name: str, modules: Mapping[str, Module]) -> Module:
    found = next((m for m in modules.values() if name and m.name.endswith(name)), None)
    if found is None:
        near = nearest_names(name, [m.name for m in modules.values() if m.kind in ("embedding", "linear")])
        raise fault("lora.token_indices", f"{name or 'the token embedding'} not found in the base model"
                                          + (f"; nearest: {', '.join(near)}" if near else ""))  # fmt: skip
    return found


def _copies(
    tensors: Iterable[Tensor], infix: str, test: Callable[[str], bool], alike: Callable[[str], bool]
) -> Iterator[tuple[Tensor, Tensor]]:
    """(original, copy) of the tensors below modules that pass the test; the outermost such module is the one copied."""

    def depth(name: str) -> int | None:
        return next((i for i, module in enumerate(parents(name)) if test(module)), None)

    for tensor in tensors:
        if tensor.buffer:
            continue
        uniform = all(alike(module) for module in parents(tensor.name))
        for pattern, count, level in chosen(tensor.name, tensor.count, depth, alike=uniform):
            module = parents(pattern)[level]
            name = f"{module}.{infix}.default{pattern[len(module) :]}"
            yield tensor, replace(tensor, name=name, count=count, trainable=True, tied_to="")


def missing(names: Sequence[str], tensors: Iterable[Tensor]) -> list[str]:
    """The names that no module ends in."""
    if not names:
        return []
    modules = {sample(module) for tensor in tensors for module in parents(tensor.name)}
    return [name for name in names if not any(module.endswith(name) for module in modules)]
