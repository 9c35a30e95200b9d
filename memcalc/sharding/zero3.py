"""ZeRO-3: every parameter cut into equal shards, gathered module by module for as long as it is soon used again.

Source: DeepSpeed 0.19.8, runtime/zero/partition_parameters.py (shards), stage3.py (masters, gradients, buckets, steps),
parameter_offload.py (what stays gathered) and partitioned_param_coordinator.py (when).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from memcalc.dataclass import dataclass
from memcalc.dtypes import BITS
from memcalc.known import Known
from memcalc.replay.reserve import Staged
from memcalc.sharding.flat import sizes
from memcalc.sharding.strategy import Local
from memcalc.sharding.zero import Zero
from memcalc.sharding.zero12 import DOUBLE, LOW, WIDE, piece, pieces
from memcalc.tape.values import FLOATS, rounded
from memcalc.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcalc.model import Model
    from memcalc.optimizers import Optimizer
    from memcalc.replay.reserve import Held
    from memcalc.sharding.strategy import Books, Hosted
    from memcalc.tape.recorder import Tape
    from memcalc.tape.setting import Setting
    from memcalc.tape.units import Sharder


SMALL = "small parameters"
LONE = "sub-group of one parameter"


class Shards(NamedTuple):
    """Elements of each shard of a rank: of trained parameters in their order, of frozen ones."""

    trained: tuple[int, ...]
    frozen: tuple[int, ...]


@dataclass(frozen=True)
class ZeroThree(Zero):
    """DeepSpeedZeroOptimizer_Stage3."""

    @property
    def ways(self) -> int:
        """Into how many shards a parameter is cut: MiCS shares out within groups of its own."""
        return self.settings.mics_shard_size or self.ranks

    @property
    def accumulated_item(self) -> int:
        """Bytes of an element of the partitions of gradients."""
        return BITS[self.gradient_dtype] // 8

    def setting_of(self, setting: Setting) -> Setting:
        """Linear layers are replaced by ones that save their input whatever learns (zero/linear.py, memory_efficient_linear)."""
        return replace(super().setting_of(setting), keeps_inputs=self.settings.memory_efficient_linear)

    def over(self, component: str) -> int:  # noqa: ARG002 - all of them
        """Everything is sharded."""
        return self.ways

    @property
    def communicators(self) -> tuple[int, ...]:
        """All ranks; hpZ's within a node, MiCS's that share and that repeat."""
        hpz, mics = self.settings.zero_hpz_partition_size, self.settings.mics_shard_size
        return (self.ranks, *((hpz,) if hpz > 1 else ()), *((mics, self.ranks // mics) if mics else ()))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not in the DeepSpeed that this follows."""
        mics = ("MiCS is as older DeepSpeed has it; 0.19.8 has none",) if self.settings.mics_shard_size else ()
        return (*super().notes, *mics)

    def shards(self, tensors: tuple[Tensor, ...]) -> Shards:
        """The elements of every shard."""
        every = listed(tensors)
        return SHARDS.get((id(every), self.ways), every, lambda: shards_of(every, self.ways))

    def subgroups(self, shards: Iterable[int]) -> list[int]:
        """Elements of each sub-group of shards that is stepped at a time (_create_fp16_sub_groups)."""
        groups, now = [], 0
        for elements in shards:
            now += elements
            if now >= self.settings.sub_group_size:
                groups.append(now)
                now = 0
        return [*groups, now] if now else groups

    def place(self, tensors: tuple[Tensor, ...]) -> Local:
        """Shards, the trained ones in one buffer; masters and states by sub-group; partitions of gradients, always there."""
        parts = self.shards(tensors)
        groups = self.subgroups(parts.trained)
        there = groups[: self.staying(len(groups))] if self.partly else groups
        single = frozenset(parts.trained)  # a group as large as a parameter is one: each ends where it is large enough
        states = tuple(
            Tensor(LONE if elements in single else "sub-group", (elements,), dtype=LOW) for elements in there
        )
        weights = (*piece("shards", sum(parts.trained), self.dtype), *self.rest(tensors))
        gradients = self.gradients(sum(parts.trained), sum(there))
        return Local(weights, gradients, states, self.buffers(tensors), gradients, max(single, default=0))

    def gradients(self, whole: int, there: int) -> tuple[Tensor, ...]:
        """Partitions of gradients; on the host with the optimizer, but in fp32 for what is stepped on the GPU."""
        if self.settings.offload_optimizer.device == "none":
            return piece("partitions of gradients", whole, self.gradient_dtype)
        return piece("gradients of sub-groups", there, "fp32") if self.partly else ()

    @property
    def partly(self) -> bool:
        """Whether part of the optimizer is offloaded, part is not (Twin-Flow's ratio)."""
        away = self.settings.offload_optimizer
        return away.device != "none" and away.ratio < 1

    def staying(self, groups: int) -> int:
        """How many sub-groups, the first, stay on the GPU (_create_fp32_partitions, subgroup_to_device)."""
        return int((1 - self.settings.offload_optimizer.ratio) * groups)

    def rest(self, tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Shards of what is not trained, stored in int8 where asked; buffers of the model, whole."""
        return tuple(
            tensor if tensor.buffer else self.frozen(tensor)
            for tensor in tensors
            if not tensor.tied_to and (tensor.buffer or not tensor.trainable)
        )

    def frozen(self, tensor: Tensor) -> Tensor:
        """The shard of a parameter that is not trained."""
        floats = (tensor.dtype or self.dtype) in FLOATS
        narrow = "int8" if self.settings.zero_quantized_nontrainable_weights else self.dtype
        dtype = narrow if floats else tensor.dtype
        return Tensor(tensor.name, (-(-tensor.elements // self.ways),), tensor.count, trainable=False, dtype=dtype)

    def persistent(self, tensors: tuple[Tensor, ...]) -> list[int]:
        """Elements of each parameter that is small enough to stay gathered (mark_persistent_parameters)."""
        least, most = self.persistence
        found: list[int] = []
        total = 0
        for elements, _ in listed(tensors):
            if elements <= least and total + elements <= most:
                total += elements
                found.append(elements)
        return found

    @property
    def persistence(self) -> tuple[int, int]:
        """(elements of a parameter that stays gathered, of all of them), at most."""
        return self.settings.stage3_param_persistence_threshold, self.settings.stage3_model_persistence_threshold

    def buffers(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The bucket of gradients, the small parameters that stay gathered, hpZ's second shards of what is not trained.

        Those of what is trained are made in a step's first micro batch, and stay to its end.
        """
        bucket = self.settings.reduce_bucket_size if self.settings.contiguous_gradients else 0
        small = pieces(map(self.whole, self.persistent(tensors)), self.dtype, SMALL)
        standing, twice = self.accumulating, self.settings.zero_hpz_partition_size > 1
        kept = (elements for elements, trainable in listed(tensors) if standing or not trainable)
        second = sum(map(self.second, kept)) if twice else 0
        return (
            *piece("reduction bucket", bucket, self.sent_dtype),
            *small,
            *piece("secondary shards", second, self.dtype),
        )

    def whole(self, elements: int) -> int:
        """Elements of a parameter that is gathered: every shard as it is, where each is gathered by itself."""
        return -(-elements // self.ways) * self.ways if self.settings.stage3_allgather_sequential else elements

    def second(self, elements: int) -> int:
        """Elements of a parameter's second shard, within a node (ZeRO++'s hpZ); none where there is no such group."""
        hpz = self.settings.zero_hpz_partition_size
        return -(-elements // self.ways) * self.ways // hpz if hpz > 1 else 0

    def attach(self, tape: Tape, model: Model, tensors: tuple[Tensor, ...]) -> Sharder:
        """Hooks on every module with parameters of its own."""
        from memcalc.sharding.gathers import Fetching  # noqa: PLC0415 - only a step that is run needs it

        return Fetching(tape, self, model, tensors)

    def step(self, plain: int, local: Local, optimizer: Optimizer, setting: Setting) -> int:  # noqa: ARG002
        """Norms in fp64 one gradient at a time; then one sub-group after the other; what is gathered is not there."""
        if self.settings.offload_optimizer.device != "none":
            group = max((tensor.elements for tensor in local.states), default=0)
            return optimizer_peak(optimizer, group, setting) if self.partly else 0
        gone = sum(rounded(self.item * t.elements) * t.count for t in local.buffers if t.name == SMALL)
        needs = [self.stepping(group, optimizer, setting) for group in dict.fromkeys(local.states)]
        return max(rounded(DOUBLE * local.normed) - gone, max(needs, default=0) - gone, 0)  # it comes back at the end

    def stepping(self, group: Tensor, optimizer: Optimizer, setting: Setting) -> int:
        """A sub-group's gradients, flattened and cast, and then what the optimizer needs; one alone is flat as it is."""
        item, lone = self.accumulated_item, group.name == LONE
        wide = rounded(WIDE * group.elements) if item != WIDE or not lone else 0
        flattened = rounded(item * group.elements) if item != WIDE and not lone else 0
        return wide + max(flattened, optimizer_peak(optimizer, group.elements, setting))

    def staged(self, local: Local, optimizer: Optimizer, setting: Setting) -> Staged:  # noqa: ARG002
        """The gradients of the largest sub-group: flat, then in fp32."""
        if self.settings.offload_optimizer.device != "none":
            return Staged()
        group = max((tensor.elements for tensor in local.states), default=0)
        item, lone = self.accumulated_item, all(tensor.name == LONE for tensor in local.states)
        flat = rounded(item * group) if item < WIDE and not lone else 0
        return Staged(flat=flat, wide=rounded(WIDE * group) if item < WIDE or not lone else 0)

    def stepped(self, trained: list[Held]) -> list[Held]:
        """Sub-groups are stepped one by one: temporaries of the largest alone."""
        largest = max(trained, key=lambda held: sum(held.states), default=None)
        return [
            held if held is largest else held._replace(together=(), each=(), acts=(), stacked=()) for held in trained
        ]

    def hosted(self, books: Books) -> Hosted:
        """What the offload keeps in one rank's host memory."""
        from memcalc.sharding.offload import hosted3  # noqa: PLC0415

        return hosted3(self, books)


LISTS: Known[tuple[tuple[int, bool], ...]] = Known()
GROUPS: Known[tuple[tuple[int, bool], ...]] = Known()
SHARDS: Known[Shards] = Known()


def shards_of(every: tuple[tuple[int, bool], ...], ways: int) -> Shards:
    """The elements of every shard of parameters, listed with whether they are trained, that are cut so many ways."""
    cut = {elements: -(-elements // ways) for elements in {elements for elements, _ in every}}
    return Shards(
        tuple([cut[elements] for elements, trainable in every if trainable]),
        tuple([cut[elements] for elements, trainable in every if not trainable]),
    )


def listed(tensors: tuple[Tensor, ...]) -> tuple[tuple[int, bool], ...]:
    """(elements, whether it is trained) of every parameter, in their order."""
    return GROUPS.get(id(tensors), tensors, lambda: _listed(parameters(tensors)))


def _listed(own: tuple[Tensor, ...]) -> tuple[tuple[int, bool], ...]:
    return LISTS.get(own, None, lambda: tuple(sizes(own)))


def optimizer_peak(optimizer: Optimizer, elements: int, setting: Setting) -> int:
    """Temporaries of an optimizer that steps one flat tensor in fp32."""
    from memcalc.optimizers.values import Parameter  # noqa: PLC0415

    return (
        0
        if setting.spends or not elements
        else optimizer.step_peak([(Parameter((elements,), "fp32", "parameter", ""), 1)])
    )


def parameters(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The parameters that have memory of their own."""
    return tuple([tensor for tensor in tensors if not tensor.buffer and not tensor.tied_to])
