"""Implementations: which parts of a model the kernels of another library take over."""

from __future__ import annotations

from typing import Any

from memcalc.errors import fault
from memcalc.presets import find


def kernels(name: str, model_type: str) -> dict[str, Any]:
    """{parts, loss} that an implementation takes over in a type of model; RunInvalid where it has no kernels for it."""
    card = find("implementations", name)
    models: dict[str, dict[str, Any]] = card["models"]
    if model_type not in models:
        known = ", ".join(models)
        raise fault("implementation", f"{card['library']} kernels for {model_type or 'this model'} are not modelled; they are "
                                      f"for {known}; use implementation: hf")  # fmt: skip
    return models[model_type]
