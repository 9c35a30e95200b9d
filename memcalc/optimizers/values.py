"""The values the optimizers give and take: a parameter tensor, a state tensor, advice."""

from __future__ import annotations

import math
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from memcalc.dataclass import dataclass

if TYPE_CHECKING:
    from collections.abc import Mapping

Device = Literal["gpu", "host", "paged"]
Scope = Literal["parameter", "group", "optimizer"]
Option = bool | int | float | str | tuple["Option", ...] | None


@dataclass(frozen=True, slots=True)
class Parameter:
    """One tensor an optimizer steps: its shape and dtype, the kind of module that owns it, and its full name."""

    shape: tuple[int, ...]
    dtype: str = "fp32"
    role: str = "linear"
    name: str = ""

    @property
    def elements(self) -> int:
        """Elements of the tensor."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One tensor an optimizer keeps.

    `bytes` is what its memory takes: more than its shape needs where it is a view of a larger tensor. `device` is the
    GPU's own memory, memory paged between GPU and host (CUDA managed memory), or the host.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    device: Device = "gpu"
    scope: Scope = "parameter"


@dataclass(frozen=True, slots=True)
class Advice:
    """What to know before choosing an optimizer: how well it trains, whether it replaces AdamW as it stands."""

    quality: str = ""
    drop_in: bool = False
    best_for: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a rule may ask about: the parameter (None for what is kept once), the options, and one axis of the shape."""

    parameter: Parameter | None
    options: Mapping[str, Option]
    sizes: Mapping[str, Any] = field(default_factory=dict)
    conditions: Mapping[str, Any] = field(default_factory=dict)
    implementation: str = ""
    axis: int | None = None
