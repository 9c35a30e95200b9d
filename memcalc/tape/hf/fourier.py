"""FNet: tokens mixed by a Fourier transform (modeling_fnet.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.relative import Fourier
from memcalc.tape import functions as f
from memcalc.tape.autograd import Gradients, Node, record
from memcalc.tape.rules import Around, rule

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Fourier)
def fourier(t: Tape, block: Fourier, x: Value, _: Around) -> Value:
    """FNetBasicFourierTransform.forward: torch.fft.fftn(hidden_states, dim=(1, 2)).real, a look at complex numbers."""
    return f.select(transformed(paired(x)), -1)


def paired(x: Value) -> Value:
    """Complex numbers, an fp32 pair each; of their gradient the real parts are looked at."""
    pairs = x.tape.new((*x.shape, 2), "fp32")
    pairs.node = record(x.tape, _paired_backward, (x,))
    return pairs


def _paired_backward(_: Node, g: Value) -> Gradients:
    return (f.select(g, -1),)


def transformed(pairs: Value) -> Value:
    """_fft_c2c: as large as what it reads, and so is its gradient."""
    out = pairs.tape.new(pairs.shape, pairs.dtype)
    out.node = record(pairs.tape, _transformed_backward, (pairs,))
    return out


def _transformed_backward(_: Node, g: Value) -> Gradients:
    return (g.tape.new(g.shape, g.dtype),)
