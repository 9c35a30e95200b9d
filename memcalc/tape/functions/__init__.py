"""The torch functions that the rules call, by what they allocate and save; their names are torch's where one fits."""

from memcalc.tape.functions.lookup import cross_entropy, embedding, gather, index, mse_loss, topk
from memcalc.tape.functions.pointwise import (
    add,
    add_,
    clamp,
    compare,
    cosine,
    div,
    dropout,
    exp,
    gelu,
    log,
    lower,
    masked_fill,
    mul,
    neg,
    power,
    relu,
    rsqrt,
    scale,
    shift,
    sigmoid,
    silu,
    square,
    square_root,
    subtract,
    tanh,
    to,
    upper,
)  # fmt: skip
from memcalc.tape.functions.products import addmm, attention, baddbmm, bmm, conv, grouped_mm, linear, matmul, swap
from memcalc.tape.functions.reduce import batch_norm, group_norm, largest, layer_norm, mean, rms_norm, softmax, total
from memcalc.tape.functions.shaping import (
    cat,
    chunk,
    clone,
    contiguous,
    expand,
    narrow,
    pad,
    permute,
    reshape,
    roll,
    select,
    split,
    squeeze,
    stack,
    transpose,
    unbind,
    unsqueeze,
    view,
)  # fmt: skip

__all__ = [
    "add", "add_", "addmm", "attention", "baddbmm", "batch_norm", "bmm", "cat", "chunk", "clamp", "clone", "compare", "contiguous", "conv",
    "cosine", "cross_entropy", "div", "dropout", "embedding", "exp", "expand", "gather", "gelu", "group_norm", "grouped_mm", "index",
    "largest", "layer_norm", "linear", "log", "lower", "masked_fill", "matmul", "mean", "mse_loss", "mul", "narrow", "neg", "pad",
    "permute", "power", "relu", "reshape", "rms_norm", "roll", "rsqrt", "scale", "select", "shift", "sigmoid", "silu",
    "softmax", "split", "square", "square_root", "squeeze", "stack", "subtract", "swap", "tanh", "to", "topk", "total",
    "transpose", "unbind", "unsqueeze", "upper", "view",
]  # fmt: skip
