"""What a layer is called with beside its input, which its checkpoint saves, and what it hands on beside its output."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from memcalc.tape.hf.surroundings import handed_to
from memcalc.tape.rules import Around, gone, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

# what layers are called with beside their input, and gradients go back to
GIVEN = ("original", "per_layer", "bias", "encoder", "cross_bias")
VECTORS = ("vector", "shared", "places")  # of a denoiser's scene


def alone(around: Around) -> bool:
    """Whether that is all beside its input that a layer's gradient goes back to.

    No bias by keyword, no encoder's states but by position, no texts of a denoiser's every layer.
    """
    biased = any(mask is not None and mask.node is not None for mask in around.masks.values())
    lone = _conditioned(around.scene) if _vectors(around) else around.encoder is None or around.follows
    return lone and (around.bias is None or around.slopes or around.hands) and not biased


def _conditioned(scene: Any) -> bool:  # noqa: ANN401 - each denoiser has its own
    """Whether what layers read of a denoiser beside its streams are vectors that each is called with."""
    several = scene.made.values() if len(scene.made) > 1 else ()
    others = (*scene.texts, *several, scene.pair, scene.whole, scene.control)
    return all(value is None or value.node is None for value in others)


def given_to(around: Around) -> dict[str | int, Value]:
    """What a layer is called with beside its input by position, which a checkpoint saves.

    Masks (by their windows), too, where an encoder's states come behind them.
    """
    found = {name: getattr(around, name) for name in GIVEN}
    given: dict[str | int, Value] = {
        name: value for name, value in found.items() if value is not None and value.node is not None
    }
    masks = around.masks if around.follows else {}
    given.update({window: mask for window, mask in masks.items() if mask is not None})
    given.update({f"scene.{name}": value for name, value in _vectors(around).items() if value.node is not None})
    return given


def _vectors(around: Around) -> dict[str, Value]:
    found = {name: getattr(around.scene, name, None) for name in VECTORS}
    return {name: value for name, value in found.items() if value is not None}


def _give(around: Around, name: str | int, value: Value | None) -> None:
    if isinstance(name, int):
        around.masks = {**around.masks, name: value}
    elif name.startswith("scene."):
        around.scene = copy(around.scene)
        setattr(around.scene, name.removeprefix("scene."), value)
    else:
        setattr(around, name, value)


def beside(around: Around, before: Value | None) -> dict[str, Value]:
    """What a layer returns beside its output: weights of its attention, the biases for the next (T5Block.forward), or texts."""
    streams = around.encoder is not before and bool(_vectors(around))
    names = ("bias", "cross_bias") if around.hands else ("encoder",) if streams else ("returned",)
    found = {name: getattr(around, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def again(t: Tape, layer: Block, around: Around) -> Callable[..., Value]:
    """The layer as a function of its input: the first time as part of the model, later with what it was given then.

    Or with others in its place, as a re-entrant checkpoint has them.
    """
    first, given, names = [around], handed_to(layer, around), tuple(given_to(around))
    if t.setting.reentrant and alone(around) and not t.setting.offload_inputs:
        for name in names:  # which the checkpoint saves
            _give(given, name, None)
    given.kept = given.images = given.each = None
    given.again = True
    given.named, given.deep, given.after, given.outputs, given.read = [], [], {}, [], {}

    def anew(x: Value, *others: Value) -> Value:
        more = not first
        now = given.copy() if more else first.pop()
        for name, value in zip(names, others, strict=False):
            _give(now, name, value)
        before = now.encoder
        within, t.within = t.within, True
        try:
            out = run(t, layer, x, now)
        finally:
            t.within = within
        t.beside = tuple(beside(now, before).values())
        if more:  # the stack sees to it the first time
            gone(now.summed)
        return out

    return anew
