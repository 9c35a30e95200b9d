"""The recorded models and cases of this folder's JSON files, as the values that the tests compare."""

from __future__ import annotations

import json
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from memcalc.adapters import Adapted, Lora, adapt
from memcalc.dimensions import Dimensions
from memcalc.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).parent
SECTION = TypeAdapter(Lora)


@lru_cache
def recorded(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return document


def section(words: Mapping[str, Any]) -> Lora:
    """A `lora` section as a run file gives it: lists for tuples."""
    return SECTION.validate_python(dict(words))


def tensors_of(model: str) -> tuple[Tensor, ...]:
    """The tensors of a recorded model, like ones as one pattern."""
    return tuple(_tensor(*row) for row in recorded("cases")["models"][model]["tensors"])


def adapted(model: str, words: Mapping[str, Any], dtype: str = "bf16") -> Adapted:
    """A recorded model with an adapter; no task but the one named, as in the library."""
    known = recorded("cases")["models"][model]
    lora = section({"task": "none", **words})
    return adapt(tensors_of(model), lora, known["model_type"], Dimensions(known["config"]), dtype)


def by_dtype(tensors: tuple[Tensor, ...]) -> dict[str, int]:
    """{dtype: elements}, tied tensors counted once."""
    found: Counter[str] = Counter()
    for tensor in tensors:
        if not tensor.tied_to:
            found[tensor.dtype] += tensor.count * tensor.elements
    return dict(found)


def _tensor(name: str, shape: list[int], role: str, extra: str = "") -> Tensor:
    count = 1
    for braces in name.split("{")[1:]:
        parts = braces.partition("}")[0].split(",")
        ends = [[int(n) for n in part.split("..")] for part in parts]
        count *= sum(len(range(e[0], e[-1 if len(e) < 3 else 1] + 1, e[2] if len(e) == 3 else 1)) for e in ends)
    tied = "" if extra == "buffer" else extra
    return Tensor(name, tuple(shape), count, role, tied_to=tied, buffer=extra == "buffer")
