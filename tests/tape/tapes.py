"""A tape without a model, for tests of single operations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape.autograd import Leaf, backward
from memcalc.tape.recorder import Tape
from memcalc.tape.setting import Setting
from memcalc.tape.weights import Weights

if TYPE_CHECKING:
    from memcalc.tape.values import Shape, Value


def tape(autocast: str = "") -> Tape:
    """An empty tape; under autocast where a dtype is given."""
    made = Tape(Setting(autocast=autocast), Weights((), str))
    made.autocast = autocast
    return made


def parameter(t: Tape, *shape: int, dtype: str = "fp32") -> Value:
    """A trainable tensor that was there before."""
    value = t.given(shape, dtype)
    value.node = Leaf(t, value)
    return value


def live(t: Tape) -> int:
    """Bytes alive now."""
    return sum(t.sizes[event] if event >= 0 else -t.sizes[~event] for event in t.events)


def peak(t: Tape, since: int = 0) -> int:
    """The most bytes alive at once from an event on."""
    at = most = 0
    for number, event in enumerate(t.events):
        at += t.sizes[event] if event >= 0 else -t.sizes[~event]
        most = max(most, at) if number >= since else most
    return most


def run_back(t: Tape, out: Value, shape: Shape | None = None) -> None:
    """The backward pass from `out`."""
    backward(t, [(out, t.new(shape or out.shape, out.dtype))])
