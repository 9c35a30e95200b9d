"""ControlNets beside the UNet that they steer (diffusers, controlnets/controlnet.py, examples/controlnet/train_controlnet.py)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, cast

from memcalc.blocks.base import Stack
from memcalc.blocks.basic import Conv
from memcalc.blocks.control import (
    ConditionImage,
    ConditionTokens,
    Control,
    Controlled,
    ControlNet,
    Steered,
    SteeredTransformer,
    StreamControlNet,
)
from memcalc.tape import functions as f
from memcalc.tape.hf.alike import named
from memcalc.tape.hf.diffusion import Scene, body
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(ConditionImage)
def condition_image(t: Tape, block: ConditionImage, x: Value, around: Around) -> Value:
    """ControlNetConditioningEmbedding.forward; sample + controlnet_cond."""
    rows, columns = (size * block.scale for size in x.shape[2:])
    made = t.given((x.shape[0], block.channels, rows, columns), t.setting.inputs or t.setting.weights)
    for part in block.blocks:
        made = run(t, part, made, around)
    return f.add(x, made)


@rule(ControlNet)
def control_net(t: Tape, block: ControlNet, x: Value, around: Around) -> Value:
    """ControlNetModel.forward, and what reads its outputs."""
    states = _states(t, block, x, around)
    if block.base is None:
        parts = [f.mean(state, *range(4), keep=False) for state in states]
        return f.total(f.stack(parts), 0)
    around.scene = Scene()
    if t.setting.inputs:  # of a UNet that is kept lower: accelerate makes autocast's outputs fp32; then they are cast
        states = [f.to(state, "fp32") if t.autocast else state for state in states]
    around.scene.controls = [f.to(state, t.setting.inputs or state.dtype) for state in states]
    return run(t, block.base, x, around)


def _states(t: Tape, block: ControlNet, x: Value, around: Around) -> list[Value]:
    """The states kept on the way down, and the last, each through its convolution, times the strength of the control."""
    y = x
    for part in block.blocks:
        y = run(t, part, y, around)
    states = [run(t, out, state, around) for out, state in zip(block.outs, around.scene.skips, strict=True)]
    around.scene.skips.clear()
    end = run(t, block.end, y, around)
    states = [f.scale(state) for state in states]
    return [*states, f.scale(end)]


@rule(Controlled)
def controlled(t: Tape, block: Controlled, x: Value, around: Around) -> Value:
    """UNet2DConditionModel.forward, whose layers no checkpoint recomputes; outside of autocast where it is kept lower."""
    before, t.setting = (t.setting, t.autocast), replace(t.setting, checkpoint=False)
    if t.setting.inputs:
        t.autocast, t.setting = "", replace(t.setting, weights=x.dtype)
    for part in block.blocks:
        x = run(t, part, x, around)
    t.setting, t.autocast = before
    return x


@rule(Control)
def control(_: Tape, block: Control, x: Value, around: Around) -> Value:
    """down_block_additional_residuals, whose sums all keep a name (new_down_block_res_samples); mid_block_additional_residual."""
    scene = around.scene
    if block.middle:
        return f.add(x, scene.controls[-1])
    scene.skips = [f.add(state, more) for state, more in zip(scene.skips, scene.controls[:-1], strict=True)]
    around.named += scene.skips
    return x


@rule(ConditionTokens)
def condition_tokens(t: Tape, block: ConditionTokens, x: Value, around: Around) -> Value:
    """hidden_states + controlnet_x_embedder(controlnet_cond), + pos_embed_input(controlnet_cond)."""
    dtype, scene = t.setting.inputs or t.setting.weights, around.scene
    first = block.blocks[0]
    if isinstance(first, Conv):
        size = tuple(count * side for count, side in zip(scene.sizes[-1], first.kernel, strict=True))
        made = t.given((x.shape[0], block.channels, *size), dtype)
    else:
        made = t.given((*x.shape[:2], first.inputs), dtype)  # type: ignore[attr-defined]  # a linear layer
    for part in block.blocks:
        made = run(t, part, made, around)
    return f.add(x, made)


@rule(StreamControlNet)
def stream_control_net(t: Tape, block: StreamControlNet, x: Value, around: Around) -> Value:
    """FluxControlNetModel.forward, SD3ControlNetModel.forward, and the transformer that reads their outputs."""
    text = around.encoder
    states = _of_layers(t, block, x, text)
    if block.base is None:
        parts = [f.mean(state, *range(3), keep=False) for group in states for state in group]
        return f.total(f.stack(parts), 0)
    inner = Around()
    inner.ready, inner.encoder, inner.scene = True, text, Scene()
    inner.scene.controls = [[_lowered(t, state) for state in group] for group in states]
    del states
    return run(t, block.base, x, inner)


def _of_layers(t: Tape, block: StreamControlNet, x: Value, text: Value | None) -> list[list[Value]]:
    """The output of every layer through a linear layer of its own, times the strength of the control."""
    found: list[list[Value]] = []
    around = Around()
    around.ready, around.encoder, around.scene = True, text, Scene()
    for part in block.blocks:
        if isinstance(part, Stack):
            states: list[Value] = []
            around.after = dict.fromkeys(range(len(part.layers)), partial(_kept, states))
            found.append(states)
        x = run(t, part, x, around)
        around.after = {}
    made = []
    for stack, states in zip(block.outs, found, strict=True):
        layers = enumerate(zip(states, named(cast("Stack", stack)), strict=True))
        made.append([_through(t, f"{stack.name}.{name}", i, layer, state) for i, (state, (layer, name)) in layers])
    _names = [states[-1] for states in made]  # the loops' own
    for states in made:
        states[:] = [f.scale(state) for state in states]
    return made


def _kept(states: list[Value], x: Value) -> Value:
    states.append(x)
    return x


def _through(t: Tape, name: str, index: int, layer: Block, x: Value) -> Value:
    """One layer of a stack by the name its tensors are listed under."""
    before, (t.path, t.instance) = (t.path, t.instance), (name, f"/{index}")
    out = run(t, layer, x, Around())
    t.path, t.instance = before
    return out


def _lowered(t: Tape, state: Value) -> Value:
    """accelerate makes autocast's outputs fp32; then they are cast for a transformer that is kept lower."""
    state = f.to(state, "fp32") if t.autocast else state
    return f.to(state, t.setting.inputs or state.dtype)


@rule(SteeredTransformer)
def steered_transformer(t: Tape, block: SteeredTransformer, x: Value, around: Around) -> Value:
    """FluxTransformer2DModel.forward, SD3Transformer2DModel.forward; outside of autocast where it is kept lower."""
    before = t.setting, t.autocast
    if not block.recomputed:
        t.setting = replace(t.setting, checkpoint=False)
    if t.setting.inputs:
        t.autocast, t.setting = "", replace(t.setting, weights=x.dtype)
    x = body(t, block, x, around)
    around.after = {}
    t.setting, t.autocast = before
    return x


@rule(Steered)
def steered(_: Tape, block: Steered, x: Value, around: Around) -> Value:
    """controlnet_block_samples[index // interval_control]: what is added behind each layer of the next stack."""
    controls, around.scene.controls[block.number] = around.scene.controls[block.number], []
    around.named += controls
    ratio = block.layers / len(controls)
    places = [int(i / (ratio if block.even else ceil(ratio))) for i in range(block.layers)]
    around.after = {
        i: partial(f.add, b=controls[place]) for i, place in enumerate(places[: block.layers - block.but_last])
    }
    return x
