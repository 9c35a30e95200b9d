"""Saved activations in host memory: what torchtune's and TRL's OffloadActivations do through saved-tensor hooks."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from memcalc.tape.values import ITEM, Value, rounded

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Shape

LEAST = 1024  # bytes: smaller tensors stay (min_offload_size)
STASH = 5  # tensors on their way to the host that are still held (max_fwd_stash_size)


class Away:
    """Stands in a saved list for a value that is in host memory; it gets a storage anew when it is read."""

    __slots__ = ("dtype", "shape", "strides", "tape")

    def __init__(self, value: Value) -> None:
        self.tape, self.shape, self.dtype, self.strides = value.tape, value.shape, value.dtype, value.strides

    def unpack(self) -> Value:
        """The value, back on the device."""
        return self.tape.new(self.shape, self.dtype, self.strides)


class Offloading:
    """The hook: parameters and small tensors stay; of the others the last few are held while they are copied.

    (torchtune 0.6.1, training/_activation_offloading.py, OffloadActivations.pack_tensor.)
    """

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.stash: deque[Value] = deque(maxlen=STASH)

    def __call__(self, value: Value) -> Value | Away:
        """What is saved in the place of a value."""
        nbytes = size(value.shape, value.dtype)
        if value.storage.id < 0 or nbytes < LEAST:
            return value
        self.tape.pinned += self.tape.like * rounded(nbytes)
        if not self.tape.setting.checkpoint:  # inputs of layers that stand for many would be held as often
            self.stash.append(value)
        return Away(value)


def size(shape: Shape, dtype: str) -> int:
    """Bytes of a tensor."""
    nbytes = ITEM[dtype]
    for extent in shape:
        nbytes *= extent
    return nbytes
