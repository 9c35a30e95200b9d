"""DDP: every rank holds everything, and buckets in which gradients are all-reduced.

Source: torch 2.13.0, torch/nn/parallel/distributed.py; torch/csrc/distributed/c10d/reducer.cpp (initialize_buckets,
mark_variable_ready_dense, compute_bucket_assignment_by_size); torch/distributed/algorithms/ddp_comm_hooks;
torch/distributed/optim/zero_redundancy_optimizer.py (_partition_parameters).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING

from memcalc.sharding import options
from memcalc.sharding.strategy import Local, Strategy
from memcalc.tape.units import Sharder
from memcalc.tape.values import ITEM
from memcalc.tensors import Tensor, expand_tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from memcalc.model import Model
    from memcalc.sharding.options import Reader
    from memcalc.tape.autograd import Leaf
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

MIB = 2**20
FIRST = MIB  # dist._DEFAULT_FIRST_BUCKET_BYTES, where no bucket_cap_mb is given
HOOKS = ("none", "allreduce", "bf16_compress", "fp16_compress", "powersgd")
COMPRESSED = {"bf16_compress": "bf16", "fp16_compress": "fp16"}
LEAST = 2  # PowerSGDState.min_compression_rate: matrices that would not shrink to half are sent as they are
OPTIONS: dict[str, Reader] = {
    "bucket_cap_mb": options.number,
    "gradient_as_bucket_view": options.flag,
    "static_graph": options.flag,
    "find_unused_parameters": options.flag,
    "broadcast_buffers": options.flag,
    "no_sync": options.flag,
    "comm_hook": options.one_of(*HOOKS),
    "matrix_approximation_rank": options.count,
    "use_error_feedback": options.flag,
    "warm_start": options.flag,
    "zero_redundancy_optimizer": options.flag,
    "parameters_as_bucket_view": options.flag,
}


@dataclass(frozen=True)
class Replicated(Strategy):
    """Buckets as large as all gradients, in the parameters' dtypes, and gradients that are views of them or stand beside.

    `cap` is the size of a bucket in bytes, `first` that of the first. `hook` compresses what is communicated; `low_rank` is
    PowerSGD's rank, `feedback` whether it keeps what it lost, `warm` whether it keeps its factors. `partitions` the states
    (ZeroRedundancyOptimizer).
    """

    cap: int = 25 * MIB
    first: int = FIRST
    views: bool = False
    hook: str = "none"
    low_rank: int = 1
    feedback: bool = True
    warm: bool = True
    partitions: bool = False

    def place(self, tensors: tuple[Tensor, ...]) -> Local:
        """All of everything; with views the buckets are the gradients, and there all along."""
        trained = [tensor for tensor in tensors if tensor.trainable and not tensor.buffer and not tensor.tied_to]
        states = tuple(partition(trained, self.ranks)) if self.partitions else tensors
        buckets = tuple(self.buckets(trained))
        kept = self._compression(trained, buckets) if self.hook == "powersgd" else ()
        if self.views:
            return Local(tensors, tensors, states, kept, buckets)
        return Local(tensors, tensors, states, (*buckets, *kept))

    def buckets(self, trained: list[Tensor]) -> Iterator[Tensor]:
        """The buckets, filled as gradients come: the last parameters first; one dtype each."""
        for dtype in dict.fromkeys(tensor.dtype for tensor in trained):
            sizes = Counter(self._filled([tensor for tensor in trained if tensor.dtype == dtype]))
            for elements, times in sizes.items():
                yield Tensor("bucket", (elements,), times, "bucket", dtype=dtype)

    def _filled(self, trained: list[Tensor]) -> Iterator[int]:
        """compute_bucket_assignment_by_size: a bucket is full once it is no smaller than its limit."""
        elements, limit = 0, self.first
        for size in _backwards(trained):
            elements += size
            if elements * self._item(trained) >= limit:
                yield elements
                elements, limit = 0, self.cap
        if elements:
            yield elements

    @staticmethod
    def _item(trained: list[Tensor]) -> int:
        """Bytes of an element, where the tensors say; those of fp32 are a fair guess for how buckets fill."""
        return ITEM.get(trained[0].dtype, 4)

    def _compression(self, trained: list[Tensor], buckets: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What PowerSGD keeps between steps: what it lost in the last, and its factors P and Q."""
        errors = tuple(replace(bucket, name="error") for bucket in buckets) if self.feedback else ()
        return (*errors, *self._factors(trained)) if self.warm else errors

    def _factors(self, trained: list[Tensor]) -> Iterator[Tensor]:
        for tensor in trained:
            if len(tensor.shape) < 2:
                continue
            rows, columns = tensor.shape[0], prod(tensor.shape[1:])
            rank = min(rows, columns, self.low_rank)
            if (rows + columns) * rank * LEAST < rows * columns:
                yield Tensor("factors", ((rows + columns) * rank,), tensor.count, "bucket", dtype=tensor.dtype)

    def attach(self, tape: Tape, model: Model, tensors: tuple[Tensor, ...]) -> Sharder | None:  # noqa: ARG002
        """The reducer's hooks; nothing where gradients stay as they come."""
        compresses = self.hook in COMPRESSED or self.hook == "powersgd"
        return Reducing(tape, self) if self.views or compresses else None

    @property
    def leaves_out(self) -> str:
        """What the hooks of PowerSGD do in its first, plain steps is not told apart."""
        return super().leaves_out


class Reducing(Sharder):
    """The reducer: gradients are copied into buckets, and a full bucket is communicated."""

    def __init__(self, tape: Tape, how: Replicated) -> None:
        super().__init__(tape)
        self.how, self.filled, self.limit = how, 0, how.first

    def gradient(self, leaf: Leaf, gradient: Value) -> bool:
        """mark_variable_ready_dense: with views the gradient goes once it is copied."""
        if leaf.spends is not None:
            return False
        self.filled += prod(gradient.shape)
        if self.filled * ITEM[gradient.dtype] >= self.limit:
            self._communicate(self.filled, gradient.dtype)
            self.filled, self.limit = 0, self.how.cap
        return self.how.views

    def _communicate(self, elements: int, dtype: str) -> None:
        """One bucket: a copy in the lower dtype; PowerSGD's input, and what of it is lost."""
        narrow = COMPRESSED.get(self.how.hook)
        if narrow and narrow != dtype:
            self.tape.buffer(elements, narrow)
        if self.how.hook == "powersgd" and self.how.feedback:
            copies = [self.tape.buffer(elements, dtype) for _ in range(2)]
            copies.clear()


def _backwards(trained: list[Tensor]) -> Iterator[int]:
    """Elements of each parameter, the last first, layer by layer."""
    layers = [list(run) for _, run in groupby(reversed(trained), key=lambda tensor: tensor.count)]
    for layer in layers:
        for _ in range(layer[0].count):
            for tensor in layer:
                yield tensor.elements


def partition(trained: Iterable[Tensor], ranks: int) -> list[Tensor]:
    """Whole parameters, the largest first, each to the rank that has least: those of the rank with most."""
    single = sorted((one for tensor in trained for one in expand_tensor(tensor)), key=lambda one: -one.elements)
    shares: list[list[Tensor]] = [[] for _ in range(min(ranks, len(single)) or 1)]
    sizes = [0] * len(shares)
    for tensor in single:
        least = sizes.index(min(sizes))
        shares[least].append(tensor)
        sizes[least] += tensor.elements
    return shares[sizes.index(max(sizes))]


def from_options(given: Mapping[str, Any], ranks: int, offloaded: frozenset[str]) -> Replicated:
    """The strategy with a run's options; RunInvalid lists those that DDP doesn't have."""
    found = options.read(given, OPTIONS, "ddp")
    cap = found.get("bucket_cap_mb")
    return Replicated(
        "ddp",
        ranks,
        offloaded,
        cap=int((cap or 25) * MIB),
        first=int(cap * MIB) if cap else FIRST,
        views=found.get("gradient_as_bucket_view", False),
        hook=found.get("comm_hook", "none"),
        low_rank=found.get("matrix_approximation_rank", 1),
        feedback=found.get("use_error_feedback", True),
        warm=found.get("warm_start", True),
        partitions=found.get("zero_redundancy_optimizer", False),
    )
