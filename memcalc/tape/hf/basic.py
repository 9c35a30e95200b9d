"""Linear layers (with their adapters), embeddings, norms, dropout and activation functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.basic import (
    Activation,
    Cast,
    Dropout,
    Embedding,
    Linear,
    Norm,
    ProductLinear,
    Raw,
    Scale,
    Softcap,
    TransposedLinear,
)
from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Leaf, Node, record
from memcalc.tape.hf import kernels, quantized
from memcalc.tape.hf.adapters import adapted, embedded, prepared, prompted, with_tokens
from memcalc.tape.rules import Around, rule

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Linear)
def linear(t: Tape, block: Linear, x: Value, _: Around) -> Value:
    """nn.Linear, or the class that takes its place where the weight is packed."""
    if (unsloth := kernels.unsloths(t)) and unsloth.takes_linear(t, block):
        out: Value = unsloth.linear(t, block, x)
        return out
    read = prepared(t, x)
    if t.weights.packed(t.path):
        return adapted(t, x, quantized.product(t, block, read), packed=True)
    weight = with_tokens(t, t.weight("weight", (block.outputs, block.inputs), block.tied_to), block.tied_to)
    bias = t.weight("bias", (block.outputs,), block.bias_tied_to) if block.bias else None
    return adapted(t, x, f.linear(read, weight, bias), lambda: weight)


@rule(TransposedLinear)
def transposed_linear(t: Tape, block: TransposedLinear, x: Value, _: Around) -> Value:
    """Conv1D.forward: addmm over flattened rows (transformers, pytorch_utils.py)."""
    read = prepared(t, x)
    if t.weights.packed(t.path):
        return adapted(t, x, quantized.product(t, block, read), packed=True)
    shape = (*x.shape[:-1], block.outputs)
    weight, bias = t.weight("weight", (block.inputs, block.outputs)), t.weight("bias", (block.outputs,))
    flat = f.view(read, -1, block.inputs)
    return adapted(t, x, f.view(f.addmm(flat, weight, bias), *shape), lambda: f.swap(weight))


@rule(ProductLinear)
def product_linear(t: Tape, block: ProductLinear, x: Value, _: Around) -> Value:
    """FalconLinear.forward; the transposed weight is no leaf, so autocast keeps no copy of it (modeling_falcon.py)."""
    weight = f.swap(f.swap(t.weight("weight", (block.outputs, block.inputs))))
    if block.bias:
        return adapted(t, x, f.add(f.linear(x, weight), t.weight("bias", (block.outputs,))))
    return adapted(t, x, f.linear(x, weight))


@rule(Embedding)
def embedding(t: Tape, block: Embedding, x: Value, around: Around) -> Value:
    """nn.Embedding of tokens; a table of positions or types in a sequence is added to what came before it."""
    weight = with_tokens(t, t.weight("weight", (block.rows, block.width), block.tied_to), block.tied_to)
    if x.dtype == "int64" and block.index == "tokens":
        out = f.embedding(x, weight)
        out = f.scale(out) if block.scaled else out
        if t.weights.adapters:
            out = prompted(t, asking(t, embedded(t, x, out)))
        if block.scaled_outside:
            out = asking(t, out)
            out = f.scale(out)
        if around.sight is None:
            t.held += [out] if around.holds else []
            return asking(t, out)
        out = with_images(t, asking(t, out), around.sight(around))
        t.held += [out] if around.holds else []
        return out
    index = indices(t, block.index, x, around)
    out = f.embedding(index, weight)
    if x.dtype == "int64":
        t.held += [out] if around.holds else []
        return out
    around.placed = t.path.rpartition(".")[0]
    if not around.placed.endswith("embeddings"):  # a module of its own, whose names go with it (CLIPVisionEmbeddings)
        t.held += (x,) if around.holds else (x, out)  # names of the function that runs the layers (GPT2Model.forward)
    return f.add(x, out)


def with_images(t: Tape, out: Value, seen: Value) -> Value:
    """The embeddings with what came of the images in place of their tokens (LlavaModel.forward)."""
    mask = t.new((*out.shape[:2], 1), "bool")
    return f.masked_scatter(out, mask, seen)


def asking(t: Tape, out: Value) -> Value:
    """enable_input_require_grads: under checkpointing the embeddings ask for a gradient themselves, frozen or not.

    Models of tokens do so whenever they are checkpointed (gradient_checkpointing_enable, modeling_utils.py).
    """
    if t.setting.checkpoint and out.node is None:
        out.node = Leaf(t, out)
    return out


def indices(t: Tape, kind: str, x: Value, around: Around) -> Value:
    """What a table is read by: distances, as given; positions [1, seq], those of each token [batch, seq], token types."""
    batch, seq = x.shape[:2]
    if kind == "distances":
        return x
    if kind == "positions":
        if around.positions is None:
            around.positions = f.shift(t.new((1, seq), "int64"))
        return around.positions
    return t.new((batch, seq), "int64")


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


@rule(Cast)
def cast(t: Tape, block: Cast, x: Value, around: Around) -> Value:
    """x.to(dtype); what is cast for the head is the base model's output, which outlives the cast."""
    if block.to == "fp32":
        return f.to(x, "fp32")
    around.outputs.append(x)
    return f.to(x, stored(t))


def stored(t: Tape) -> str:
    """The dtype the model's own weights are kept in."""
    return t.setting.frozen if t.weights.adapters else t.setting.weights


@rule(Scale)
def scaled(_: Tape, block: Scale, x: Value, around: Around) -> Value:
    """x times a number."""
    return f.scale(x)


@rule(Softcap)
def softcap(_: Tape, block: Softcap, x: Value, around: Around) -> Value:
    """cap * tanh(x / cap)."""
    x = f.scale(f.to(x, "fp32") if block.wide else x)
    x = f.tanh(x)
    return f.scale(x)


@rule(Raw)
def raw(_: Tape, block: Raw, x: Value, around: Around) -> Value:
    """A parameter that its module reads, or (a mask token, a bias listed twice) nothing does: no operation of its own."""
    return x


@rule(Dropout)
def dropout(_: Tape, block: Dropout, x: Value, around: Around) -> Value:
    """nn.Dropout in training."""
    return f.dropout(x, block.p)


@rule(Activation)
def activation(_: Tape, block: Activation, x: Value, around: Around) -> Value:
    """An activation of its own in a sequence."""
    return activate(block.function, x)


def activate(name: str, x: Value) -> Value:
    """ACT2FN[name](x) (transformers/activations.py)."""
    match name:
        case "gelu_new" | "gelu_fast" | "bloom_gelu":
            return {"gelu_new": gelu_new, "gelu_fast": gelu_fast, "bloom_gelu": bloom_gelu}[name](x)
        case "glu":
            return f.glu(x, 1)
        case "gelu_python":
            return f.mul(f.scale(x), f.shift(f.erf(f.scale(x))))
        case "silu" | "swish":
            return f.silu(x)
        case "relu" | "tanh" | "sigmoid":
            return {"relu": f.relu, "tanh": f.tanh, "sigmoid": f.sigmoid}[name](x)
        case "relu2":
            return f.squared(f.relu(x))
        case "quick_gelu":
            return f.mul(x, f.sigmoid(f.scale(x)))
        case "linear" | "identity" | "none":
            return x
        case _:
            return f.gelu(x)


def gelu_new(x: Value) -> Value:
    """NewGELUActivation: 0.5 * x * (1 + tanh(c * (x + 0.044715 * x.pow(3))))."""
    half = f.scale(x)
    return f.mul(half, f.shift(f.tanh(f.scale(f.add(x, f.scale(f.power(x)))))))


def gelu_fast(x: Value) -> Value:
    """FastGELUActivation: 0.5 * x * (1 + tanh(x * c * (1 + 0.044715 * x * x)))."""
    half = f.scale(x)
    return f.mul(half, f.shift(f.tanh(f.mul(f.scale(x), f.shift(f.mul(f.scale(x), x))))))


def bloom_gelu(x: Value) -> Value:
    """GeLUFunction: a function of its own that saves its input and works in many temporaries (modeling_bloom.py)."""
    node = record(x.tape, _bloom_gelu_backward, (x,), (x,))
    with x.tape.no_grad():
        half = f.scale(x)
        inner = f.mul(f.scale(x), f.shift(f.mul(f.scale(x), x)))
        out = f.mul(half, f.shift(f.tanh(inner)))
    out.node = node
    return out


def _bloom_gelu_backward(node: Node, g: Value) -> Gradients:
    """bloom_gelu_back."""
    (x,) = node.load()
    tanh = f.tanh(f.mul(f.scale(x), f.shift(f.mul(f.scale(x), x))))
    slope = f.mul(f.scale(x), f.mul(f.shift(f.mul(tanh, tanh)), f.shift(f.mul(f.scale(x), x))))
    slope = f.add(slope, f.scale(f.shift(tanh)))
    return (f.mul(slope, g),)
