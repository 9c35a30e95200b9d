"""Rules of thumb beside what is so: 16 bytes per parameter, and Korthikanti's bytes per layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Stack
from memcalc.explanation.values import Thumb
from memcalc.tape.hf.surroundings import attentions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.blocks.base import Block
    from memcalc.explanation.values import Live
    from memcalc.ledger import Ledger
    from memcalc.plan import Plan

ZERO = "Rajbhandari et al. 2020 (arXiv:1910.02054), 3.1"
KORTHIKANTI = "Korthikanti et al. 2022 (arXiv:2205.05198)"


def thumbs(plan: Plan, book: Ledger, kept: Live | None) -> tuple[Thumb, ...]:
    """The rules that say something of this run."""
    return tuple(_rules(plan, book, kept))


def _rules(plan: Plan, book: Ledger, kept: Live | None) -> Iterator[Thumb]:
    parameters = plan.model.parameters + plan.added
    yield _thumb("16 bytes per parameter", f"16 x {_spaced(parameters)}", 16 * parameters, book.persistent,
                 "what persists of one whole replica", ZERO)  # fmt: skip
    stack = longest(plan.model.body)
    first = next((a for a in attentions(stack) if isinstance(a, Attention)), None) if stack else None
    hidden = _width(first)
    if kept is None or stack is None or first is None or not hidden or not plan.seq_len or plan.model.kind == "seq2seq":
        return
    name, formula, says, where = _of_layers(plan, first, hidden, len(stack.layers))
    actual = sum(share.bytes for share in kept.modules if f".{stack.name}." in f".{share.module}")
    yield _thumb(name, formula, says, actual, "what autograd keeps of the layers", f"{KORTHIKANTI}, {where}")


def _of_layers(plan: Plan, attention: Attention, h: int, count: int) -> tuple[str, str, int, str]:
    """(name, formula in numbers, bytes, where it stands) for `count` layers of `h` channels."""
    s, b, a = plan.seq_len, plan.run.batch_size, attention.heads
    sbh, scores = f"{s} x {b} x {h}", f"5 x {a} x {s}² x {b}"
    if plan.run.checkpointing.mode == "full" and plan.model.checkpoints:
        return "2·s·b·h in each layer", f"{count} x 2 x {sbh}", count * 2 * s * b * h, "table 2, full recomputation"
    if plan.run.attention == "eager" or attention.dropout:
        says = count * (34 * s * b * h + 5 * a * s * s * b)
        return "34·s·b·h + 5·a·s²·b in each layer", f"{count} x (34 x {sbh} + {scores})", says, "equation 1"
    says = count * 34 * s * b * h
    return "34·s·b·h in each layer", f"{count} x 34 x {sbh}", says, "table 2: attention scores not kept"


def _thumb(name: str, formula: str, says: int, actual: int, of: str, source: str) -> Thumb:
    off = round(100 * (says - actual) / actual, 1) if actual else 0.0
    return Thumb(name=name, formula=formula, says=says, bytes=actual, off_percent=off, of=of, source=source)


def longest(block: Block) -> Stack | None:
    """The stack with the most layers, outermost first."""
    found = [block] if isinstance(block, Stack) else [s for _, part in block.groups() if (s := longest(part))]
    return max(found, key=lambda stack: len(stack.layers), default=None)


def _width(attention: Attention | None) -> int:
    """The channels that an attention reads: those of its projection."""
    for block in (attention.q, attention.qkv) if attention else ():
        width = getattr(block, "inputs", 0)
        if width:
            return int(width)
    return 0


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")
