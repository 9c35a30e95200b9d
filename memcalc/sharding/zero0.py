"""DeepSpeed without ZeRO: every rank holds everything, with a copy in fp32 of each 16-bit parameter.

Source: DeepSpeed 0.19.8, runtime/fp16/unfused_optimizer.py (FP16_UnfusedOptimizer), runtime/fp16/fused_optimizer.py
(FP16_Optimizer) and runtime/engine.py (_configure_fp16_optimizer, allreduce_gradients, buffered_allreduce_fallback).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass
from memcalc.replay.reserve import Staged
from memcalc.sharding.marks import Marking
from memcalc.sharding.strategy import Local
from memcalc.sharding.zero import Zero
from memcalc.sharding.zero12 import trained
from memcalc.tape.laid import Laid
from memcalc.tape.values import rounded
from memcalc.timeline.slices import schedule

if TYPE_CHECKING:
    from memcalc.model import Model
    from memcalc.optimizers import Optimizer
    from memcalc.precision import Recipe
    from memcalc.tape.recorder import Tape
    from memcalc.tape.setting import Setting
    from memcalc.tape.step import Recording
    from memcalc.tape.units import Sharder
    from memcalc.tensors import Tensor

ELEMENTS = 500_000_000  # of one message (engine.py, MEMORY_OPT_ALLREDUCE_SIZE)


@dataclass(frozen=True)
class ZeroZero(Zero):
    """FP16_UnfusedOptimizer around an optimizer of 16-bit parameters; the optimizer itself where they are fp32."""

    def recipe_of(self, recipe: Recipe) -> Recipe:
        """A master copy of 16-bit parameters; fp32 ones are stepped themselves."""
        made = super().recipe_of(recipe)
        return made if self.dtype != "fp32" else replace(made, master="")

    def place(self, tensors: tuple[Tensor, ...]) -> Local:
        """Everything, in the model's dtype."""
        cast = tuple(self.cast(tensor) for tensor in tensors)
        return Local(cast, cast, cast)

    def attach(self, tape: Tape, model: Model, tensors: tuple[Tensor, ...]) -> Sharder:  # noqa: ARG002
        """A hook on the end of the backward pass."""
        return Sending(tape, self, tensors)

    def step(self, plain: int, local: Local, optimizer: Optimizer, setting: Setting) -> int:  # noqa: ARG002
        """The gradients of all parameters in fp32, and what the optimizer needs (FP16_UnfusedOptimizer.step)."""
        wide = sum(rounded(4 * tensor.elements) * tensor.count for tensor in trained(local.states))
        return plain + (wide if self.dtype != "fp32" else 0)


@dataclass(frozen=True)
class Flattened(ZeroZero):
    """FP16_Optimizer around apex's or DeepSpeed's own FusedAdam: 16-bit parameters are slices of one, as are their copies."""

    def step(self, plain: int, local: Local, optimizer: Optimizer, setting: Setting) -> int:
        """Each gradient in fp32, and all of them in a row; the parameters' own go before the norm and the optimizer."""
        apart = super().step(0, local, optimizer, setting)
        row = self.row(local)
        return max(apart + row, row + max(plain, self.masks(row)) - self.own(local))

    def masks(self, row: int) -> int:
        """What tells replicated parameters apart in the norm, on all tensor-parallel ranks but one (get_flattened_grad_norm).

        Where they begin and end in fp32, the sums of that, and booleans.
        """
        return 2 * row + row // 4 if self.divided else 0

    def staged(self, local: Local, optimizer: Optimizer, setting: Setting) -> Staged:
        """Gradients in fp32 until they are in a row, which the optimizer is given."""
        row = self.row(local)
        flat = max(super().step(0, local, optimizer, setting), self.masks(row) - self.own(local))
        return Staged(flat=flat, wide=row, frees=False)

    def own(self, local: Local) -> int:
        """Bytes of the gradients as the parameters have them."""
        return sum(rounded(self.item * tensor.elements) * tensor.count for tensor in trained(local.gradients))

    def row(self, local: Local) -> int:
        """Bytes of all gradients in fp32."""
        return rounded(4 * sum(tensor.elements * tensor.count for tensor in trained(local.states)))


class Sending(Marking):
    """The gradients of a step are flattened and reduced when the backward pass is over."""

    def __init__(self, tape: Tape, strategy: ZeroZero, tensors: tuple[Tensor, ...]) -> None:
        super().__init__(tape, takes=False)
        self.strategy, self.tensors = strategy, tensors

    def laid(self, recording: Recording) -> Recording:
        """The largest message, at the end of the backward pass."""
        nbytes = rounded(self.message() * self.strategy.item)
        last = len(schedule(recording)) - 1
        both = [Laid(recording.end, "temporary", nbytes), Laid(recording.end, "temporary", -nbytes)]
        return replace(recording, overlay={last: both})

    def message(self) -> int:
        """Elements of the largest message: gradients in a row until they are more than ELEMENTS."""
        most = now = 0
        for tensor in trained(self.tensors):
            for _ in range(tensor.count):
                now += tensor.elements
                most = max(most, now)
                now = 0 if now > ELEMENTS else now
        return most
