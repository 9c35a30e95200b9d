"""Optimizers: what they keep for each parameter, what a step needs beside it, read from presets/optimizers/*.yaml.

The presets hold the rules; the code knows how to apply them: terms.py the language of sizes and conditions, rules.py
states, step.py temporaries, options.py what may be set, resolve.py names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.dtypes import dtype_name
from memcalc.errors import Fault, RunInvalid
from memcalc.optimizers.optimizer import Optimizer
from memcalc.optimizers.resolve import resolve
from memcalc.optimizers.step import StepTemporaries
from memcalc.optimizers.values import Advice, Parameter, StateTensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Advice", "Optimizer", "Parameter", "StateTensor", "StepTemporaries", "resolve", "state"]


def state(optimizer: str | Mapping[str, object] | Optimizer, shape: Iterable[int], dtype: str = "fp32",
          role: str = "linear", name: str = "") -> dict[str, Any]:  # fmt: skip
    """What an optimizer keeps for one tensor: `{"total_bytes", "tensors": [{"name", "dtype", "shape", "bytes", "device"}]}`.

    `total_bytes` adds up `tensors`, wherever they live. `shared` lists what is kept once per group or optimizer however
    many tensors there are; it is not in the total.
    """
    extents, element = _checked(shape, dtype)
    found = optimizer if isinstance(optimizer, Optimizer) else resolve(optimizer)
    tensors = found.states(extents, element, role, name)
    return {
        "total_bytes": sum(tensor.bytes for tensor in tensors),
        "tensors": [_plain(tensor) for tensor in tensors],
        "shared": [{**_plain(tensor), "scope": tensor.scope} for tensor in (*found.group(), *found.shared())],
    }


def _plain(tensor: StateTensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape), "bytes": tensor.bytes,
            "device": tensor.device}  # fmt: skip


def _checked(shape: Iterable[int], dtype: str) -> tuple[tuple[int, ...], str]:
    """The shape and the dtype, or RunInvalid with what is wrong with both."""
    faults, extents, element = [], tuple(shape), ""
    if not all(
        isinstance(extent, int) and not isinstance(extent, bool) and 0 <= extent <= 10**15 for extent in extents
    ):
        faults.append(Fault("shape", f"{list(extents)!r} is not a list of whole numbers, such as 4096x4096"))
    try:
        element = dtype_name(dtype)
    except ValueError as error:
        faults.append(Fault("dtype", str(error)))
    if faults:
        raise RunInvalid(faults, "the tensor")
    return extents, element
