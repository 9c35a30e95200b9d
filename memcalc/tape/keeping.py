"""Selective checkpointing: outputs of dear operations are kept, and the others recomputed.

torch.utils.checkpoint.create_selective_checkpoint_contexts with torchtitan's policy (models/…/parallelize.py,
_apply_op_sac): the outputs of the fused attention kernels, and of every second aten.mm (a linear layer without a bias),
beginning with the first of a layer; those of all-to-alls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Shape, Value

Operation = Literal["mm", "attention", "exchange"]


class Keeping:
    """What one checkpointed layer keeps: filled in the forward pass, emptied in order while it is recomputed."""

    __slots__ = ("again", "kept", "products")

    def __init__(self) -> None:
        self.kept: list[Value] = []
        self.products, self.again = 0, False

    def replay(self) -> Keeping:
        """From here on what was kept is handed out."""
        self.products, self.again = 0, True
        return self

    def output(self, operation: Operation, make: Callable[[], Value]) -> Value:
        """The output of an operation: made, and kept if it is dear; or, when the layer runs again, what was kept."""
        self.products += operation == "mm"
        if operation == "mm" and not self.products % 2:
            return make()
        if self.again:
            return self.kept.pop(0)
        value = make()
        self.kept.append(value.detach())
        return value


def output(tape: Tape, operation: Operation, shape: Shape, dtype: str, strides: Shape | None = None) -> Value:
    """The output of an operation, which a selective checkpoint may have kept."""
    keeping = tape.keeping
    if keeping is None:
        return tape.new(shape, dtype, strides)
    return keeping.output(operation, lambda: tape.new(shape, dtype, strides))
