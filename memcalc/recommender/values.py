"""Recommendation: the answer of `memcalc recommend`, as the document other tools read (`schema_version` 1.0).

Bytes are integers, per GPU; times are seconds, prices USD.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal

from memcalc.dataclass import dataclass
from memcalc.document import Document
from memcalc.report import GpuPart, Memory, ModelPart, Note, Verdict

Level = Literal["none", "resources", "free", "time", "numerics", "tuning", "method"]


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """What the whole job gets through, and where the time of one optimizer step goes.

    `busy` is the share of the GPU's dense rate that is used, what checkpoints compute again included. `flops` are those of
    one micro step on the busiest rank, by the kind of block they are in, backward and recomputed included.
    """

    unit: Literal["tokens", "samples"]
    tokens_per_second: float | None
    samples_per_second: float | None
    step_seconds: float
    busy: float
    parts: Mapping[str, float]
    flops: Mapping[str, int] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        """Of what its `unit` says."""
        return self.tokens_per_second or self.samples_per_second or 0.0


@dataclass(frozen=True, kw_only=True)
class Cost:
    """USD of an hour of all GPUs, and of a million tokens or samples; null where the pace is not known."""

    usd_per_hour: float
    usd_per_million_tokens: float | None
    usd_per_million_samples: float | None
    price: str

    @property
    def usd_per_million(self) -> float | None:
        """Of tokens, or of samples where a model has none."""
        return self.usd_per_million_tokens if self.usd_per_million_tokens is not None else self.usd_per_million_samples


@dataclass(frozen=True, kw_only=True)
class Intrusion:
    """How much a run departs from the one asked for: its most intrusive change, and how many there are of each level.

    `score` orders runs: one change of a level weighs more than any number below it.
    """

    level: Level
    score: int
    counts: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Switch:
    """One change against the run asked for; the document calls `before` and `after` `from` and `to`.

    `saves` are the bytes by which it lowers this run's peak (of expandable segments: what is reserved); null where it was
    not estimated. `why` is what speaks for it, or what it asks of the user.
    """

    path: str
    before: Any
    after: Any
    level: Level
    saves: int | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A run that was estimated, with the parts of its report: `labels` are what it is the best of."""

    labels: tuple[str, ...] = ()
    run: Mapping[str, Any]
    gpu: GpuPart
    memory: Memory
    verdict: Verdict
    throughput: Throughput | None
    cost: Cost | None
    intrusion: Intrusion
    changes: tuple[Switch, ...] = ()
    why: str = ""
    hints: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A neighbour of a recommended run, one switch away, and why it is not recommended.

    `over` are the bytes it lacks, `where` the part of the step in which it does.
    """

    of: str
    key: str
    value: Any
    instead_of: Any
    over: int | None
    where: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Advised:
    """What a practitioner says of an optimizer for the task: what it keeps of each fp32 parameter of a large matrix, whether it
    replaces AdamW with nothing else changed, how well it trains, and why one would take it.
    """  # noqa: D205 - one sentence

    optimizer: str
    bytes_per_parameter: float
    drop_in: bool
    quality: str
    why: str
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A figure that others measured, in tokens per second and GPU, and what the throughput model says of the same run."""

    model: str
    batch_size: int
    seq_len: int
    checkpointing: str
    gpu: str
    gpus: int
    measured: float
    predicted: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Searched:
    """How it was looked at: candidates that are allowed; steps that were recorded and runs that were estimated in full;
    and the values of each key that was varied.
    """  # noqa: D205 - one sentence

    legal: int
    recorded: int
    estimated: int
    axes: Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class Recommendation(Document):
    """The answer: `asked` is the run as it was asked for, `as_asked` what it takes; `pareto` is what no other run beats.

    `searched` are the candidates that were looked at, `fitting` those that seem to fit. Where nothing fits, there are no
    `recommendations`, and `nearest_miss` is what lacks the least.
    """

    published_names: ClassVar[Mapping[str, str]] = {"before": "from", "after": "to"}

    schema_version: Literal["1.0"] = "1.0"
    kind: Literal["recommend"] = "recommend"
    asked: Mapping[str, Any]
    task: str
    model: ModelPart
    searched: int
    fitting: int
    recommendations: tuple[Choice, ...]
    as_asked: Choice | None = None
    pareto: tuple[Choice, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    nearest_miss: Choice | None = None
    lacks: str = ""
    search: Searched
    optimizers: tuple[Advised, ...] = ()
    advice: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    assumptions: tuple[Note, ...] = ()
    warnings: tuple[Note, ...] = field(default=())
