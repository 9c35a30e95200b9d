"""What each function saves and allocates is what torch's own does: tests/reference/functions.json, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memcalc.tape import functions as f
from memcalc.tape.autograd import backward
from memcalc.tape.functions.inplace import put_
from tests.tape.tapes import live, parameter, peak, tape

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

RECORDED: dict[str, list[int]] = json.loads(
    (Path(__file__).parents[1] / "reference" / "functions.json").read_text("utf-8")
)["functions"]
R, C = 512, 256
NUMBER = 512  # bytes of a number that torch makes a tensor of: the 0 of `where(mask, grad, 0)`


def learns(h: Value, *shape: int) -> Value:
    return parameter(h.tape, *shape)


def fresh(h: Value, dtype: str, *shape: int) -> Value:
    return h.tape.new(shape, dtype)


FUNCTIONS: dict[str, Callable[[Value], Value]] = {
    "scale": f.scale, "shift": f.shift, "neg": f.neg, "silu": f.silu, "gelu": f.gelu, "tanh": f.tanh, "sigmoid": f.sigmoid,
    "relu": f.relu, "exp": f.exp, "cosine": f.cosine, "sine": f.sine, "log": f.log, "softplus": f.softplus, "square": f.square,
    "power": f.power, "absolute": f.absolute, "square_root": f.square_root, "rsqrt": f.rsqrt, "expm1": f.expm1,
    "erf": f.erf, "clamp": f.clamp, "clamp_": f.clamp_, "clone": f.clone, "roll": f.roll, "glu": lambda h: f.glu(h, 1),
    "mean": f.mean, "total": lambda h: f.total(h, -1, keep=True), "softmax": f.softmax,
    "logsumexp": f.logsumexp, "cumsum": f.cumsum, "amax": f.amax,
    "pad": lambda h: f.pad(h, -1, 64), "topk": lambda h: f.topk(h, 8)[0], "to": lambda h: f.to(h, "bf16"),
    "repeat_interleave": lambda h: f.repeat_interleave(h, 2, 0), "add": lambda h: f.add(h, learns(h, R, C)),
    "subtract": lambda h: f.subtract(h, learns(h, R, C)), "mul": lambda h: f.mul(h, learns(h, R, C)),
    "div": lambda h: f.div(h, learns(h, R, C)), "maximum": lambda h: f.maximum(h, learns(h, R, C)),
    "cat": lambda h: f.cat((h, learns(h, R, C))), "stack": lambda h: f.stack((h, learns(h, R, C))),
    "mse_loss": lambda h: f.mse_loss(h, fresh(h, "fp32", R, C)), "mul_": lambda h: f.mul_(h, fresh(h, "fp32", R, C)),
    "add_": lambda h: f.add_(h, learns(h, R, C)), "linear": lambda h: f.linear(h, learns(h, 512, C)),
    "where": lambda h: f.where(fresh(h, "bool", R, C), h, learns(h, R, C)),
    "linear-frozen": lambda h: f.linear(h, fresh(h, "fp32", 512, C)),
    "linear-bias": lambda h: f.linear(h, learns(h, 512, C), learns(h, 512)),
    "addmm": lambda h: f.addmm(h, learns(h, C, 512), learns(h, 512)),
    "layer_norm": lambda h: f.layer_norm(h, learns(h, C), learns(h, C)),
    "embedding": lambda h: f.embedding(fresh(h, "int64", R), learns(h, 1000, C)),
    "cross_entropy": lambda h: f.cross_entropy(h, fresh(h, "int64", R)),
    "masked_fill": lambda h: f.masked_fill(h, fresh(h, "bool", R, C)),
    "masked_fill_": lambda h: f.masked_fill_(h, fresh(h, "bool", R, C)),
    "index": lambda h: f.index(h, fresh(h, "int64", 256), (256, C)),
    "take_along": lambda h: f.take_along(h, fresh(h, "int64", R, 32), (R, 32)),
    "index_copy": lambda h: f.index_copy(h, fresh(h, "int64", 256), learns(h, 256, C)),
    "index_add_": lambda h: f.index_add_(h, fresh(h, "int64", 256), learns(h, 256, C)),
    "put_": lambda h: put_(h, fresh(h, "int64", 256), learns(h, 256, C)),
    "scatter": lambda h: f.scatter(h, fresh(h, "int64", R, C), learns(h, R, C)),
}  # fmt: skip


def run(t: Tape, function: Callable[[Value], Value]) -> Value:
    h = f.scale(parameter(t, R, C))
    return function(h)


@pytest.mark.parametrize("name", RECORDED)
def test_a_function_takes_what_torchs_takes(name: str) -> None:
    t = tape()
    out = run(t, FUNCTIONS[name])
    held, most, since = live(t), peak(t), len(t.events)
    gradient = t.new(out.shape, out.dtype)  # which the caller holds on to
    backward(t, [(out, gradient)])
    back = peak(t, since)
    del gradient
    found = [held, most, back, live(t)]
    assert found == pytest.approx(RECORDED[name], rel=0, abs=NUMBER)


def test_rows_chosen_by_index_are_added_into_zeros_in_place() -> None:
    """index_select_backward (FunctionsManual.cpp): out of place on fake tensors only, so that it can't be recorded.

    Held are the rows and their indices; going back the gradient that comes in, that of h, and that of x.
    """
    t, n = tape(), 4 * R * C
    rows, indices = n // 2, 8 * R // 2
    out = run(t, lambda h: f.gather(h, h.tape.new((R // 2,), "int64"), (R // 2, C)))
    assert live(t) == rows + indices
    since = len(t.events)
    gradient = t.new(out.shape, out.dtype)
    backward(t, [(out, gradient)])
    assert peak(t, since) == 2 * rows + 2 * n


@pytest.mark.parametrize(("name", "flops"), [
    ("linear", 2 * R * C * 512), ("linear-bias", 2 * R * C * 512), ("addmm", 2 * R * C * 512),
    ("mm", 2 * R * C * 512), ("bmm", 2 * 4 * (R // 4) * C * (R // 4)),
])  # fmt: skip
def test_a_product_multiplies_and_adds_once_an_element_and_goes_back_in_two(name: str, flops: int) -> None:
    """[m, k] times [k, n] is 2 m k n operations; the gradient of either factor takes as many."""
    products: dict[str, Callable[[Value], Value]] = {
        **FUNCTIONS,
        "mm": lambda h: f.mm(h, learns(h, C, 512)),
        "bmm": lambda h: f.bmm(f.view(h, 4, R // 4, C), learns(h, 4, C, R // 4)),
    }
    t = tape()
    out = run(t, products[name])
    backward(t, [(out, t.new(out.shape, out.dtype))])
    assert [made for _, made, _ in t.products] == [flops, 2 * flops]
