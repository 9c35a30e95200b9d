"""Which parameters are gathered when under ZeRO-3, and its reduction of gradients, laid over the log of a step.

Source: DeepSpeed 0.19.8, runtime/zero/partitioned_param_coordinator.py (fetch_sub_module, release_sub_module,
__params_to_release, with a complete trace), partition_parameters.py (what a gather allocates: AllGatherHandle,
AllGatherCoalescedHandle) and stage3.py (reduce_independent_p_g_buckets_and_remove_grads, __avg_scatter_grads).
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from memcalc.blocks.base import Stack
from memcalc.blocks.mlp import Mlp
from memcalc.dtypes import BITS
from memcalc.overlay import Laid
from memcalc.sharding.marks import Event, Marking, Roster, events, normal
from memcalc.tape.units import ROOT
from memcalc.tape.values import rounded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.blocks.base import Block
    from memcalc.model import Model
    from memcalc.sharding.marks import Param
    from memcalc.sharding.zero3 import ZeroThree
    from memcalc.tape.recorder import Tape
    from memcalc.tape.step import Recording
    from memcalc.tensors import Tensor
    from memcalc.timeline import Part

FETCHES = frozenset({"enter", "back"})
STEERING = FETCHES | {"gradient", "end"}  # also of modules without parameters: each call gathers ahead
SILENT: tuple[Param, ...] = ()


class Gathering(Marking):
    """Notes when modules run and gradients are there."""

    def __init__(self, tape: Tape, strategy: ZeroThree, model: Model, tensors: tuple[Tensor, ...]) -> None:
        super().__init__(tape, takes=True, modules=True)
        tied = tuple(tensor for tensor in model.tensors if tensor.tied_to)
        self.strategy, self.roster = strategy, Roster((*tensors, *tied))
        self.acting = frozenset(activated(model.body))
        self.adapted = any(tensor.role == "adapter" for tensor in tensors)

    def laid(self, recording: Recording) -> Recording:
        """What is gathered and reduced over the real step."""
        self.roster.visited(mark.name for mark in self.marks if mark.kind == "enter")
        stacks = tuple(stack.path for stack in recording.stacks)
        happens = [
            (event, self.roster.of(event.name, event.layer, stacks))
            for event in events(recording, self.marks)
            if event.kind in STEERING or event.name in self.roster.modules
        ]
        returning = {(event.name, event.layer) for event, _ in happens if event.kind == "after"}
        calls = [self.calls(event, params, returning) if event.kind in FETCHES else [] for event, params in happens]
        coordinator = Coordinator(self.strategy, [call for some in calls for call in some])
        reducer = Reducer(self.strategy)
        overlay: dict[int, list[Laid]] = {}
        for (event, params), some in zip(happens, calls, strict=True):
            if event.kind == "gradient":
                made = self.reduced(event, reducer, stacks)
            elif event.kind == "end":
                made = [*reducer.send(), *coordinator.finish()]
            elif event.kind in FETCHES:
                made = [item for call in some for item in coordinator.called(call)]
            else:
                made = coordinator.release(params, saved=event.kind == "leave" and event.saves)
            if made:
                overlay.setdefault(event.number, []).extend(Laid(event.at, part, nbytes) for part, nbytes in made)
        return replace(recording, overlay=overlay, pools=(tuple(coordinator.pool.moves), tuple(reducer.pool.moves)))

    def calls(self, event: Event, params: tuple[Param, ...], returning: set[tuple[str, int]]) -> list[Call]:
        """The calls of modules that begin here: of the one that is noted, and of those that have no block of their own.

        These are activations and what peft puts around a layer: a layer around the base layer, which runs and ends first, a
        dropout, and the adapter's own layers; going back, in reverse, without a base layer whose input asks for no gradient.
        """
        if event.name == ROOT:
            return [Call(params)] + [Call(SILENT)] * self.adapted
        own = [param for param in params if param.role == "adapter"]
        if not own:
            return [Call(params), *[Call(SILENT)] * (event.name in self.acting)]
        base = Call(tuple(param for param in params if param.role != "adapter"), ends=event.kind == "enter")
        if event.kind == "enter":
            return [Call(SILENT), base, Call(SILENT), *(Call((param,)) for param in own)]
        there = [base] if (event.name, event.layer) in returning else []
        return [Call(SILENT), *(Call((param,)) for param in reversed(own)), Call(SILENT), *there]

    def reduced(self, event: Event, reducer: Reducer, stacks: tuple[str, ...]) -> list[tuple[Part, int]]:
        """What a gradient makes the bucket do."""
        tensor = self.roster.named.get(event.name)
        param = self.roster.param(tensor, event.layer, stacks) if tensor else None
        return reducer.gradient(param.elements) if param else []


class Call(NamedTuple):
    """A module that is called: its own parameters, and whether it ends before anything else begins."""

    params: tuple[Param, ...]
    ends: bool = False


def activated(block: Block, path: str = "") -> Iterator[str]:
    """The modules that call another one for their activation, which has no parameters."""
    path = f"{path}.{block.name}" if path and block.name else path or block.name
    if isinstance(block, Mlp):
        yield normal(path)
    for _, part in block.groups():
        yield from activated(part, f"{path}.#" if isinstance(block, Stack) else path)


class Pool:
    """What is made and let go of on a stream of its own, for the allocator's replay."""

    def __init__(self) -> None:
        self.moves: list[int] = []
        self.alive: dict[object, int] = {}
        self.made = 0

    def birth(self, key: object, nbytes: int) -> None:
        """A block."""
        self.alive[key] = self.made
        self.made += 1
        self.moves.append(nbytes)

    def death(self, key: object) -> None:
        """It is given back, if it was there."""
        number = self.alive.pop(key, None)
        if number is not None:
            self.moves.append(~number)


class Handle:
    """One gather under way: whose parameters wait for it, and the `buffer` (bytes) that they are copied from, if they are."""

    __slots__ = ("buffer", "copies", "done", "params", "waiting")

    def __init__(self, params: list[Param], buffer: int) -> None:
        self.params, self.buffer, self.copies = params, buffer, buffer > 0
        self.done, self.waiting = False, len(params)


class Coordinator:
    """PartitionedParameterCoordinator with a complete trace, from the second step on."""

    def __init__(self, zero: ZeroThree, calls: list[Call]) -> None:
        self.zero, self.settings = zero, zero.settings
        self.least, _ = zero.persistence
        self.step = self.available = self.live = 0
        self.there: set[tuple[str, int]] = set()
        self.flying: dict[tuple[str, int], Handle] = {}
        self.fetched_for: dict[tuple[str, int], int] = {}
        self.queue = deque((param, number) for number, call in enumerate(calls) for param in call.params)
        self.before = [0]  # elements of all modules before each use
        self.later: dict[tuple[str, int], deque[int]] = {}  # uses of a parameter that are still to come
        for number, call in enumerate(calls):
            self.before.append(self.before[-1] + sum(param.elements for param in call.params))
            for param in call.params:
                self.later.setdefault(param.key, deque()).append(number)
        self.made: list[tuple[Part, int]] = []
        self.pool = Pool()
        self.seconded: dict[tuple[str, int], int] = {}  # bytes of the second shards that there are
        self.sliced: set[tuple[str, int]] = set()  # let go of, but for the slices that autograd has saved

    def nbytes(self, param: Param) -> int:
        """Bytes of a gathered parameter."""
        return rounded(param.elements * self.zero.item)

    def lay(self, nbytes: int) -> None:
        """Note bytes that come or go."""
        if nbytes:
            self.live += nbytes
            self.made.append(("buffers", nbytes))

    def passing(self, nbytes: int) -> None:
        """Note bytes that come and go at once: shards on their way from the host."""
        self.made += [("temporary", nbytes), ("temporary", -nbytes)]

    def called(self, call: Call) -> list[tuple[Part, int]]:
        """A module's hooks: the one before it, and the one behind it where it ends at once."""
        return self.fetch(call.params) + (self.release(call.params) if call.ends else [])

    def fetch(self, params: tuple[Param, ...]) -> list[tuple[Part, int]]:
        """Gather what the module needs and is not there, wait for it, and set out for what comes next."""
        self.made = []
        self.gather([param for param in params if self.absent(param)])
        for param in params:
            if param.key in self.flying:
                self.wait(param)
        if self.queue:
            self.prefetch(params)
        self.step += 1
        return self.made

    def absent(self, param: Param) -> bool:
        """Whether a parameter is not gathered, nor on its way."""
        return param.elements > self.least and param.key not in self.there and param.key not in self.flying

    def gather(self, params: list[Param]) -> None:
        """Start a gather of those that have a second shard within the node, and one of the others."""
        if self.seconded:
            self.start([param for param in params if param.key in self.seconded], self.settings.zero_hpz_partition_size)
            params = [param for param in params if param.key not in self.seconded]
        self.start(params, self.zero.ways)

    def start(self, params: list[Param], ways: int) -> None:
        """Start one gather: of a single parameter into what will hold it, of several into a buffer that is copied from."""
        if not params:
            return
        self.available += sum(param.elements for param in params)
        alone = len(params) == 1 or self.settings.stage3_allgather_sequential
        copies = self.quantizes or not alone
        handle = Handle(params, self.sent(params, ways) if copies else 0)
        if copies:
            self.pool.birth(handle, handle.buffer)
            self.lay(handle.buffer)
        else:
            self.arrive(params)
        if self.settings.offload_param.device != "none":
            self.passing(rounded(self.zero.item * sum(-(-param.elements // self.zero.ways) for param in params)))
        for param in params:
            self.flying[param.key] = handle

    @property
    def quantizes(self) -> bool:
        """Whether weights are sent in int8 (ZeRO++'s qwZ)."""
        return self.settings.zero_quantized_weights

    def sent(self, params: list[Param], ways: int) -> int:
        """Bytes of the buffer that a gather of several parameters is received in: every rank's shards in a row."""
        whole = sum(-(-param.elements // ways) for param in params) * ways
        if not self.quantizes:
            return rounded(whole * self.zero.item)
        return rounded(whole) + rounded(4 * -(-whole // SCALED))

    def wait(self, param: Param) -> None:
        """What was gathered with the parameter is copied to its place; the buffer goes when none of them waits any more."""
        handle = self.flying.pop(param.key)
        if not handle.done:
            if handle.copies:
                self.arrive(handle.params)
            self.there.update(other.key for other in handle.params)
            handle.done = True
        handle.waiting -= 1
        if not handle.waiting:
            self.pool.death(handle)
            self.lay(-handle.buffer)

    def arrive(self, params: list[Param]) -> None:
        """Memory for whole parameters."""
        for param in params:
            self.pool.birth(param.key, self.nbytes(param))
        self.lay(sum(self.nbytes(param) for param in params))

    def prefetch(self, params: tuple[Param, ...]) -> None:
        """Take the module's own parameters off the queue, then gather from it up to the size of the bucket."""
        missed = {p.key for p in params if self.fetched_for.get(p.key, -1) < self.step}
        dropped: set[tuple[str, int]] = set()
        while self.queue and len(dropped) < len(missed):
            param, number = self.queue.popleft()
            self.fetched_for[param.key] = number
            dropped.add(param.key)
        room = min(self.settings.stage3_max_live_parameters - self.available, self.settings.stage3_prefetch_bucket_size)
        chosen: dict[tuple[str, int], Param] = {}
        elements = 0
        while self.queue and elements < room:
            param, number = self.queue.popleft()
            self.fetched_for[param.key] = max(self.fetched_for.get(param.key, -1), number)
            if self.absent(param) and param.key not in chosen:
                chosen[param.key] = param
                elements += param.elements
        self.gather(list(chosen.values()))

    def release(self, params: tuple[Param, ...], *, saved: bool = False) -> list[tuple[Part, int]]:
        """Let go of what is not used again soon enough.

        Experts are slices of a stacked parameter: where autograd has `saved` them, their memory stays to the backward pass.
        """
        self.made = []
        for param in params:
            if not saved and param.key in self.sliced:
                self.sliced.discard(param.key)
                self.lay(-self.nbytes(param))
            if param.key in self.there and param.key not in self.flying and not self.soon(param):
                self.drop(param)
                if saved and param.role == "expert":
                    self.sliced.add(param.key)
                    self.lay(self.nbytes(param))
        return self.made

    def soon(self, param: Param) -> bool:
        """Whether a parameter is used again within max_reuse_distance elements, or a later use was taken for gathered."""
        if self.fetched_for.get(param.key, -1) > self.step:
            return True
        uses = self.later[param.key]
        while uses and uses[0] < self.step:
            uses.popleft()
        return bool(uses) and self.before[uses[0]] - self.before[self.step] < self.settings.stage3_max_reuse_distance

    def drop(self, param: Param) -> None:
        """The parameter is a shard again."""
        self.there.discard(param.key)
        self.available -= param.elements
        if param.trainable and param.key not in self.seconded and self.zero.second(param.elements):
            self.seconded[param.key] = rounded(self.zero.second(param.elements) * self.zero.item)
            self.lay(self.seconded[param.key])
        self.pool.death(param.key)
        self.lay(-self.nbytes(param))

    def finish(self) -> list[tuple[Part, int]]:
        """The step is over: whatever is still gathered goes (release_backward_leftovers, partition_all_parameters).

        Second shards within a node stay until the optimizer has stepped.
        """
        for key in list(self.pool.alive):
            self.pool.death(key)
        gone = self.live - sum(self.seconded.values())
        return [("buffers", -gone)] if gone else []


DOUBLE, NORMED = 8, 250_000_000  # bytes of an element of a norm; elements of one (_constant_buffered_norm2)
SCALED = 4096  # elements to one fp32 scale, about (CUDAQuantizer.target_group_size)


class Reducer:
    """The bucket of gradients, which is there all along: sent when full, each message a copy of what it holds."""

    def __init__(self, zero: ZeroThree) -> None:
        self.zero, self.size = zero, zero.settings.reduce_bucket_size
        self.contiguous = zero.settings.contiguous_gradients
        self.bucket: list[int] = []
        self.own = 0  # bytes of gradients in it that have storage of their own
        self.pool = Pool()

    def gradient(self, elements: int) -> list[tuple[Part, int]]:
        """A gradient goes into the bucket, which is sent first where it would be too full."""
        made: list[tuple[Part, int]] = []
        if self.bucket and sum(self.bucket) + elements > self.size:
            made += self.send()
        if not self.contiguous or sum(self.bucket) + elements > self.size:
            own = rounded(elements * self.zero.item)
            self.own += own
            made.append(("gradients", own))
        self.bucket.append(elements)
        return made

    def send(self) -> list[tuple[Part, int]]:
        """Reduce what the bucket holds to shards; a single gradient that divides evenly needs no copy."""
        if not self.bucket:
            return []
        copies = self.copies() + self.leaving()
        if copies:
            self.pool.birth("message", copies)
            self.pool.death("message")
        made: list[tuple[Part, int]] = [("temporary", copies), ("temporary", -copies)] if copies else []
        if self.own:
            made.append(("gradients", -self.own))
        self.bucket, self.own = [], 0
        return made

    def leaving(self) -> int:
        """Bytes of a shard of gradients on its way to the host: fetched to be added to, and its norm in fp64."""
        if self.zero.settings.offload_optimizer.device == "none":
            return 0
        largest = max(-(-elements // self.zero.ways) for elements in self.bucket)
        return rounded(self.zero.accumulated_item * largest) + rounded(DOUBLE * min(largest, NORMED))

    def copies(self) -> int:
        """Bytes of the copies of a message: of what is not in the bucket, in the dtype it is sent in; of all, flat."""
        zero, ways = self.zero, self.zero.ways
        wide = BITS[zero.sent_dtype] // 8
        cast = rounded(self.own * wide // zero.item) if self.own and zero.sent_dtype != zero.dtype else 0
        parts = sum(-(-elements // ways) for elements in self.bucket)
        added = rounded(zero.accumulated_item * parts) if zero.sent_dtype != zero.gradient_dtype else 0
        if self.contiguous and sum(self.bucket) <= self.size and not zero.settings.reduce_scatter:
            return cast + added
        if len(self.bucket) == 1 and not self.bucket[0] % ways:
            return cast + added
        return cast + added + rounded(wide * parts * ways)
