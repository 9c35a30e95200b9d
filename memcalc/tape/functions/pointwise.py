"""Pointwise functions: what each saves and what its backward formula allocates (tools/autograd/derivatives.yaml)."""

from __future__ import annotations

from memcalc.tape.autograd import Formula, Gradients, Node, record, save
from memcalc.tape.functions.arithmetic import binary, mul, result
from memcalc.tape.functions.casts import upper
from memcalc.tape.values import Value, broadcast, dense_like, promoted, stretched


def _of_input(formula: Formula, x: Value) -> Value:
    return result(x, record(x.tape, formula, (x,), (x,)))


def _of_output(formula: Formula, x: Value) -> Value:
    node = record(x.tape, formula, (x,))
    out = result(x, node)
    save(x.tape, node, out)
    return out


def _one_step(node: Node, g: Value) -> Gradients:
    """A backward kernel of its own: it reads what was saved and writes the gradient."""
    _saved = node.load()
    return (result(g, None),)


def silu(x: Value) -> Value:
    """SiLU, saving its input; relu6, hardswish, mish … are alike."""
    return _of_input(_one_step, x)


def log_sigmoid(x: Value) -> Value:
    """F.logsigmoid, saving its input."""
    return _of_input(_one_step, x)


def gelu(x: Value) -> Value:
    """GELU, saving its input."""
    return _of_input(_one_step, x)


def glu(x: Value, axis: int) -> Value:
    """F.glu: half of the channels times the sigmoid of the others; saves its input."""
    shape = (*x.shape[:axis], x.shape[axis] // 2, *x.shape[axis + 1 :])
    return result(x, record(x.tape, _glu_backward, (x,), (x,)), shape)


def _glu_backward(node: Node, g: Value) -> Gradients:
    (x,) = node.load()
    return (g.tape.new(x.shape, g.dtype),)


def tanh(x: Value) -> Value:
    """Tanh, saving its output."""
    return _of_output(_one_step, x)


def sigmoid(x: Value) -> Value:
    """1 / (1 + e^-x), saving its output."""
    return _of_output(_one_step, x)


def relu(x: Value) -> Value:
    """ReLU, saving its output."""
    return _of_output(_one_step, x)


def exp(x: Value) -> Value:
    """e^x, saving its output: the gradient is one product."""
    return _of_output(_one_step, upper(x))


def cosine(x: Value) -> Value:
    """cos, saving the input: grad * -sin(x), with the sine, its negative and their product at once."""
    return _of_input(_cosine_backward, x)


def sine(x: Value) -> Value:
    """sin, saving the input: grad * cos(x)."""
    return _of_input(_two_step, x)


def _cosine_backward(node: Node, g: Value) -> Gradients:
    (x,) = node.load()
    sine = result(x, None)
    negative = result(sine, None)
    out = binary(g, negative, None)
    del negative, sine
    return (out,)


def log(x: Value) -> Value:
    """The natural logarithm, saving its input: grad / x."""
    return _of_input(_one_step, upper(x))


def softplus(x: Value) -> Value:
    """Softplus, in fp32 under autocast; saves its input."""
    return _of_input(_one_step, upper(x))


def square(x: Value) -> Value:
    """x.pow(2): saves x; backward is grad * (2 * x.pow(1)), three tensors at once."""
    return _of_input(_power_backward, upper(x))


def power(x: Value) -> Value:
    """x.pow(n): as with 2."""
    return _of_input(_power_backward, upper(x))


def squared(x: Value) -> Value:
    """torch.square(x): pow(2) under a name that autocast doesn't list, so that it stays in the dtype of x."""
    return _of_input(_power_backward, x)


def _power_backward(node: Node, g: Value) -> Gradients:
    (x,) = node.load()
    power = result(x, None)
    twice = result(power, None)
    out = binary(g, twice, None)
    del twice, power
    return (out,)


def absolute(x: Value) -> Value:
    """|x|, saving its input: grad * sgn(x)."""
    return _of_input(_two_step, x)


def square_root(x: Value) -> Value:
    """sqrt(x), saving its output: grad / (2 * result)."""
    return _of_output(_two_step, x)


def _two_step(node: Node, g: Value) -> Gradients:
    (x,) = node.load()
    twice = result(x, None)
    return (binary(g, twice, None),)


def rsqrt(x: Value) -> Value:
    """1 / sqrt(x), saving its output: -0.5 * grad * result.pow(3)."""
    return _of_output(_rsqrt_backward, upper(x))


def _rsqrt_backward(node: Node, g: Value) -> Gradients:
    (out,) = node.load()
    half = result(g, None)
    cube = result(out, None)
    made = binary(half, cube, None)
    del cube, half
    return (made,)


def erf(x: Value) -> Value:
    """The error function, saving its input: 2 / sqrt(pi) * exp(-x.pow(2)) * grad, with all of its parts at once."""
    return _of_input(_erf_backward, x)


def _erf_backward(node: Node, g: Value) -> Gradients:
    (x,) = node.load()
    parts = [result(x, None) for _ in range(4)]
    out = binary(g, x, None)
    parts.clear()
    return (out,)


def clamp(x: Value) -> Value:
    """Saves its input: the gradient is where(mask, grad, 0) over a boolean mask."""
    return _of_input(_clamp_backward, x)


def clamp_(x: Value) -> Value:
    """x.clamp_(): in place; a copy of what x was is saved."""
    node = record(x.tape, _clamp_backward, (x,), (result(x, None),) if x.node else ())
    return Value(x.tape, x.storage, x.shape, x.dtype, x.strides, node or x.node, 0 if node else x.slot)


def _clamp_backward(node: Node, g: Value) -> Gradients:
    (x,) = node.load()
    low = result(x, None, dtype="bool")
    mask = result(x, None, dtype="bool")
    out = result(g, None)
    del low, mask
    return (out,)


def maximum(a: Value, b: Value) -> Value:
    """torch.max(a, b), or min: saves both; the gradient is halved where they are equal, and masked."""
    return binary(a, b, record(a.tape, _maximum_backward, (a, b), (b, a)))


def _maximum_backward(node: Node, g: Value) -> Gradients:
    _, a = node.load()
    first = _larger(g, a) if node.wants(0) else None
    return first, _larger(g, a) if node.wants(1) else None


def _larger(g: Value, a: Value) -> Value:
    half = result(g, None)
    equal = result(a, None, dtype="bool")
    out = result(g, None)
    beyond = result(a, None, dtype="bool")
    del half, equal, beyond
    return out


def where(condition: Value, a: Value, b: Value) -> Value:
    """torch.where, of the shape that all three are stretched to: saves the condition; each gradient is another where."""
    node = record(a.tape, _where_backward, (a, b), (condition,))
    shape = broadcast(a.shape, b.shape)
    whole = broadcast(shape, condition.shape)
    return binary(a, b, node) if whole == shape else result(a, node, whole, promoted(a.dtype, b.dtype))


def _where_backward(node: Node, g: Value) -> Gradients:
    _condition = node.load()
    second = result(g, None) if node.wants(1) else None
    return result(g, None) if node.wants(0) else None, second


def expm1(x: Value) -> Value:
    """e^x - 1, saving its output: grad * (result + 1)."""
    return _of_output(_two_step, upper(x))


def compare(x: Value) -> Value:
    """x > number: booleans."""
    return result(x, None, dtype="bool")


def masked_fill_(x: Value, mask: Value) -> Value:
    """x.masked_fill_(mask, number), saving the mask: no new storage, but one for the gradient."""
    node = record(x.tape, _one_step, (x,), (mask,))
    return Value(x.tape, x.storage, x.shape, x.dtype, x.strides, node or x.node, 0 if node else x.slot)


def masked_fill(x: Value, mask: Value) -> Value:
    """x.masked_fill(mask, number), saving the mask: a contiguous clone, filled."""
    out = x.tape.new(broadcast(x.shape, mask.shape), x.dtype)
    out.node = record(x.tape, _one_step, (x,), (mask,))
    return out


def where_filled(x: Value, mask: Value) -> Value:
    """torch.where(mask, x, number), saving the mask: a new tensor, laid out as both of them are."""
    shape = broadcast(x.shape, mask.shape)
    strides = stretched(shape, (mask.shape, mask.strides), (x.shape, x.strides))
    out = x.tape.new(shape, x.dtype, strides)
    out.node = record(x.tape, _one_step, (x,), (mask,))
    return out


def dropout(x: Value, p: float) -> Value:
    """F.dropout as the CPU build and every decomposed path run it: x * noise, with noise in the dtype of x.

    CUDA's fused kernel keeps a boolean mask instead (aten/src/ATen/native/Dropout.cpp, is_fused_kernel_acceptable).
    """
    if p <= 0 or x.tape.setting.evaluating:
        return x
    noise = x.tape.new(x.shape, x.dtype, dense_like(x.shape, x.strides))
    out = mul(x, noise)
    del noise  # before x, which Python's callers hold
    return out
