"""Whole parameters as ZeRO-3 gathers them, and the gathers under way.

Source: DeepSpeed 0.19.8, runtime/zero/partition_parameters.py (ds_status, ds_active_sub_modules; AllGatherHandle,
AllGatherCoalescedHandle).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape.values import rounded

if TYPE_CHECKING:
    from memcalc.sharding.marks import Param

ABSENT, FLYING, THERE = range(3)
UNBIASED = ("conv", "conv1d")  # roles of what is multiplied by a kernel of torch's own, which saves no bias


class Handle:
    """One gather under way: whose parameters wait for it, and the `buffer` (bytes) that they are copied from, if they are."""

    __slots__ = ("buffer", "done", "params", "waiting")

    def __init__(self, params: list[Whole], buffer: int) -> None:
        self.params, self.buffer = params, buffer
        self.done, self.waiting = False, len(params)

    @property
    def state(self) -> tuple[int, int, bool]:
        """What tells it from others."""
        return self.buffer, self.waiting, self.done


class Whole:
    """A parameter that is gathered and let go of: `nbytes` whole, `part` elements in a shard.

    `fetched_for` is the last call it was gathered for, `uses` are the calls to come. `second` are the bytes of its second
    shard, once there is one; `sliced` where slices of it that autograd has saved keep its memory. `owner` is the module whose
    backward pass it stays for, because that has it recomputed; `within` is the layer whose leaf module it is in, if it is.
    `looked` where a module is under way that looks at it and does not own it; `saved` if autograd saves it.
    """

    __slots__ = ("elements", "fetched_for", "handle", "looked", "nbytes", "owner", "part", "saved", "second", "sliced",
                 "stacked", "state", "trainable", "uses", "within")  # fmt: skip

    def __init__(self, param: Param, ways: int, item: int) -> None:
        self.elements, self.trainable, self.stacked = param.elements, param.trainable, param.role == "expert"
        self.nbytes, self.part = rounded(param.elements * item), -(-param.elements // ways)
        self.state, self.fetched_for, self.second, self.sliced = ABSENT, -1, 0, False
        self.handle: Handle | None = None
        self.owner, self.looked = "", False
        self.saved = param.role != "embedding" and not (param.role in UNBIASED and param.key[0].endswith(".bias"))
        self.within: int | None = None
        self.uses: list[int] = []

    @property
    def kept(self) -> bool:
        """Whether another module than its own needs it."""
        return self.looked or bool(self.owner)
