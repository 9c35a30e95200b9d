"""ZeRO-3's reduction of gradients to shards: one bucket that is there all along, copies when it is sent.

Source: DeepSpeed 0.19.8, runtime/zero/stage3.py (reduce_independent_p_g_buckets_and_remove_grads, __avg_scatter_grads,
partition_grads) and runtime/comm/coalesced_collectives.py (reduce_scatter_coalesced).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from memcalc.dtypes import BITS
from memcalc.tape.laid import Laid, Stream
from memcalc.tape.values import rounded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcalc.sharding.scripts import Act, Script
    from memcalc.sharding.zero3 import ZeroThree
    from memcalc.tape.laid import Part

NODE = 8  # GPUs of a node, among which quantised gradients are exchanged first
DOUBLE, NORMED = 8, 250_000_000  # bytes of an element of a norm; elements of one (_constant_buffered_norm2)


class Coming(NamedTuple):
    """What a slice brings: the `elements` of each gradient (0 where the step `ends`), and how many in `total`.

    `nothing` is an empty list for each: what is laid while the bucket has room for all of them.
    """

    elements: list[int]
    total: int
    nothing: list[list[Laid]]
    ends: bool


class Reducer:
    """The bucket of gradients, which is there all along: sent when full, each message a copy of what it holds.

    `events` and `sizes` are the log of the tape that yields the gradients.
    """

    def __init__(self, zero: ZeroThree, events: Sequence[int] = (), sizes: Sequence[int] = ()) -> None:
        self.zero, self.size, self.events, self.sizes = zero, zero.settings.reduce_bucket_size, events, sizes
        self.contiguous = zero.settings.contiguous_gradients
        self.ways, self.item = zero.ways, zero.item
        self.bucket: list[int] = []
        self.filled = 0  # elements in it
        self.own = 0  # bytes of gradients in it that have storage of their own
        self.messages: dict[int, None] = {}  # sizes of copies
        self._coming: dict[int, Coming] = {}  # by script
        self._known: dict[tuple[int, tuple[int, ...]], tuple[list[list[Laid]], tuple[list[int], int, int]]] = {}

    @property
    def stream(self) -> Stream:
        """The copies, each of which goes before the next one comes: one of each size tells of all."""
        return Stream(tuple(move for number, size in enumerate(self.messages) for move in (size, ~number)))

    def follow(self, script: Script) -> list[list[Laid]]:
        """What comes and goes with each gradient of a slice, and with the end of the step; once for slices that find the same."""
        coming = self._coming.get(id(script)) or self._listed(script)
        if self.contiguous and not coming.ends and self.filled + coming.total <= self.size:
            self.bucket += coming.elements
            self.filled += coming.total
            return coming.nothing
        key = id(script), tuple(self.bucket)
        if key not in self._known:
            made = [self._laid(act) for act in script.acts if act.gradient or act.ends]
            self._known[key] = made, (self.bucket, self.filled, self.own)
        made, (bucket, self.filled, self.own) = self._known[key]
        self.bucket = list(bucket)
        return made

    def _listed(self, script: Script) -> Coming:
        """What comes with a script."""
        elements = [act.gradient for act in script.acts if act.gradient or act.ends]
        self._coming[id(script)] = coming = Coming(elements, sum(elements), [[] for _ in elements], 0 in elements)
        return coming

    def _laid(self, act: Act) -> list[Laid]:
        if not act.gradient:
            return [Laid(act.at, *item) for item in self.send()]
        return [self._own(Laid(act.at, *item)) for item in self.gradient(act.gradient)]

    def _own(self, laid: Laid) -> Laid:
        """A gradient that keeps its storage takes over from the tape, which lets go of it next."""
        event = self.events[laid.at] if laid.at < len(self.events) else 0
        again = laid.part == "gradients" and event < 0 and self.sizes[~event] == laid.nbytes
        return laid._replace(at=laid.at + 1) if again else laid

    def gradient(self, elements: int) -> list[tuple[Part, int]]:
        """A gradient goes into the bucket, which is sent first where it would be too full."""
        made: list[tuple[Part, int]] = []
        if self.bucket and self.filled + elements > self.size:
            made += self.send()
        self.filled += elements
        if not self.contiguous or self.filled > self.size:
            own = rounded(elements * self.item)
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
            self.messages[copies] = None
        made: list[tuple[Part, int]] = [("temporary", copies), ("temporary", -copies)] if copies else []
        if self.own:
            made.append(("gradients", -self.own))
        self.bucket, self.filled, self.own = [], 0, 0
        return made

    def leaving(self) -> int:
        """Bytes of a shard of gradients on its way to the host: fetched to be added to, and its norm in fp64."""
        if self.zero.settings.offload_optimizer.device == "none":
            return 0
        largest = max(-(-elements // self.ways) for elements in self.bucket)
        return rounded(self.zero.accumulated_item * largest) + rounded(DOUBLE * min(largest, NORMED))

    def copies(self) -> int:
        """Bytes of the copies of a message: of what is not in the bucket, in the dtype it is sent in; of all, flat."""
        zero, ways = self.zero, self.ways
        if zero.settings.zero_quantized_gradients:
            return self.quantized()
        wide = BITS[zero.sent_dtype] // 8
        cast = rounded(self.own * wide // zero.item) if self.own and zero.sent_dtype != zero.dtype else 0
        parts = sum([-(-elements // ways) for elements in self.bucket])
        added = rounded(zero.accumulated_item * parts) if zero.sent_dtype != zero.gradient_dtype else 0
        if self.contiguous and self.filled <= self.size and not zero.settings.reduce_scatter:
            return cast + added
        if len(self.bucket) == 1 and not self.bucket[0] % ways:
            return cast + added
        return cast + added + rounded(wide * parts * ways)

    def quantized(self) -> int:
        """Bytes at most of ZeRO++'s qgZ (all_to_all_quant_reduce), one gradient after the other.

        In int4 as it is sent within the node and as it comes, then so what is summed for other nodes; what is left in 16 bits.
        What a name stands for goes when it gets the next gradient's; one that does not divide evenly is sent as it is.
        """
        ways, node = self.ways, min(NODE, self.ways)
        held, shards, most = [0] * 5, 0, 0
        for elements in self.bucket:
            shard = rounded(self.item * -(-elements // ways))
            if elements % (2 * ways):
                most = max(most, sum(held) + shards + shard * ways)
            else:
                narrow, summed = rounded(elements // 2), rounded(elements // 2 // node)
                for name, nbytes in enumerate((narrow, narrow, summed, summed, rounded(2 * elements // node))):
                    most = max(most, sum(held) + nbytes + shards)
                    held[name] = nbytes
            shards += shard
        return most
