"""A forward pass without a graph: what a frozen model needs while it runs, and what of its output stays.

Layers are recorded as in a training step; nothing but their output outlives them, so one of each kind shows the peak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.run import OUTER
from memcalc.tape import functions as f
from memcalc.tape.hf.losses import headed, opened, takes
from memcalc.tape.hf.programs import body, inputs, split
from memcalc.tape.recorder import Tape
from memcalc.tape.rules import Around, run
from memcalc.tape.step import Recording

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.model import Model
    from memcalc.tape.setting import Setting
    from memcalc.tape.units import Sharder
    from memcalc.tape.values import Value
    from memcalc.tape.weights import Weights

NOTHING = Recording([0, ~0], [0], [""], frozenset(), [], [], 2, 1, 2, 0, 0, -1, ())  # one storage of no bytes


def record_nothing(
    model: Model, setting: Setting, weights: Weights, attach: Callable[[Tape], Sharder | None] | None = None
) -> Recording:
    """A model that is only held."""
    del model, setting, weights, attach
    return NOTHING


def record_forward(
    model: Model,
    setting: Setting,
    weights: Weights,
    attach: Callable[[Tape], Sharder | None] | None = None,
    *,
    whole: bool = False,
    taken: bool = False,
) -> Recording:
    """Run the model once under torch.no_grad.

    Of a language model's output a log-probability a token stays, or with `whole` the logits; of another's all of it; none
    where it is `taken`: the loss has it.
    """
    tape = Tape(setting, weights, model.context)
    tape.masks = model.masks
    tape.sharder = attach(tape) if attach else None
    with tape.no_grad(), tape.autocast_again():
        out: Value | None = gathered(tape, model, whole=whole)
    out = None if taken else out
    end = len(tape.events)
    del out
    return Recording(
        tape.events, tape.sizes, tape.owners, frozenset(), [], [], end, len(tape.sizes), end, tape.resident,
        0, -1, tuple(tape.unmodelled), buffers=frozenset(tape.buffers),
    )  # fmt: skip


def gathered(t: Tape, model: Model, *, whole: bool) -> Value:
    """The forward pass with a sharding strategy's hooks of the root around it."""
    sharder = t.sharder
    unit = sharder.root() if sharder else None
    if not sharder or not unit:
        return forward(t, model, whole=whole)
    sharder.before_forward(unit)
    sharder.running.append(unit)
    out = forward(t, model, whole=whole)
    sharder.running.remove(unit)
    sharder.after_forward(unit)
    sharder.finish()
    return out


def forward(t: Tape, model: Model, *, whole: bool) -> Value:
    """The model's output, or what is made of it at once."""
    base, heads = split(model.body)
    t.layers = model.depth
    x, labels = inputs(t, model)
    if model.kind == "causal-lm" and t.setting.loss in OUTER and takes(t.setting.loss, opened(heads)):
        from memcalc.tape.hf.outer_losses import scored  # noqa: PLC0415 - few runs have such a loss

        return scored(t, opened(heads), body(t, base, x)[0], labels, whole=whole)
    if model.kind in ("causal-lm", "seq2seq"):
        logits = headed(t, heads, body(t, base, x)[0])
        return logits if whole else token_scores(t, logits)
    out, around = body(t, base, x)[0], Around()
    for head in heads:
        out = run(t, head, out, around)
    return out


def token_scores(t: Tape, logits: Value) -> Value:
    """selective_log_softmax (trl, trainer/utils.py): row after row, so that what one row takes is there at a time.

    A row's log-softmax, which autocast has in fp32; where the logits are, the row less its largest and its exponential.
    """
    out = t.new(logits.shape[:2], "fp32")
    for _ in range(min(logits.shape[0], 2)):
        row = f.narrow(logits, 0, 1)
        wide = f.to(row, "fp32") if t.autocast else row
        first = t.new(row.shape, "fp32") if row.dtype == "fp32" else None
        t.new(wide.shape, wide.dtype)
        del first, wide
    return out
