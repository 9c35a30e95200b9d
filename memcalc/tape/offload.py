"""Saved activations in host memory: what torchtune's and TRL's OffloadActivations do through saved-tensor hooks.

TRL's (trl 1.16, models/activation_offloading.py; Axolotl's is a copy) knows what it has just sent away by its storage: what
is saved again while that is on its way stays, and so does its storage, until the backward pass.
"""

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


class Returned(Away):
    """Stands in a saved list for a value that TRL's hook has sent away, under its number."""

    __slots__ = ("at", "hook")

    def __init__(self, hook: Tracking, at: int, value: Value) -> None:
        super().__init__(value)
        self.hook, self.at = hook, at

    def unpack(self) -> Value:
        """The value: as it was, where it has not left yet; else back on the device until after the next node's turn."""
        hook, tape = self.hook, self.tape
        hook.turn()
        value = hook.leaving.get(self.at)
        if value is None:
            value = tape.new(self.shape, self.dtype, self.strides)
            if (
                tape.saving is not None
            ):  # a layer runs again, whose first node lets go of what the layer before has read
                hook.back.clear()
            hook.back[self.at] = value
        hook.events = len(tape.events)
        return value


class Tracking:
    """TRL's hook: of what it sends away the last few are held, by number; of what comes back, what the last node has read.

    `known` are the storages of what is leaving, and of what has been saved again meanwhile.
    """

    def __init__(self, tape: Tape) -> None:
        self.tape, self.count, self.events = tape, 0, -1
        self.leaving: dict[int, Value] = {}
        self.known: dict[tuple[int, str], int] = {}
        self.back: dict[int, Value] = {}
        self.read: list[int] = []
        self.alike: tuple[Returned, int] | None = None
        self.asked: list[Value] = []
        self.before: list[Value] = []

    def __call__(self, value: Value) -> Value | Returned:
        """What is saved in the place of a value."""
        follows = self.alike is not None and self.tape.like == 1
        if self.alike and follows:
            self._stand_in(*self.alike)
        self.count += 1
        nbytes, key = size(value.shape, value.dtype), (value.storage.id, value.dtype)
        if key in self.known:
            self.known[key] = self.count
            return value
        if value.storage.id < 0 or nbytes < LEAST:
            return value
        whole = rounded(nbytes) == self.tape.sizes[value.storage.id]
        if value.strides is not None or not whole:
            value = self.tape.new(value.shape, value.dtype)
        elif follows:  # made by a layer that stands for many, in each of which it would be held
            value, whole = self.tape.new(value.shape, value.dtype), False
        self._let_go(self.count - STASH)
        self.tape.pinned += self.tape.like * rounded(nbytes)
        inputs = self.tape.setting.checkpoint and self.tape.setting.every == 1  # of layers, which alone are sent away
        if not inputs or self.tape.like == 1:
            self.leaving[self.count] = value
            if whole:  # another part of the same storage has another address
                self.known[key] = self.count
        else:
            self.alike = Returned(self, self.count, value), self.tape.like
        return Returned(self, self.count, value)

    def _stand_in(self, one: Returned, times: int) -> None:
        """What the last of like layers have sent away, of which one is recorded: tensors like its own, until they have left."""
        self.alike = None
        self.count += times - 1
        for at in range(max(self.count - STASH, self.count - times) + 1, self.count + 1):
            self.leaving[at] = self.tape.new(one.shape, one.dtype, one.strides)

    def asks(self, value: Value) -> None:
        """What asks for a gradient by itself, a leaf of the graph whose last node the hook holds on to until the next step's first.

        So its own storage and its gradient outlive the step; the step before has left as much.
        """
        self.before += (self.tape.new(value.shape, value.dtype), self.tape.new(value.shape, value.dtype))
        self.asked.append(value)

    def _let_go(self, oldest: int) -> None:
        """What has left by the time that a further one leaves."""
        for at in [at for at in self.leaving if at <= oldest]:
            del self.leaving[at]
            self.known = {key: last for key, last in self.known.items() if last != at}

    def turn(self) -> None:
        """A node asks for what it has saved: if it is another than before, what the one before that has read can go."""
        if self.events == len(self.tape.events):
            return
        self.before.clear()
        if self.events >= 0:
            self.leaving.clear()
        for at in self.read:
            self.back.pop(at, None)
        self.read = list(self.back)


def size(shape: Shape, dtype: str) -> int:
    """Bytes of a tensor."""
    nbytes = ITEM[dtype]
    for extent in shape:
        nbytes *= extent
    return nbytes
