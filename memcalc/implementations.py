"""Implementations: which parts of a model the kernels of another library take over."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.blocks.base import mapped
from memcalc.errors import fault
from memcalc.presets import find

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.model import Model


def kernels(name: str, model_type: str) -> dict[str, Any]:
    """{parts, loss} that an implementation takes over in a type of model; RunInvalid where it has no kernels for it."""
    card = find("implementations", name)
    models: dict[str, dict[str, Any]] = card["models"]
    if model_type not in models:
        known = ", ".join(models)
        raise fault("implementation", f"{card['library']} kernels for {model_type or 'this model'} are not modelled; they are "
                                      f"for {known}; use implementation: hf")  # fmt: skip
    return models[model_type]


def remade(model: Model, name: str) -> Model:
    """The model with parameters as an implementation's modules have them: torchtitan's experts have three stacked weights."""
    if "token-choice" not in kernels(name, model.architecture)["parts"]:
        return model
    known: dict[int, Block] = {}

    def changed(block: Block) -> Block:
        if id(block) not in known:
            known[id(block)] = _parted(block) or mapped(block, changed)
        return known[id(block)]

    return replace(model, body=changed(model.body))


def _parted(block: Block) -> Block | None:
    """GroupedExperts: gate, up and down projections as w1, w3 and w2 (torchtitan, models/moe/moe.py); None for any other block."""
    from memcalc.blocks.base import Param  # noqa: PLC0415 - it is loaded with the model
    from memcalc.blocks.mlp import Experts  # noqa: PLC0415

    if not isinstance(block, Experts):
        return None
    count, *sides = block.params[-1].shape
    hidden, width = reversed(sides) if block.transposed else sides
    shapes = {"w1": (count, width, hidden), "w3": (count, width, hidden), "w2": (count, hidden, width)}
    return replace(
        block, params=tuple(Param(name, shape) for name, shape in shapes.items()), formula="", transposed=False
    )
