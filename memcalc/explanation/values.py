"""Explanation: where each byte of a run comes from, as the document other tools read (`schema_version` 1.0).

Bytes are integers, per GPU but where a field says `whole`: then they are those of one whole replica.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from memcalc.dataclass import dataclass
from memcalc.document import Document
from memcalc.report import Components, GpuPart, ModelPart, Note, Origin, Phase, Source


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The most that is live in one part of the step, how far it stays below the peak, and what is being made then.

    `loss` is what comes after the last layer, forward and back: the last norm, the head, the loss itself.
    """

    part: Literal["forward", "loss", "backward", "optimizer"]
    bytes: int
    below: int
    path: str = ""
    operation: str = ""
    function: str = ""


@dataclass(frozen=True, kw_only=True)
class Term:
    """One term of a component: `elements` of `dtype` in `tensors` tensors make the bytes of one whole replica.

    `shape` says of optimizer states how they follow the parameter's. What is on another `device` is not in the sum.
    """

    what: str
    dtype: str
    tensors: int
    elements: int
    whole: int
    shape: str = ""
    device: Literal["gpu", "host", "paged"] = "gpu"


@dataclass(frozen=True, kw_only=True)
class Held:
    """A component that persists: its bytes on this GPU, those of one whole replica, and the terms that make them.

    `bytes` is `whole` on one of `ranks` ranks where they share the component, none where it is offloaded.
    """

    component: Literal["weights", "master_weights", "gradients", "optimizer_states"]
    bytes: int
    whole: int
    ranks: int
    terms: tuple[Term, ...]
    source: str


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What persists of one kind of layer, in one whole replica: `count` modules, whose patterns are `modules`.

    `elements` are those stored: of packed weights the packed ones, and their scales.
    """

    kind: str
    modules: tuple[str, ...]
    count: int
    tensors: int
    elements: int
    weights: int
    master_weights: int
    gradients: int
    optimizer_states: int
    whole: int


@dataclass(frozen=True, kw_only=True)
class Made:
    """Like tensors that are live at once: `times` of `each` bytes, made in `path` by an operation of a library function.

    `module` is the part of the path that `kind` is said of. `component` is activations, gradients or temporary.
    """

    component: str
    kind: str
    module: str
    path: str
    operation: str
    function: str
    shape: tuple[int, ...]
    dtype: str
    times: int
    each: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Share:
    """What is live of one component in one kind of module."""

    component: str
    kind: str
    module: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Live:
    """What is live at one time of the step beyond weights, master copies and optimizer states.

    `modules` and `operations` add up to `bytes`, the largest first.
    """

    bytes: int
    modules: tuple[Share, ...] = ()
    operations: tuple[Made, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Thumb:
    """A rule of thumb: what it says of this run, what is so, and by how many per cent of that the rule is off."""

    name: str
    formula: str
    says: int
    bytes: int
    off_percent: float
    of: str
    source: str


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Something often said that this run would be judged by, and what is so."""

    claim: str
    truth: str


@dataclass(frozen=True, kw_only=True)
class Explanation(Document):
    """The whole answer. `kept`: what autograd and the program hold when the forward pass ends. `live`: at the peak.

    `at_peak` adds up to `peak_allocated`; `live` to its activations, gradients and temporaries.
    """

    schema_version: Literal["1.0"] = "1.0"
    kind: Literal["explain"] = "explain"
    run: Mapping[str, Any]
    model: ModelPart
    gpu: GpuPart
    peak_allocated: int
    peak_phase: Phase
    peaks: tuple[Peak, ...]
    persistent: tuple[Held, ...]
    layers: tuple[Layers, ...]
    kept: Live
    at_peak: Components
    live: Live
    rules_of_thumb: tuple[Thumb, ...]
    corrections: tuple[Correction, ...]
    assumptions: tuple[Note, ...] = ()
    warnings: tuple[Note, ...] = ()
    source: Source | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)
