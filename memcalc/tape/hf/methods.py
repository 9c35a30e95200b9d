"""Adapters besides LoRA on linear layers, by the names of their methods (peft 0.21, tuners/…/layer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape.hf import banked, lowranks, packed_methods
from memcalc.tape.hf.lycoris import adalora, ia3, loha, lokr, oft, turned, vera
from memcalc.tape.hf.packed_methods import opened
from memcalc.tape.hf.unfollowed import unfollowed

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

__all__ = ["FOLLOWED", "METHODS", "WIDENED", "opened", "other", "over_packed", "read"]
WIDENED = ("road",)  # methods that cast the base layer's output first, and let go of it


def read(t: Tape, x: Value) -> Value:
    """What the base layer reads under a method that changes that."""
    if t.setting.adapter == "boft":
        return banked.turned(t, x) if t.weights.added(t.path) else x
    if t.setting.adapter == "oft":
        return oft(t, x)
    if t.weights.packed(t.path) and over_packed(t):
        return packed_methods.read(t, x)
    return ia3(t, x, before=True)


def over_packed(t: Tape) -> Callable[[Tape, Value, Value], Value] | None:
    """The method's forward pass over bitsandbytes' packed weights, where it differs and the module carries it."""
    rule = packed_methods.METHODS.get(t.setting.adapter) if t.setting.packing.own_layers == "all" else None
    return rule if rule and t.weights.added(t.path) else None


def other(t: Tape, x: Value, out: Value, weight: Callable[[], Value] | None) -> Value:
    """A method of a preset: its forward pass where it has a rule and the module carries it, else what learns alone."""
    rule, held = FOLLOWED.get(t.setting.adapter), [out]
    del out
    return rule(t, x, held.pop(), weight) if rule and t.weights.added(t.path) else unfollowed(t, held.pop())


METHODS: dict[str, Callable[[Tape, Value, Value], Value]] = {
    "adalora": adalora, "loha": loha, "lokr": lokr, "vera": vera,
    "ia3": lambda t, _, out: ia3(t, out, before=False), "oft": turned,
}  # fmt: skip
FOLLOWED: dict[str, Callable[[Tape, Value, Value, Callable[[], Value] | None], Value]] = {
    "hira": lowranks.hira, "deft": lowranks.deft, "glora": lowranks.glora, "peanut": lowranks.peanut,
    "beft": lowranks.beft, "delora": lowranks.delora, "osf": lowranks.osf, "miss": lowranks.miss,
    "tinylora": lowranks.tinylora, "randlora": banked.randlora, "pvera": banked.pvera, "lily": banked.lily,
    "road": banked.road, "psoft": banked.psoft, "fourierft": banked.fourierft, "c3a": banked.c3a,
    "boft": banked.boft, "supertuning": banked.supertuning, "unilora": banked.unilora,
    "vblora": banked.vblora, "gralora": lowranks.gralora, "hra": lowranks.hra,
}  # fmt: skip
