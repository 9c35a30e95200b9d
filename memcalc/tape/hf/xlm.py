"""XLM and FlauBERT (modeling_xlm.py, modeling_flaubert.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.xlm import PartLists
from memcalc.tape import functions as f
from memcalc.tape.hf.attention import project, separate
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Stack
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(PartLists)
def part_lists(t: Tape, block: PartLists, x: Value, around: Around) -> Value:
    """XLMModel.forward behind its embeddings: what a layer names lasts until the next one takes the name."""
    around.padding = t.new(x.shape[:2], "bool")
    x = masked(x, around.padding)
    layer = pre_norm if block.pre_norm else post_norm
    count = len(block.attentions.layers) if block.attentions else 0
    names: list[Value] = []
    for index in range(count):
        states = [x]
        del x
        x = masked(layer(t, block, index, states, names, around), around.padding)
    names.clear()
    return x


def post_norm(t: Tape, block: PartLists, index: int, states: list[Value], names: list[Value], around: Around) -> Value:
    """One layer; `names` are those that the one before has used."""
    attended = part(t, block.attentions, index, states[0], around)
    names[:1] = [attended]
    names[1:] = [f.dropout(attended, block.dropout)]
    x = part(t, block.first, index, f.add(states.pop(), names[1]), around)
    x = f.add(x, part(t, block.feeds, index, x, around))
    return part(t, block.second, index, x, around)


def pre_norm(t: Tape, block: PartLists, index: int, states: list[Value], names: list[Value], around: Around) -> Value:
    """The same with the norms before, whose output has a name, too."""
    names[2:] = [part(t, block.first, index, states[0], around)]
    names[:1] = [part(t, block.attentions, index, names[-1], around)]
    names[1:2] = [f.dropout(names[0], block.dropout)]
    x = f.add(states.pop(), names[1])
    names[2:] = [part(t, block.second, index, x, around)]
    return f.add(x, part(t, block.feeds, index, names[2], around))


def masked(x: Value, mask: Value) -> Value:
    """tensor *= mask.unsqueeze(-1).to(tensor.dtype)."""
    return f.mul_(x, f.to(f.unsqueeze(mask, -1), x.dtype))


def part(t: Tape, stack: Stack | None, index: int, x: Value, around: Around) -> Value:
    """The module of one layer in one of the lists."""
    assert stack is not None  # noqa: S101 - all four are there
    path = t.path
    with inside(t, stack):
        t.path = f"{t.path}.{index}"
        out = run(t, stack.layers[index], x, around)
    t.path = path
    return out


@rule(Attention, "xlm")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """MultiHeadAttention.forward: keys and values go through a cache, what is not to be seen is filled in place."""
    q, k, v = separate(t, block, x, around)
    k, v = f.cat((k,), 2), f.cat((v,), 2)  # behind those of earlier tokens, of which there are none
    t.held += (k, v)
    q = f.scale(q)
    scores = f.matmul(q, f.swap(k))
    assert around.padding is not None  # noqa: S101 - made before the layers
    hidden = f.expand(f.view(f.compare(around.padding), x.shape[0], 1, 1, -1), *scores.shape)
    scores = f.masked_fill_(scores, hidden)
    weights = f.to(f.softmax(f.to(scores, "fp32")), scores.dtype)
    weights = f.dropout(weights, block.dropout)
    out = f.contiguous(f.transpose(f.matmul(weights, v), 1, 2))
    return project(t, block, out, around)
