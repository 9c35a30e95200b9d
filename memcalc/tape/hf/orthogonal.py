"""AdaLoRA's loss on top of the model's: how far from orthogonal the factors are (peft 0.21, tuners/adalora/model.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f
from memcalc.tape.autograd import Leaf
from memcalc.tape.hf.balance import fanned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

FACTORS = (".lora_A.default", ".lora_B.default")


def orthogonal(t: Tape, loss: Value) -> Value:
    """AdaLoraModel.forward: the mean norm of A Aᵀ - 1 and Bᵀ B - 1, over all factors.

    The backward pass begins with it, so that its gradient of every factor is there until the layer's own comes.
    """
    whole: Value | None = None
    for factor, like, first in factors(t):
        one = distance(t, fanned(factor, like), like, first=first)
        whole = f.shift(one) if whole is None else f.add(whole, one)
        del one
    return loss if whole is None else f.add_(loss, f.scale(f.scale(whole)))


def factors(t: Tape) -> Iterator[tuple[Value, int, bool]]:
    """Every factor that has been met, with the number of layers that it stands for, and whether it is an A."""
    for key, value in t.leaves.items():
        leaf = value.node
        if isinstance(leaf, Leaf) and leaf.name.endswith(FACTORS):
            yield value, layers(t, key), leaf.name.endswith(FACTORS[0])


def layers(t: Tape, key: str) -> int:
    """How many layers the record stands for that a parameter is of."""
    path, _, instance = key.partition("@")
    number = instance.removeprefix("/")
    if not number.isdecimal():
        return 1
    return next((stack.order.count(int(number)) for stack in t.stacks if path.startswith(f"{stack.path}.")), 1)


def distance(t: Tape, factor: Value, like: int, *, first: bool) -> Value:
    """The Frobenius norm of a factor's product with itself, as wide as the rank, less one."""
    other = f.swap(factor)
    product = f.matmul(factor, other) if first else f.matmul(other, factor)
    rest = f.subtract(product, t.new(product.shape, product.dtype))
    norm = f.vector_norm(rest, 0, 1)
    for value in (rest, norm):
        t.sizes[value.storage.id] *= like
    return norm
