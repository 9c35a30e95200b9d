"""ControlNets beside the UNet that they steer (diffusers, controlnets/controlnet.py, examples/controlnet/train_controlnet.py)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.blocks.control import ConditionImage, Control, Controlled, ControlNet
from memcalc.tape import functions as f
from memcalc.tape.hf.diffusion import Scene
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
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
