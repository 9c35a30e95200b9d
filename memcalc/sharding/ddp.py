"""DDP: every rank holds everything, and buckets in which gradients are all-reduced.

Source: torch 2.13.0, torch/nn/parallel/distributed.py; torch/csrc/distributed/c10d/reducer.cpp (initialize_buckets,
mark_variable_ready_dense, compute_bucket_assignment_by_size); torch/distributed/algorithms/ddp_comm_hooks;
torch/distributed/optim/zero_redundancy_optimizer.py (_partition_parameters).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from heapq import heapreplace
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING, cast

from memcalc.dataclass import dataclass
from memcalc.dtypes import nbytes
from memcalc.known import Known
from memcalc.sharding import options
from memcalc.sharding.groups import Grouping, grouped
from memcalc.sharding.strategy import Local, Strategy
from memcalc.tape.values import ITEM, rounded
from memcalc.tensors import Tensor, count_of, expand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Any

    from memcalc.model import Model
    from memcalc.sharding.groups import Group, Groups
    from memcalc.sharding.options import Reader
    from memcalc.tape.autograd import Leaf
    from memcalc.tape.recorder import Tape
    from memcalc.tape.setting import Setting
    from memcalc.tape.units import Sharder, Unit
    from memcalc.tape.values import Value

MIB = 2**20
MESSAGE = 250 * MIB  # broadcast_bucket_size
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
    """Buckets as large as all gradients, in the parameters' dtypes, and gradients that are `views` of them or stand beside.

    * `cap` is the size of a bucket in bytes, `first` that of the first.
    * `hook` compresses what is communicated; `low_rank` is PowerSGD's rank, `feedback` whether it keeps what it lost,
      `warm` whether it keeps its factors.
    * `partitions` the states (ZeroRedundancyOptimizer).
    * `accumulates` where earlier micro batches were not reduced, `searches` where parameters without gradients are looked
      for.
    """

    cap: int = 25 * MIB
    first: int = FIRST
    views: bool = False
    hook: str = "none"
    low_rank: int = 1
    feedback: bool = True
    warm: bool = True
    partitions: bool = False
    accumulates: bool = False
    searches: bool = False

    def place(self, tensors: tuple[Tensor, ...]) -> Local:
        """All of everything; with views the buckets are the gradients, and there all along."""
        trained = learning(tensors)
        states = partition(tuple(trained), self.ranks) if self.partitions else tensors
        buckets = tuple(self.buckets(trained))
        kept = self._compression(trained, buckets) if self.hook == "powersgd" else ()
        if self.views:
            return Local(tensors, tensors, states, kept, buckets)
        return Local(tensors, tensors, states, (*buckets, *kept))

    def buckets(self, trained: list[Tensor]) -> Iterator[Tensor]:
        """The buckets, of one dtype each: a single one is made at first, in whose place the others then are.

        Where unused parameters are looked for, they are made as they stay.
        """
        if self.searches:
            yield from self._filled(trained, lambda tensor: tensor.dtype)
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in trained):
            elements = sum(tensor.count * tensor.elements for tensor in trained if tensor.dtype == dtype)
            yield Tensor("bucket", (elements,), 1, "bucket", dtype=dtype)

    def _filled(self, trained: list[Tensor], stored: Callable[[Tensor], str]) -> Iterator[Tensor]:
        for dtype in dict.fromkeys(tensor.dtype for tensor in trained):
            own = [tensor for tensor in trained if tensor.dtype == dtype]
            sizes = Counter(elements for elements, _ in self.filled(own, stored(own[0])))
            for elements, times in sizes.items():
                yield Tensor("bucket", (elements,), times, "bucket", dtype=dtype)

    def filled(self, trained: list[Tensor], dtype: str = "") -> Iterator[tuple[int, Tensor]]:
        """Each bucket's elements, and the parameter whose gradient is its last (compute_bucket_assignment_by_size).

        Rebuilt, the buckets are in the order in which gradients come; those that stay as they are made in the parameters'.
        """
        elements, limit, item = 0, self.first, ITEM.get(dtype or trained[0].dtype if trained else "", 4)
        order, sizes = list(_backwards(trained)), {id(tensor): tensor.elements for tensor in trained}
        last = trained[:1]
        for tensor in reversed(order) if self.searches else order:
            last = [tensor] if self.searches and not elements else last
            elements += sizes[id(tensor)]
            if elements * item >= limit:
                yield elements, last[0] if self.searches else tensor
                elements, limit = 0, self.cap
        if elements:
            yield elements, last[0]

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

    def tried(self, local: Local, stored: Callable[[Tensor], str]) -> tuple[int, ...]:
        """_sync_module_states: all tensors of a dtype flat in messages of 250 MiB, two of which are under way."""
        sizes = list(_messages(local.weights, stored))
        moves = [move for number, size in enumerate(sizes) for move in (size, ~(number - 1))]
        return (*moves[:1], *moves[2:], ~(len(sizes) - 1)) if sizes else ()

    def rebuilt(self, local: Local, stored: Callable[[Tensor], str]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Reducer::rebuild_buckets: one bucket for all at first, then as gradients have come in the first step.

        Where unused parameters are looked for, they stay as they are made, the last first.
        """
        trained = learning(local.weights)
        once = tuple(tensor for tensor in (local.accumulated or local.buffers) if tensor.name == "bucket")
        if self.searches:
            return once[::-1], once[::-1]
        return once, tuple(self._filled(trained, stored))

    def setting_of(self, setting: Setting) -> Setting:
        """With views, what no_sync left waits beside the buckets until the next reduction."""
        return replace(setting, accumulating=setting.accumulating and not self.views)

    def attach(self, tape: Tape, model: Model, tensors: tuple[Tensor, ...]) -> Sharder | None:
        """The reducer's hooks; nothing where gradients stay as they come."""
        if not self.views and self.hook not in (*COMPRESSED, "powersgd"):
            return None
        return Reducing(tape, self, grouped(model, tensors, "layers"), learning(tensors))


class Reducing(Grouping):
    """The reducer: gradients are copied into buckets, and a full bucket is communicated."""

    neighbours = ()

    def __init__(self, tape: Tape, how: Replicated, groups: Groups, trained: list[Tensor]) -> None:
        super().__init__(tape, groups)
        self.how = how
        self.fills: dict[str, int] = {}
        for elements, tensor in how.filled(trained, tape.weights.kept(trained[0]) if trained else ""):
            self.fills[tensor.name] = max(elements, self.fills.get(tensor.name, 0))

    def before_forward(self, unit: Unit) -> None:
        """With views, what no_sync left is there when the step begins; here it comes as often as there are units."""
        group = cast("Group", unit)
        if not (self.how.views and self.how.accumulates) or group.state != "idle":
            return
        group.state = "forward"
        for tensor in group.tensors:
            if tensor.trainable:
                shape = (tensor.count, *tensor.shape)
                group.accumulated[tensor.name] = self.tape.accumulated(shape, self.tape.weights.seen(tensor))

    def gradient(self, leaf: Leaf, gradient: Value) -> bool:
        """mark_variable_ready_dense: with views the gradient goes once it is copied."""
        if leaf.spends is not None or leaf.unit is None:
            return False
        cast("Group", leaf.unit).accumulated.pop(self._listed(leaf), None)
        self.added(leaf, gradient)
        return self.how.views

    def added(self, leaf: Leaf, gradient: Value) -> None:
        """The same of one that is in its bucket, or added to what no_sync left beside it."""
        self._communicate(self.fills.get(self._listed(leaf), 0), gradient.dtype)

    def _listed(self, leaf: Leaf) -> str:
        """The name that a parameter is listed under, which is another's where it is tied to that."""
        known = self.tape.weights.find(leaf.name)
        return known.tied_to or known.name if known else leaf.name

    def _communicate(self, elements: int, dtype: str) -> None:
        """Reducer: a full bucket as its hook compresses it.

        A copy in the lower dtype; or PowerSGD's input, and what of it is lost.
        """
        narrow = COMPRESSED.get(self.how.hook)
        if elements and narrow and narrow != dtype:
            self.tape.buffer(elements, narrow)
        if elements and self.how.hook == "powersgd" and self.how.feedback:
            copies = [self.tape.buffer(elements, dtype) for _ in range(2)]
            copies.clear()


def learning(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The parameters that get gradients."""
    return [tensor for tensor in tensors if tensor.trainable and not tensor.buffer and not tensor.tied_to]


def _messages(tensors: Iterable[Tensor], stored: Callable[[Tensor], str]) -> Iterator[int]:
    """Bytes of each flat message that broadcasts tensors (_broadcast_coalesced)."""
    under_way: dict[str, int] = {}
    for tensor in tensors:
        own = nbytes(tensor.elements, dtype := stored(tensor))
        for _ in range(tensor.count):
            under_way[dtype] = under_way.get(dtype, 0) + own
            if under_way[dtype] >= MESSAGE:
                yield rounded(under_way.pop(dtype))
    yield from map(rounded, under_way.values())


def _backwards(trained: list[Tensor]) -> Iterator[Tensor]:
    """Each parameter, the last first, layer by layer."""
    layers = [list(run) for _, run in groupby(reversed(trained), key=lambda tensor: tensor.count)]
    for layer in layers:
        for _ in range(layer[0].count):
            yield from layer


PARTITIONS: Known[tuple[Tensor, ...]] = Known()


def partition(trained: tuple[Tensor, ...], ranks: int) -> tuple[Tensor, ...]:
    """Whole parameters, the largest first, each to the rank that has least: those of the rank with most."""
    return PARTITIONS.get((trained, ranks), None, lambda: _partitioned(trained, ranks))


def _partitioned(trained: tuple[Tensor, ...], ranks: int) -> tuple[Tensor, ...]:
    single = [
        (elements, tensor, number)
        for elements, tensor in sorted(((one.elements, one) for one in trained), key=lambda pair: -pair[0])
        for number in range(count_of(tensor.name))
    ]
    shares: list[list[tuple[Tensor, int]]] = [[] for _ in range(min(ranks, len(single)) or 1)]
    sizes = [(0, rank) for rank in range(len(shares))]
    for elements, tensor, number in single:
        size, least = sizes[0]
        heapreplace(sizes, (size + elements, least))
        shares[least].append((tensor, number))
    most, _ = max(sizes)
    fullest = min(rank for size, rank in sizes if size == most)
    names = {id(tensor): list(expand(tensor.name)) for tensor in {id(one): one for one, _ in shares[fullest]}.values()}
    return tuple(_one(tensor, names[id(tensor)][number]) for tensor, number in shares[fullest])


def _one(tensor: Tensor, name: str) -> Tensor:
    return Tensor(
        name, tensor.shape, 1, tensor.role, tensor.trainable, tensor.tied_to, tensor.buffer, tensor.dtype, tensor.idle
    )


def from_options(given: Mapping[str, Any], ranks: int, offloaded: frozenset[str], *, micro_batches: int) -> Replicated:
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
        accumulates=micro_batches > 1 and found.get("no_sync", True),
        searches=found.get("find_unused_parameters", False) and not found.get("static_graph", False),
    )
