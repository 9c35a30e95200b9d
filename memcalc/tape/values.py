"""Values and the storages behind them: what a tensor is to the tape.

A storage lives exactly as long as something refers to it, and Python's own reference counting is what decides: a rule's
local variables stand for the library's local variables, a node's saved list for autograd's. When the last reference
goes, the storage says so in the tape's log. (CPython frees at once, as PyTorch does; nothing here makes a cycle.)
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from memcalc.tape.autograd import Leaf, Node
    from memcalc.tape.recorder import Tape

Shape: TypeAlias = "tuple[int, ...]"

GRAIN = 512  # bytes, of which the caching allocator hands out multiples (CUDACachingAllocator.h, kMinBlockSize)
SMALL = 2**20  # bytes up to which a block comes from the pool of small ones (kSmallSize)
SHAPES = 1024  # of which answers are kept: a step asks for the same few again and again
ITEM = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1, "int64": 8, "int32": 4, "int8": 1, "uint8": 1, "bool": 1}
FLOATS = frozenset({"fp64", "fp32", "bf16", "fp16", "fp8"})
RANKS = {"bool": 0, "uint8": 1, "int8": 1, "int32": 2, "int64": 3, "fp8": 4, "bf16": 5, "fp16": 5, "fp32": 6, "fp64": 7}


def rounded(nbytes: int) -> int:
    """Bytes that the allocator takes for a tensor of `nbytes`: a multiple of 512, and one at least."""
    return -(-nbytes // GRAIN) * GRAIN or GRAIN


@lru_cache(maxsize=SHAPES)
def nbytes(shape: Shape, dtype: str) -> int:
    """Bytes that the allocator takes for a tensor of that shape."""
    return rounded(prod(shape) * ITEM[dtype])


class Storage:
    """Bytes on the device, as the allocator counts them, from the birth that the log records to the death that it does too."""

    __slots__ = ("events", "id")

    def __init__(self, tape: Tape, nbytes: int) -> None:
        events, sizes = tape.events, tape.sizes
        self.events, self.id = events, (number := len(sizes))
        sizes.append(nbytes)
        tape.owners.append(tape.owner)
        events.append(number)

    def __del__(self) -> None:
        self.events.append(~self.id)


class Value:
    """A tensor: a shape and dtype over a storage, and the node of the autograd graph that made it.

    `strides` is None where the tensor is contiguous. `node` is None where no gradient is asked for; `slot` tells the
    outputs of one node apart. Views share their storage.
    """

    __slots__ = ("dtype", "node", "shape", "slot", "storage", "strides", "tape")

    def __init__(
        self,
        tape: Tape,
        storage: Storage,
        shape: Shape,
        dtype: str,
        strides: Shape | None = None,
        node: Node | Leaf | None = None,
        slot: int = 0,
    ) -> None:
        self.tape, self.storage = tape, storage
        self.shape, self.dtype, self.strides = shape, dtype, strides
        self.node, self.slot = node, slot

    @property
    def elements(self) -> int:
        """How many elements the shape holds."""
        return prod(self.shape)

    def detach(self) -> Value:
        """The same storage outside the graph."""
        return Value(self.tape, self.storage, self.shape, self.dtype, self.strides)


def promoted(a: str, b: str) -> str:
    """The dtype of an operation between tensors of two dtypes (torch.promote_types)."""
    if a == b:
        return a
    if RANKS[a] == RANKS[b]:
        return "fp32" if a in FLOATS else "int32"
    return a if RANKS[a] > RANKS[b] else b


@lru_cache(maxsize=SHAPES)
def broadcast(a: Shape, b: Shape) -> Shape:
    """The shape that two shapes broadcast to."""
    if a == b:
        return a
    if len(a) < len(b):
        a, b = b, a
    b = (1,) * (len(a) - len(b)) + b
    return tuple(y if x == 1 else x for x, y in zip(a, b, strict=True))


@lru_cache(maxsize=SHAPES)
def contiguous_strides(shape: Shape) -> Shape:
    """Row-major strides, in elements."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


@lru_cache(maxsize=SHAPES)
def normal(shape: Shape, strides: Shape) -> Shape | None:
    """The strides, or None where they are those of a contiguous tensor (axes of size 1 do not matter)."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1:
            if stride != step:
                return strides
            step *= size
    return None


@lru_cache(maxsize=SHAPES)
def permuted(shape: Shape, strides: Shape | None, axes: Shape) -> tuple[Shape, Shape | None]:
    """Shape and strides of a tensor with its axes in another order."""
    old = contiguous_strides(shape) if strides is None else strides
    made = tuple(shape[axis] for axis in axes)
    return made, normal(made, tuple(old[axis] for axis in axes))


@lru_cache(maxsize=SHAPES)
def inverted(axes: Shape) -> Shape:
    """The order that puts permuted axes back."""
    return tuple(axes.index(axis) for axis in range(len(axes)))


@lru_cache(maxsize=SHAPES)
def dense_like(shape: Shape, strides: Shape | None) -> Shape | None:
    """Strides of a new tensor whose axes lie in memory in the order of the given ones (TensorIterator's choice)."""
    if strides is None:
        return None
    made, step = [0] * len(shape), 1
    for axis in _fastest_first(shape, strides):
        made[axis] = step
        step *= shape[axis]
    return normal(shape, tuple(made))


@lru_cache(maxsize=SHAPES)
def stretched(shape: Shape, *inputs: tuple[Shape, Shape | None]) -> Shape | None:
    """The same of several tensors (shape, strides) that are stretched to `shape`: each repeats along what it lacks."""
    given = []
    for own, strides in inputs:
        lacking = len(shape) - len(own)
        steps = contiguous_strides(own) if strides is None else strides
        given.append((0,) * lacking + tuple(0 if size == 1 else step for size, step in zip(own, steps, strict=True)))
    made, step = [0] * len(shape), 1
    for axis in _fastest_first(shape, *given):
        made[axis] = step
        step *= shape[axis]
    return normal(shape, tuple(made))


def _fastest_first(shape: Shape, *inputs: Shape) -> list[int]:
    """The axes in the order of their strides; one that repeats stays where it is (TensorIteratorBase::reorder_dimensions).

    What one of the inputs leaves open the next decides.
    """
    order = list(range(len(shape)))[::-1]
    for place in range(1, len(order)):
        at = place
        for other in range(place - 1, -1, -1):
            turns = _turns(shape, inputs, order[other], order[at])
            if turns is False:
                break
            if turns:
                order[other], order[at], at = order[at], order[other], other
    return order


def _turns(shape: Shape, inputs: tuple[Shape, ...], one: int, two: int) -> bool | None:
    """Whether axis `two` is faster than `one`; None where nothing says so."""
    for strides in inputs:
        if 0 in (strides[one], strides[two]):
            continue
        if strides[one] != strides[two]:
            return strides[one] > strides[two]
        if shape[one] > shape[two]:
            return True
    return None


@lru_cache(maxsize=SHAPES)
def viewed(old: Shape, strides: Shape, new: Shape) -> Shape | None:
    """Strides that show `old` as `new` without a copy, or None where a copy is needed (at::detail::computeStride)."""
    made = [0] * len(new)
    axis, chunk, taken, base = len(new) - 1, 1, 1, strides[-1] if strides else 1
    for i in range(len(old) - 1, -1, -1):
        chunk *= old[i]
        if i == 0 or (old[i - 1] != 1 and strides[i - 1] != chunk * base):
            while axis >= 0 and (taken < chunk or new[axis] == 1):
                made[axis] = taken * base
                taken *= new[axis]
                axis -= 1
            if taken != chunk:
                return None
            if i:
                base, chunk, taken = strides[i - 1], 1, 1
    return tuple(made) if axis == -1 else None
