"""Report: the answer, as the document other tools read (`schema_version` 1.0). Bytes are integers, all per GPU.

The same document leaves `memcalc estimate --format json` and `memcalc.estimate(...).model_dump(mode="json")`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import Any, Literal

from memcalc.dataclass import dataclass
from memcalc.document import Document
from memcalc.timeline.curve import EMPTY, Curve

Level = Literal["fits", "tight", "too-big", "unknown"]
Phase = Literal["forward", "backward", "optimizer"]


@dataclass(frozen=True, kw_only=True)
class ModelPart:
    """Which model: unique parameters in all, those that are trained, those a token meets (all but idle experts)."""

    name: str
    architecture: str
    parameters: int
    trainable: int
    active: int


@dataclass(frozen=True, kw_only=True)
class Components:
    """Each component's own size in bytes, on the fullest rank.

    `activations`: what autograd holds when the forward pass ends; `buffers`: what a sharding strategy keeps for
    communication; `temporary`: the most that is live beyond the others at the peak.
    """

    weights: int = 0
    master_weights: int = 0
    gradients: int = 0
    optimizer_states: int = 0
    activations: int = 0
    buffers: int = 0
    temporary: int = 0


COMPONENTS = tuple(part.name for part in fields(Components))
PERSISTENT = COMPONENTS[:4]


@dataclass(frozen=True, kw_only=True)
class Phases:
    """The most that is allocated during each phase of one steady step."""

    forward: int
    backward: int
    optimizer: int


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What the process takes of the GPU besides PyTorch's allocator."""

    context: int = 0
    communicators: int = 0


@dataclass(frozen=True, kw_only=True)
class Host:
    """Host memory of one rank: pinned (staging of offloaded states) and pageable."""

    pinned: int = 0
    pageable: int = 0


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes per GPU; `at_peak` adds up to `peak_allocated`; `total` = reserved + outside the allocator.

    `curve` is what is allocated over the step; it has no samples where the step was not simulated.
    """

    components: Components
    persistent: int
    phases: Phases
    peak_allocated: int
    peak_phase: Phase
    at_peak: Components
    reserved: int
    outside_allocator: Outside
    total: int
    host: Host
    curve: Curve = EMPTY


@dataclass(frozen=True, kw_only=True)
class GpuPart:
    """Which GPU, how many, and the bytes of one that a process can have (null where no GPU was named)."""

    name: str | None
    count: int
    usable: int | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether the run fits: `headroom` is usable - margin - total; null where no GPU was named."""

    fits: bool | None
    level: Level
    headroom: int | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Note:
    """Something assumed, or something the numbers do not include; `path` is the key of the run it concerns."""

    code: str
    path: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Source:
    """The config of another tool that a run was read from: its format and its file."""

    format: str
    file: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a value of the run comes from: a key of a file, or (`default`) what its framework does without the key."""

    file: str
    line: int | None
    key: str
    default: str = ""


@dataclass(frozen=True, kw_only=True)
class FormulaPart:
    """What a framework's own published formula says of the run: bytes of one GPU, and of host memory of one node.

    `terms` are its parts by name (in the formula's units), `says` is what it counts and what it leaves out.
    """

    name: str
    gpu_bytes: int
    cpu_bytes: int = 0
    source: str
    terms: Mapping[str, int] = field(default_factory=dict)
    says: str = ""


@dataclass(frozen=True, kw_only=True)
class RankPart:
    """One kind of rank of a divided model: a pipeline stage, with the parameters that it holds.

    `host_per_node` is the host memory of all ranks of one node, were they all of this kind.
    """

    label: str
    stage: int
    parameters: int
    memory: Memory
    host_per_node: Host = Host()


@dataclass(frozen=True, kw_only=True)
class Report(Document):
    """The whole answer to one run.

    `ranks` are the distinct kinds of rank, where they were asked for; `memory` is that of the fullest. `source` and
    `origins` (per path of the run) where another tool's config was read, `formula` where one was asked for.
    """

    schema_version: Literal["1.0"] = "1.0"
    kind: Literal["estimate"] = "estimate"
    run: Mapping[str, Any]
    model: ModelPart
    memory: Memory
    gpu: GpuPart
    verdict: Verdict
    assumptions: tuple[Note, ...] = ()
    warnings: tuple[Note, ...] = ()
    source: Source | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)
    formula: FormulaPart | None = None
    ranks: tuple[RankPart, ...] = ()
