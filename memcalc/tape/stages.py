"""The forward pass of one rank of a divided model, whoever implements its modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def whole(t: Tape, model: Model) -> tuple[Value, Value]:
    """(loss, or hidden states that the next stage gets; what is held)."""
    ways = t.setting.ways
    if ways and ways.modules_of == "megatron":
        from memcalc.tape.megatron.program import whole as forward  # noqa: PLC0415 - other ranks need none of it

        return forward(t, model)
    from memcalc.tape.hf.stages import whole as staged  # noqa: PLC0415

    return staged(t, model)
