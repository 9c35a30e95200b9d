"""Which parameters are gathered when under ZeRO-3, and what that allocates.

Source: DeepSpeed 0.19.8, runtime/zero/partitioned_param_coordinator.py (fetch_sub_module, release_sub_module,
__params_to_release, with a complete trace) and partition_parameters.py (what a gather allocates: AllGatherHandle,
AllGatherCoalescedHandle).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING

from memcalc.sharding.wholes import ABSENT, FLYING, THERE, Handle, Whole
from memcalc.tape.laid import Laid
from memcalc.tape.values import rounded
from memcalc.timeline.overlay import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from memcalc.sharding.marks import Param
    from memcalc.sharding.scripts import Call, Script
    from memcalc.sharding.zero3 import ZeroThree

NONE: list[Whole] = []
LINEARS = ("linear", "head")  # roles of weights that torch's own linear layers save as they are gathered
SCALED = 4096  # elements to one fp32 scale, about (CUDAQuantizer.target_group_size)


class Coordinator:
    """PartitionedParameterCoordinator with a complete trace, from the second step on: the slices of a step are planned first."""

    def __init__(self, zero: ZeroThree) -> None:
        self.zero, self.settings, self.item = zero, zero.settings, zero.item
        self.quantizes = self.settings.zero_quantized_weights  # ZeRO++'s qwZ: weights are sent in int8
        self.most, self.ahead = self.settings.stage3_max_live_parameters, self.settings.stage3_prefetch_bucket_size
        self.reuse = self.settings.stage3_max_reuse_distance
        self.nodes, self.ways = self.settings.zero_hpz_partition_size > 1, zero.ways
        self.fetches = self.settings.offload_param.device != "none"
        self.step = self.available = self.live = self.seconds = self.slices = 0
        self.known: dict[tuple[str, int], Whole] = {}
        self.needed: list[list[Whole]] = []  # by each call
        self.before = [0]  # elements of all modules before each call
        self.below = [0]  # the same with those of all that is in them, where there are leaf modules
        self.holding: dict[int, list[int]] = {}  # calls of modules around leaf modules, by their layer (-1: around all)
        self.at, self.made, self.pool = 0, list[Laid](), Pool()
        self.queue: deque[tuple[Whole, int]] = deque()
        self.calls: dict[int, tuple[list[tuple[int, tuple[int, ...]]], list[int]]] = {}  # of each script, by identity
        self.starts: dict[int, int] = {}  # the first call of each slice
        self.owned: dict[str, list[Whole]] = {}  # what stays for a module that has it recomputed
        self.kept: list[int] = []  # the uses that parameters were not let go of for

    def plan(self, slice_: int, script: Script, layer: int) -> list[Whole]:
        """The parameters of the slice of that number; its calls come into the trace."""
        self.starts[slice_] = number = len(self.needed)
        known, numbered = self.known, enumerate(script.keys(layer))
        own = [known.get(key) or self._new(key, script.params[place]) for place, key in numbered]
        needs, passed = self._calls(script)
        self.needed += [NONE] * len(passed)
        for place, needed in needs:
            self.needed[number + place] = params = [own[one] for one in needed]
            for param in params:
                param.uses.append(number + place)
                self.queue.append((param, number + place))
        total = self.before[-1]
        self.before += [total + elements for elements in passed]
        if script.leaves:
            self._hold(script, number, layer, own)
        return own

    def _hold(self, script: Script, number: int, layer: int, own: Sequence[Whole]) -> None:
        """Note which calls, from that number on, are of modules around leaf modules."""
        for at, call in enumerate([call for act in script.acts for call in act.calls], number):
            self.below.append(self.below[-1] + call.below)
            if call.holds:
                self.holding.setdefault(-1 if call.holds == "model" else layer, []).append(at)
            for place in call.needed if call.holds == "leaf" else ():
                own[place].within = layer

    def _calls(self, script: Script) -> tuple[list[tuple[int, tuple[int, ...]]], list[int]]:
        """Which of a script's calls need what, and the elements of all modules up to each call."""
        if id(script) not in self.calls:
            calls = [call for act in script.acts for call in act.calls]
            needs = [(place, call.needed) for place, call in enumerate(calls) if call.needed]
            self.calls[id(script)] = needs, list(accumulate([call.elements for call in calls]))
        return self.calls[id(script)]

    def _new(self, key: tuple[str, int], param: Param) -> Whole:
        whole = self.known[key] = Whole(param, self.ways, self.item)
        if not self.settings.memory_efficient_linear and param.role in LINEARS:
            whole.stacked = True
        if self.nodes and self.zero.accumulating:  # an earlier micro batch has left them
            whole.second = rounded(self.zero.second(param.elements) * self.item)
        return whole

    def lay(self, nbytes: int) -> None:
        """Note bytes that come or go."""
        self.live += nbytes
        self.made.append(Laid(self.at, "buffers", nbytes))

    def called(self, calls: Iterable[Call], own: Sequence[Whole], owner: str) -> None:
        """Hooks of modules of a slice with those parameters: each one's before it, one behind it where it ends at once."""
        for call in calls:
            if owner:
                self.own([own[place] for place in call.needed], owner)
            self.fetch()
            for place in call.seen:
                own[place].looked = True
            if call.ends:
                self.release([own[place] for place in call.needed])

    def fetch(self) -> None:
        """Gather what the next call needs and is not there, wait for it, and set out for what comes after it."""
        needed = self.needed[self.step]
        if needed:
            absent = [param for param in needed if param.state == ABSENT]
            if absent:
                self.gather(absent)
            for param in needed:
                if param.handle is not None:
                    self.wait(param, param.handle)
        if self.queue:
            for param in needed:
                if param.fetched_for < self.step:
                    self.unqueue(needed)
                    break
            if self.available < self.most:
                self.prefetch(min(self.most - self.available, self.ahead))
        self.step += 1

    def gather(self, params: list[Whole]) -> None:
        """Start a gather of those that have a second shard within the node, and one of the others."""
        if self.nodes:
            near = [param for param in params if param.second]
            if near:
                self.start(near, self.settings.zero_hpz_partition_size)
            params = [param for param in params if not param.second]
        if params:
            self.start(params, self.ways)

    def start(self, params: list[Whole], ways: int) -> None:
        """Start one gather: of a single parameter into what will hold it, of several into a buffer that is copied from."""
        copies = self.quantizes or not (len(params) == 1 or self.settings.stage3_allgather_sequential)
        handle = Handle(params, self.sent(params, ways) if copies else 0)
        if copies:
            self.pool.birth(handle, handle.buffer)
            self.lay(handle.buffer)
        else:
            self.arrive(params)
        if self.fetches:  # shards on their way from the host
            nbytes = rounded(self.item * sum(param.part for param in params))
            self.made += [Laid(self.at, "temporary", nbytes), Laid(self.at, "temporary", -nbytes)]
        for param in params:
            self.available += param.elements
            param.handle, param.state = handle, FLYING

    def sent(self, params: list[Whole], ways: int) -> int:
        """Bytes of the buffer that a gather of several parameters is received in: every rank's shards in a row."""
        whole = sum([-(-param.elements // ways) for param in params]) * ways
        if not self.quantizes:
            return rounded(whole * self.item)
        return rounded(whole) + rounded(4 * -(-whole // SCALED))

    def wait(self, param: Whole, handle: Handle) -> None:
        """What was gathered with the parameter is copied to its place; the buffer goes when none of them waits any more."""
        param.handle = None
        if not handle.done:
            handle.done = True
            if handle.buffer:
                self.arrive(handle.params)
            for other in handle.params:
                other.state = THERE
        handle.waiting -= 1
        if not handle.waiting and handle.buffer:
            self.pool.death(handle)
            self.lay(-handle.buffer)

    def arrive(self, params: list[Whole]) -> None:
        """Memory for whole parameters."""
        for param in params:
            self.pool.birth(param, param.nbytes)
        self.lay(sum([param.nbytes for param in params]))

    def own(self, params: Iterable[Whole], owner: str) -> None:
        """Frozen parameters that are recomputed stay for the module that asked for it (update_recompute_parameters)."""
        for param in params:
            if not param.trainable and not param.owner:
                param.owner = owner
                self.owned.setdefault(owner, []).append(param)

    def disown(self, owner: str) -> None:
        """The module ends: what was recomputed for it goes, however soon it is used again."""
        for param in self.owned.pop(owner, ()):
            param.owner = ""
            if param.state == THERE and param.handle is None:
                self.drop(param)

    def unqueue(self, needed: list[Whole]) -> None:
        """Take the module's own parameters, of which some were not gathered for this call, off the queue."""
        queue, step = self.queue, self.step
        missed = {param for param in needed if param.fetched_for < step}
        dropped: set[Whole] = set()
        while queue and len(dropped) < len(missed):
            param, number = queue.popleft()
            param.fetched_for = number
            dropped.add(param)

    def prefetch(self, room: int) -> None:
        """Gather from the queue up to the size of the bucket."""
        queue = self.queue
        chosen: dict[Whole, None] = {}
        while queue and room > 0:
            param, number = queue.popleft()
            param.fetched_for = number
            if param.state == ABSENT and param not in chosen:
                chosen[param] = None
                room -= param.elements
        if chosen:
            self.gather(list(chosen))

    def release(self, params: Iterable[Whole], *, saved: bool = False, packed: bool = False) -> None:
        """Let go of what is not used soon; memory of `saved` experts, and of what checkpoints keep (`packed`), stays till then."""
        for param in params:
            if param.sliced and not saved:
                param.sliced = False
                self.slices -= param.nbytes
                self.lay(-param.nbytes)
            if param.state == THERE and param.handle is None and not param.kept and not self.soon(param):
                self.drop(param)
                if (saved and param.stacked) or (packed and param.saved):
                    param.sliced = True
                    self.slices += param.nbytes
                    self.lay(param.nbytes)

    def soon(self, param: Whole) -> bool:
        """Whether a parameter is used again within max_reuse_distance elements, or a later use was taken for gathered."""
        if param.fetched_for > self.step:
            return True
        if param.within is not None:
            return self.around(param.within)
        uses = param.uses
        while uses and uses[0] < self.step:
            del uses[0]
        if not uses or self.before[uses[0]] - self.before[self.step] >= self.reuse:
            return False
        self.kept.append(uses[0])
        return True

    def around(self, layer: int) -> bool:
        """Whether a module around that layer's leaf comes soon: a leaf's parameters are looked for in all that is in modules."""
        both = self.holding[layer], self.holding[-1]
        calls = [calls[at] for calls in both if (at := bisect_left(calls, self.step)) < len(calls)]
        if not calls or self.below[min(calls)] - self.below[self.step] >= self.reuse:
            return False
        self.kept.append(min(calls))
        return True

    def drop(self, param: Whole) -> None:
        """The parameter is a shard again; where nodes have shards of their own, it gets one the first time."""
        param.state = ABSENT
        self.available -= param.elements
        if self.nodes and param.trainable and not param.second:
            param.second = rounded(self.zero.second(param.elements) * self.item)
            self.seconds += param.second
            self.lay(param.second)
        self.pool.death(param)
        self.lay(-param.nbytes)

    def state(self, names: Container[str], place: Callable[[int], int]) -> tuple[object, list[int]]:
        """What it decides by, with the layers of parameters of these `names` as `place` sees them; births of what is there.

        Of what is let go of it decides by nothing but the calls to come; slices of it, and second shards, are there from its
        own layer forward to its own layer backward.
        """
        step = self.step
        handles: dict[Handle, int] = {}
        there: list[Whole | Handle] = []
        found: list[object] = []
        for (name, layer), param in self.known.items():
            if param.state != ABSENT or param.fetched_for >= step:
                under_way = param.handle and (handles.setdefault(param.handle, len(handles)), *param.handle.state)
                found.append((name, place(layer) if layer >= 0 and name in names else layer, param.state,
                              max(param.fetched_for - step, -1), param.sliced, param.second, under_way))  # fmt: skip
                there.append(param)
        number = self.queue[0][1] if self.queue else -1
        waiting = sum(1 for _ in takewhile(lambda entry: entry[1] == number, self.queue))
        births = [born for one in (*there, *handles) if (born := self.pool.alive.get(one)) is not None]
        return (found, number - step, waiting, self.available, self.live - self.seconds - self.slices), births

    def finish(self) -> None:
        """The step is over: whatever is still gathered goes (release_backward_leftovers, partition_all_parameters).

        Second shards within a node stay until the optimizer has stepped.
        """
        self.pool.clear()
        if self.live != self.seconds:
            self.lay(self.seconds - self.live)
