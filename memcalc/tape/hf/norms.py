"""Norms over the last axis, as transformers' classes write them; those of maps are beside their models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.basic import Norm
from memcalc.tape import functions as f
from memcalc.tape.hf import kernels
from memcalc.tape.rules import Around, rule

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Norm)
def norm(t: Tape, block: Norm, x: Value, around: Around) -> Value:
    """nn.LayerNorm, or LlamaRMSNorm.forward: fp32 inside, cast back before the weight (modeling_llama.py)."""
    if block.kind in ("rms", "rms-no-weight"):
        return rms_norm(t, block, x)
    weight = t.weight("weight", (block.width,)) if block.kind != "none" else None
    bias = t.weight("bias", (block.width,)) if block.kind == "layer" else None
    return f.layer_norm(x, weight, bias)


def rms_norm(t: Tape, block: Norm, x: Value) -> Value:
    """LlamaRMSNorm.forward."""
    if block.kind == "rms" and kernels.takes_norm(t, block):
        return kernels.rms_norm(t, x, t.weight("weight", (block.width,)))
    dtype = x.dtype
    x = f.to(x, "fp32")
    variance = f.mean(f.square(x), -1)
    x = f.mul(x, f.rsqrt(f.shift(variance)))
    if block.kind == "rms-no-weight":
        return f.to(x, dtype)
    return f.mul(t.weight("weight", (block.width,)), f.to(x, dtype))


@rule(Norm, "gemma")
def gemma_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """GemmaRMSNorm.forward: fp32 throughout, times 1 + weight (modeling_gemma.py)."""
    if kernels.takes_norm(t, block):
        return kernels.rms_norm(t, x, t.weight("weight", (block.width,)))
    wide = f.to(x, "fp32")
    out = f.mul(wide, f.rsqrt(f.shift(f.mean(f.square(wide), -1))))
    del wide
    out = f.mul(out, f.shift(f.to(t.weight("weight", (block.width,)), "fp32")))
    return f.to(out, x.dtype)


@rule(Norm, "olmo2", "gpt_oss")
def olmo2_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """Olmo2RMSNorm.forward: the weight is applied before the cast back (modeling_olmo2.py)."""
    if kernels.takes_norm(t, block):
        return kernels.rms_norm(t, x, t.weight("weight", (block.width,)))
    dtype = x.dtype
    x = f.to(x, "fp32")
    variance = f.mean(f.square(x), -1)
    x = f.mul(x, f.rsqrt(f.shift(variance)))
    return f.to(f.mul(t.weight("weight", (block.width,)), x), dtype)


@rule(Norm, "torch")
def torch_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """torch.nn.RMSNorm, where it isn't one kernel (aten/src/ATen/native/layer_norm.cpp, rms_norm_composite)."""
    wide = f.to(x, "fp32")
    squares = f.square(wide)
    variance = f.mean(squares, -1)
    root = f.rsqrt(variance)
    del variance, squares
    out = f.mul(wide, root)
    out = f.mul(out, t.weight("weight", (block.width,)))
    del wide
    made = f.to(out, x.dtype)
    del out, root
    return made


@rule(Norm, "helium")
def helium_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """HeliumRMSNorm.forward: the weight is widened and applied before the cast back (modeling_helium.py)."""
    dtype = x.dtype
    x = f.to(x, "fp32")
    variance = f.mean(f.square(x), -1)
    x = f.mul(x, f.rsqrt(f.shift(variance)))
    return f.to(f.mul(f.to(t.weight("weight", (block.width,)), "fp32"), x), dtype)


@rule(Norm, "nemotron")
def nemotron_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """NemotronLayerNorm1P.forward: a LayerNorm whose weight is 1 + weight (modeling_nemotron.py)."""
    weight, bias = f.shift(t.weight("weight", (block.width,))), t.weight("bias", (block.width,))
    return f.layer_norm(x, weight, bias)


@rule(Norm, "t5")
def t5_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """T5LayerNorm.forward: the input itself, times a factor in fp32 (modeling_t5.py)."""
    variance = f.mean(f.square(f.to(x, "fp32")), -1)
    if block.kind == "rms-no-weight":  # diffusers' RMSNorm.forward
        return f.to(f.mul(x, f.rsqrt(f.shift(variance))), x.dtype)
    weight = t.weight("weight", (block.width,))
    x = f.mul(x, f.rsqrt(f.shift(variance)))
    if weight.dtype in ("fp16", "bf16"):
        x = f.to(x, weight.dtype)
    return f.mul(weight, x)


@rule(Norm, "olmo")
def olmo_norm(_: Tape, block: Norm, x: Value, around: Around) -> Value:
    """OlmoLayerNorm.forward: fp32, no parameters (modeling_olmo.py)."""
    return f.to(f.layer_norm(f.to(x, "fp32"), None, None), x.dtype)


@rule(Norm, "cohere")
def cohere_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """CohereLayerNorm.forward: mean and variance by hand in fp32 (modeling_cohere.py)."""
    dtype = x.dtype
    x = f.to(x, "fp32")
    mean = f.mean(x, -1)
    variance = f.mean(f.square(f.subtract(x, mean)), -1)
    x = f.mul(f.subtract(x, mean), f.rsqrt(f.shift(variance)))
    shape = (block.heads, block.width) if block.heads else (block.width,)
    x = f.mul(f.to(t.weight("weight", shape), "fp32"), x)
    return f.to(x, dtype)
