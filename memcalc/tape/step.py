"""One training step on the tape: forward, backward, and where each begins in the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from memcalc.tape.autograd import backward
from memcalc.tape.hf.programs import whole
from memcalc.tape.offload import Offloading
from memcalc.tape.recorder import Layers, Tape

if TYPE_CHECKING:
    from memcalc.model import Model
    from memcalc.tape.setting import Setting
    from memcalc.tape.weights import Weights


@dataclass(frozen=True)
class Recording:
    """What a tape holds when the step is over: see Tape for the fields; `forward_end`, `end` are lengths of the log.

    `products` are (place in the log, FLOPs) of every matrix product, as often as it was recorded.
    `kept` are the bytes of outputs that the training loop still holds when the step is over, `outputs` their
    storage (-1: none). `pinned` is what lies in host memory until the backward pass.
    """

    events: list[int]
    sizes: list[int]
    owners: list[str]
    gradients: frozenset[int]
    recomputed: list[tuple[int, int]]
    stacks: list[Layers]
    forward_end: int
    forward_storages: int
    end: int
    resident: int
    kept: int
    outputs: int
    unmodelled: tuple[str, ...]
    pinned: int = 0
    products: tuple[tuple[int, int], ...] = ()


def record_step(model: Model, setting: Setting, weights: Weights, tape: Tape | None = None) -> Recording:
    """Run one micro step of the model, on a tape that is new, or the given one where it notes more than a plain one."""
    tape, kept, held = tape or Tape(setting, weights, model.context), 0, -1
    tape.saving = Offloading(tape) if setting.offload_activations else None
    before = tape.new((), "fp32") if setting.keep_outputs else None  # the outputs of the step before, until these come
    with tape.autocast_again():
        loss, outputs = whole(tape, model)
    if before:
        held = outputs.storage.id
        kept = tape.sizes[before.storage.id] = tape.sizes[held]
        before = None
    else:
        del outputs
    tape.saving = None
    forward_end, forward_storages = len(tape.events), len(tape.sizes)
    walk_back(tape, loss)
    del loss
    return Recording(
        tape.events, tape.sizes, tape.owners, frozenset(tape.gradients), tape.recomputed, tape.stacks,
        forward_end, forward_storages, len(tape.events), tape.resident, kept, held,
        tuple(tape.unmodelled), tape.pinned, tuple(tape.products),
    )  # fmt: skip


def walk_back(tape: Tape, loss: object) -> None:
    """The backward pass, noting where it passes from layer to layer."""
    turns = sorted(
        ((boundary, stack) for stack in tape.stacks for boundary in stack.sequences), key=lambda pair: pair[0]
    )

    def watch(sequence: int) -> None:
        while turns and sequence <= turns[-1][0]:
            turns.pop()[1].returns.append(len(tape.events))

    one = tape.new((), "fp32")
    backward(tape, [(loss, one)], watch)  # type: ignore[list-item]
    del one
    tape.spending.finish()
    while turns:
        turns.pop()[1].returns.append(len(tape.events))
