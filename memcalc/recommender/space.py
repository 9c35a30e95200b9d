"""The search space: for each key of a run the values worth trying, as plain data, and which of their combinations are legal.

A run splits into what decides how a step goes (its shape: precision, checkpoints, attention, loss, sharding, offload …)
and what can be varied over it without running it again: the micro batch, the optimizer and the GPU.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

from memcalc.dataclass import dataclass
from memcalc.errors import RunInvalid
from memcalc.implementations import kernels
from memcalc.optimizers import resolve
from memcalc.precision import recipe
from memcalc.recommender.legality import STANDINS, data_parallel, goes_with, legal, named, runs_on
from memcalc.run import OUTER, Checkpointing, Loss, Parallel, Sharding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from memcalc.gpus import Gpu
    from memcalc.model import Model
    from memcalc.recommender.tasks import Task
    from memcalc.run import Run, Spec

SHAPE = ("precision", "checkpointing", "implementation", "attention", "loss", "sharding", "parallel", "offload",
         "expandable_segments", "gpus")  # fmt: skip
KEYS = ("optimizer", "batch_size", *SHAPE)
LONG = 32768  # tokens from which a sequence is worth dividing
FILLING = 4  # micro batches for each stage of a pipeline, where nothing says how many
MOST = 512  # sequences of a micro batch, where nothing else bounds it
NARROWER: Mapping[str, tuple[str, ...]] = {  # what a recipe may give way to
    "fp32": ("amp-bf16", "mixed-bf16", "bf16"),
    "amp-bf16": ("bf16-autocast", "bf16"),
    "mixed-bf16": ("bf16",),
    "megatron-bf16": ("mixed-bf16", "bf16"),
    "mixed-bf16-fp32-grads": ("mixed-bf16", "bf16"),
}


@dataclass(frozen=True)
class Space:
    """`shapes` are runs of a micro batch of one, their optimizer and GPU left open; `axes` what was varied."""

    base: Run
    shapes: tuple[Run, ...]
    batches: tuple[int, ...]
    optimizers: tuple[Spec, ...]
    cards: tuple[Gpu, ...]
    axes: Mapping[str, tuple[Any, ...]]
    global_batch: int | None = None

    @property
    def candidates(self) -> int:
        """Combinations in all, legal or not."""
        size = len(self.cards)
        for values in self.axes.values():
            size *= max(1, len(values))
        return size

    def loads(self, shape: Run) -> Iterator[tuple[int, int]]:
        """(micro batch, gradient accumulation) that a shape may run with."""
        ranks = data_parallel(shape)
        for batch in self.batches:
            if self.global_batch is None:
                stages = shape.parallel.pipeline  # enough micro batches to keep the stages of a pipeline busy
                yield batch, max(self.base.grad_accum, FILLING * stages if stages > 1 else 1)
            elif self.global_batch % (batch * ranks) == 0:
                yield batch, self.global_batch // (batch * ranks)

    def steps(self, shape: Run, card: Gpu) -> list[Spec]:
        """The optimizers that go with a shape on a GPU."""
        return [spec for spec in self.optimizers if goes_with(spec, shape, card)]


def space(
    base: Run, model: Model, task: Task, cards: tuple[Gpu, ...], counts: tuple[int, ...], *,
    given: Mapping[str, tuple[Any, ...]], kept: frozenset[str] = frozenset(), tuning: bool = False,
    global_batch: int | None = None,
) -> Space:  # fmt: skip
    """The space around a run: axes as `given`, the run's own value of what is `kept`, else what is usually tried.

    `tuning` admits optimizers that need their learning rate tuned anew.
    """
    usual = {
        "optimizer": tuple(_optimizers(base, task, tuning=tuning)),
        "precision": tuple(_distinct((base.precision, *_precisions(base, cards)))),
        "checkpointing": tuple(_distinct((base.checkpointing, *_checkpoints(model)))),
        "implementation": tuple(_distinct((base.implementation, *_implementations(base, model)))),
        "attention": tuple(_distinct((base.attention, *_attentions(base, model)))),
        "loss": tuple(_distinct((base.loss, *_losses(base, model)))),
        "batch_size": tuple(_batches(base, global_batch)),
        "sharding": tuple(_strategies(base, counts)),
        "parallel": tuple(_distinct((base.parallel, *_degrees(base, counts)))),
        "offload": tuple(_distinct((base.offload, *_offloads(base)))),
        "expandable_segments": (base.expandable_segments, *(() if base.expandable_segments else (True,))),
        "gpus": counts,
    }
    own = {key: (getattr(base, key),) for key in usual if key in kept}
    axes = {**usual, **own, **given}
    shapes = tuple(_shapes(base, axes, cards))
    return Space(base, shapes, axes["batch_size"], axes["optimizer"], cards, axes, global_batch)


def _shapes(base: Run, axes: Mapping[str, tuple[Any, ...]], cards: tuple[Gpu, ...]) -> Iterator[Run]:
    blank = replace(base, batch_size=1, gpu=None, budget=None)
    for values in product(*(axes[key] for key in SHAPE)):
        made = dict(zip(SHAPE, values, strict=True))
        if made["gpus"] == 1:
            made["sharding"] = None
        shape = replace(blank, **made)
        if legal(shape, base) and any(runs_on(shape, card, base) for card in cards):
            yield shape


def _optimizers(base: Run, task: Task, *, tuning: bool) -> Iterator[Spec]:
    """The run's own, the same as one kernel, and what the task suggests; FSDP's 8-bit twin beside bitsandbytes'."""
    yield base.optimizer
    if base.implementation == "megatron":  # it has one of its own
        return
    own = named(base.optimizer)
    if own.name == "adamw" and own.implementation != "fused" and isinstance(base.optimizer, str):
        yield {"name": "adamw", "implementation": "fused"}
    for number, (name, _why) in enumerate(task.optimizers):
        if name == own.name:
            continue
        if number < task.first or tuning or resolve(name).advice.drop_in:
            yield {"name": "adamw", "implementation": "fused"} if name == "adamw" else name
        if name == "adamw-8bit":
            yield "adamw-8bit-torchao"


def _precisions(base: Run, cards: tuple[Gpu, ...]) -> tuple[str, ...]:
    standins = () if all(card.bf16 for card in cards) else STANDINS
    if not isinstance(base.precision, str) or base.implementation == "megatron":
        return ()
    return (*(() if base.lora else NARROWER.get(recipe(base.precision).name, ())), *standins)


def _checkpoints(model: Model) -> tuple[Checkpointing, ...]:
    return (Checkpointing(), Checkpointing(mode="full")) if model.checkpoints else (Checkpointing(),)


def _implementations(base: Run, model: Model) -> Iterator[Any]:
    if base.implementation != "hf":
        return
    try:
        kernels("hf-liger", model.architecture)
    except RunInvalid:
        return
    yield "hf-liger"


def _attentions(base: Run, model: Model) -> tuple[Any, ...]:
    return () if model.kind == "tensors" or base.implementation == "megatron" else ("sdpa", "flash")


def _losses(base: Run, model: Model) -> tuple[Loss, ...]:
    if base.loss.kind in OUTER or base.implementation != "hf":  # the trainer's own, or that of its modules
        return ()
    return (Loss(kind="fused"), Loss(kind="fused-linear")) if model.kind == "causal-lm" else ()


def _batches(base: Run, global_batch: int | None) -> Iterator[int]:
    batch, most = 1, min(MOST, global_batch or MOST)
    while batch <= most:
        yield batch
        batch *= 2
    if base.batch_size > most or base.batch_size & (base.batch_size - 1):
        yield base.batch_size


def _strategies(base: Run, counts: tuple[int, ...]) -> Iterator[Sharding | None]:
    yield base.sharding
    if max(counts) == 1:
        return
    named = base.sharding.strategy if base.sharding else ""
    for strategy in ("ddp", "zero2", "zero3", "fsdp"):
        if strategy != named and not (strategy == "ddp" and not named) and base.implementation != "megatron":
            yield Sharding(strategy=strategy)
    if base.implementation == "megatron":
        yield Sharding(strategy="megatron", options={"distributed_optimizer": True})


def _degrees(base: Run, counts: tuple[int, ...]) -> Iterator[Parallel]:
    """Tensor parallelism over a node, of long sequences context parallelism; with Megatron's modules pipelines as well."""
    megatron = base.implementation == "megatron"
    tensors, pipelines = ((1, 2, 4, 8), (1, 2, 4, 8)) if megatron else ((1, 8), (1,))
    if not megatron and not base.lora and (base.seq_len or 0) >= LONG and max(counts) >= 8:
        yield replace(base.parallel, context=8)
    for tensor, pipeline in product(tensors, pipelines):
        if tensor * pipeline <= max(counts) // (1 if megatron else 2) and (megatron or not base.lora):
            sequence = base.parallel.sequence or (megatron and tensor > 1)
            yield replace(base.parallel, tensor=tensor, pipeline=pipeline, sequence=sequence)


def _offloads(base: Run) -> tuple[Any, ...]:
    if base.implementation == "megatron":
        return ()
    return ("none", "activations") if base.lora else ("none", "optimizer", "activations")


def _distinct(values: Iterable[Any]) -> Iterator[Any]:
    seen: list[Any] = []
    for value in values:
        if value not in seen:
            seen.append(value)
            yield value
