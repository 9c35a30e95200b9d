"""VACE: a second video's layers, whose outputs wait for the layers that they are added behind (transformer_wan_vace.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.basic import Conv
from memcalc.blocks.video import ControlLayer, ControlLayers, ControlPatches
from memcalc.tape import functions as f
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(ControlPatches)
def control_patches(t: Tape, block: ControlPatches, x: Value, around: Around) -> Value:
    """vace_patch_embedding, flattened and padded with nothing: a copy."""
    scene = around.scene
    video = t.given((x.shape[0], block.channels, *_size(block, scene.sizes[-1])), t.setting.weights)
    made = run(t, block.conv, video, around)
    made = f.transpose(f.reshape(made, *made.shape[:2], -1), 1, 2)
    scene.control = f.cat((made,), 1)
    return x


def _size(block: ControlPatches, patches: tuple[int, ...]) -> tuple[int, ...]:
    """Frames, rows and columns of so many patches."""
    assert isinstance(block.conv, Conv)  # noqa: S101 - as its architecture makes it
    return tuple(count * size for count, size in zip(patches, block.conv.kernel, strict=True))


@rule(ControlLayers)
def control_layers(t: Tape, block: ControlLayers, x: Value, around: Around) -> Value:
    """The hints, in order, and what adds each to the stream once its layer has run."""
    assert block.layers  # noqa: S101 - it has some
    scene, around.scene.stream = around.scene, x
    control, scene.control = scene.control, None
    control = run(t, block.layers, control, around)
    scene.stream = x if t.setting.checkpoint else None  # which every layer's checkpoint holds
    hints, scene.hints, names = scene.hints, [], around.named
    names += control, hints[-1], hints[-1]
    around.after = dict.fromkeys(block.places, lambda y: _steered(y, hints, names))
    return x


def _steered(x: Value, hints: list[Value], names: list[Value]) -> Value:
    """hidden_states + control_hint * scale; the hint keeps its name until the next has it."""
    names[-1] = hints.pop(0)
    return f.add(x, f.scale(names[-1]))


@rule(ControlLayer)
def control_layer(t: Tape, block: ControlLayer, x: Value, around: Around) -> Value:
    """WanVACETransformerBlock.forward."""
    if block.into:
        x = run(t, block.into, x, around)
        x = f.add(x, around.scene.stream)
    x = run(t, block.layer, x, around)
    hint = run(t, block.out, x, around)
    if not around.again:
        around.scene.hints.append(hint)
    return x
