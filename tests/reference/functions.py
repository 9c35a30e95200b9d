"""Record what torch's functions save and allocate: `python -m tests.reference.functions` (needs torch) writes functions.json.

Each runs alone on fake tensors, over `h`, which is x times a number and which nobody else holds. Recorded are the bytes
that are live once it has run, with its output; the most until then; the most while the backward pass runs from a gradient
like the output; what is left at the end with the output. Parameters, which were there before, are not counted; indices,
masks and targets are, which nobody else holds either.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.reference.live_bytes import LiveBytes

if TYPE_CHECKING:
    from collections.abc import Callable

R, C = 512, 256  # rows and columns of x
X, CHOSEN, MASK = ("fp32", R, C), ("int64", 256), ("bool", R, C)  # a dtype and a shape: a float learns
DTYPES = {"fp32": torch.float32, "frozen": torch.float32, "int64": torch.int64, "bool": torch.bool}

FUNCTIONS: dict[str, tuple[Callable[..., torch.Tensor], *tuple[tuple[Any, ...], ...]]] = {
    "scale": (lambda h: h * 2.0,), "shift": (lambda h: h + 1.0,), "neg": (torch.neg,), "silu": (F.silu,), "gelu": (F.gelu,),
    "tanh": (torch.tanh,), "sigmoid": (torch.sigmoid,), "relu": (F.relu,), "exp": (torch.exp,), "cosine": (torch.cos,),
    "sine": (torch.sin,),
    "log": (torch.log,), "softplus": (F.softplus,), "square": (lambda h: h.pow(2),), "power": (lambda h: h.pow(3),),
    "absolute": (torch.abs,), "square_root": (torch.sqrt,), "rsqrt": (torch.rsqrt,), "expm1": (torch.expm1,),
    "erf": (torch.erf,), "clamp": (lambda h: h.clamp(-1, 1),), "clamp_": (lambda h: h.clamp_(-1, 1),),
    "clone": (torch.clone,), "roll": (lambda h: torch.roll(h, 1, 0),), "glu": (lambda h: F.glu(h, -1),),
    "mean": (lambda h: h.mean(-1, keepdim=True),), "total": (lambda h: h.sum(-1, keepdim=True),),
    "softmax": (lambda h: h.softmax(-1),), "logsumexp": (lambda h: h.logsumexp(-1),), "cumsum": (lambda h: h.cumsum(-1),),
    "amax": (lambda h: h.amax(-1, keepdim=True),), "pad": (lambda h: F.pad(h, (0, 64)),), "topk": (lambda h: h.topk(8)[0],),
    "repeat_interleave": (lambda h: h.repeat_interleave(2, 0),), "to": (lambda h: h.to(torch.bfloat16),),
    "add": (torch.add, X), "subtract": (torch.sub, X), "mul": (torch.mul, X), "div": (torch.div, X),
    "maximum": (torch.maximum, X), "cat": (lambda h, k: torch.cat((h, k), -1), X), "mse_loss": (F.mse_loss, ("frozen", R, C)),
    "stack": (lambda h, k: torch.stack((h, k)), X), "where": (lambda h, m, k: torch.where(m, h, k), MASK, X),
    "mul_": (lambda h, k: h.mul_(k), ("frozen", R, C)), "add_": (lambda h, k: h.add_(k), X),
    "linear": (F.linear, ("fp32", 512, C)), "linear-frozen": (F.linear, ("frozen", 512, C)),
    "linear-bias": (F.linear, ("fp32", 512, C), ("fp32", 512)),
    "addmm": (lambda h, w, b: torch.addmm(b, h, w), ("fp32", C, 512), ("fp32", 512)),
    "layer_norm": (lambda h, w, b: F.layer_norm(h, (C,), w, b), ("fp32", C), ("fp32", C)),
    "embedding": (lambda _, w, i: F.embedding(i, w), ("fp32", 1000, C), ("int64", R)),
    "cross_entropy": (F.cross_entropy, ("int64", R)), "masked_fill": (lambda h, m: h.masked_fill(m, 0.0), MASK),
    "masked_fill_": (lambda h, m: h.masked_fill_(m, 0.0), MASK), "index": (lambda h, i: h[i], CHOSEN),
    "take_along": (lambda h, i: h.gather(1, i), ("int64", R, 32)),
    "index_copy": (lambda h, i, k: h.index_copy(0, i, k), CHOSEN, ("fp32", 256, C)),
    "index_add_": (lambda h, i, k: h.index_add_(0, i, k), CHOSEN, ("fp32", 256, C)),
    "put_": (lambda h, i, k: h.index_put_((i,), k), CHOSEN, ("fp32", 256, C)),
    "scatter": (lambda h, i, k: h.scatter_(0, i, k), ("int64", R, C), X),
}  # fmt: skip


def recorded(function: Callable[..., torch.Tensor], *specs: tuple[Any, ...]) -> list[int]:
    """Live with the output, the most until then, the most while the backward pass runs, what is left."""
    with FakeTensorMode(), LiveBytes() as count:
        learned = [_made(*spec) for spec in (X, *specs) if spec[0] == "fp32"]
        before = count.total
        count.restart()
        out = _run(function, learned, specs)
        held, most = count.total, count.phases["forward"]
        count.enter("backward")
        out.backward(torch.empty_like(out))
        return [figure - before for figure in (held, most, count.phases["backward"], count.total)]


def _run(
    function: Callable[..., torch.Tensor], learned: list[torch.Tensor], specs: tuple[tuple[Any, ...], ...]
) -> torch.Tensor:
    x, *rest = learned
    h = x * 2.0
    return function(h, *(rest.pop(0) if spec[0] == "fp32" else _made(*spec) for spec in specs))


def _made(dtype: str, *shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=DTYPES[dtype], requires_grad=dtype == "fp32")


if __name__ == "__main__":
    rows = {name: recorded(*what) for name, what in FUNCTIONS.items()}
    lines = ",\n".join(f'"{name}": {json.dumps(row)}' for name, row in rows.items())
    source = f"torch {torch.__version__} on fake tensors: tests/reference/functions.py"
    text = f'{{\n"source": "{source}",\n"figures": ["held", "forward", "backward", "left"],\n"functions": {{\n{lines}\n}}\n}}\n'
    Path(__file__).with_suffix(".json").write_text(text, "utf-8")
