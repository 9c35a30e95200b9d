"""Optimizers that step in the backward pass: a gradient lives until its parameter has stepped."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


class Spent(NamedTuple):
    """Bytes of each temporary of a step with one parameter alone, in order; in the first step, of the states it makes."""

    temporaries: tuple[int, ...]
    states: tuple[int, ...] = ()


class Spending:
    """Uses gradients up as they come.

    At once, as a hook behind the accumulation does (register_post_accumulate_grad_hook: layerwise GaLore and APOLLO,
    torchtune's optimizer_in_bwd); or `late`, when the next gradient has been made, as LOMO's hooks on the parameters do:
    they run before the gradient is put in its place, and find the one before (lomo_optim 0.1.1, lomo.py, fuse_update).
    """

    def __init__(self, tape: Tape, *, late: bool) -> None:
        self.tape, self.late = tape, late
        self.waiting: tuple[Value, Spent] | None = None
        self.states: list[Value] = []

    def take(self, gradient: Value, spent: Spent) -> None:
        """A gradient is complete; `spent` is what its step allocates."""
        self.finish()
        self.waiting = gradient, spent
        del gradient
        if not self.late:
            self.finish()

    def finish(self) -> None:
        """Step with the gradient that waits, if one does: LOMO lets go of it once there is an fp32 copy."""
        if self.waiting is None:
            return
        gradient, (temporaries, states) = self.waiting
        self.waiting = None
        self.states += [self.tape.new((nbytes,), "uint8") for nbytes in states]
        held: list[object] = [self.tape.new((nbytes,), "uint8") for nbytes in temporaries[:1]]
        if self.late and gradient.dtype != "fp32":
            del gradient
        held += [self.tape.new((nbytes,), "uint8") for nbytes in temporaries[1:]]
        while held:
            held.pop()
