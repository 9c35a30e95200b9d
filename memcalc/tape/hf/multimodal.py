"""Images and sounds that become tokens of a text: the tower, the projector, where their output goes among the embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.multimodal import Images, Matrix, PooledTokens, Sounds
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.rules import Around, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(Images)
def images(t: Tape, block: Images, x: Value, around: Around) -> Value:
    """get_image_features: one image for each sequence, or none. The text passes by.

    Of the hidden states only the one that is read is captured (select_hidden_states, utils/output_capturing.py); the
    tower's last one is held as part of its output until the model returns.
    """
    if not block.scattered:
        return x
    tower, *rest = block.blocks
    inner, outer_held = Around(), t.held
    inner.feature, inner.asks, t.held = block.feature, True, []
    y = run(t, tower, t.given((x.shape[0], *block.image), t.setting.weights), inner)
    y, inner.read = inner.read or y, None
    if block.without_first:
        y = f.narrow(y, 1, y.shape[1] - 1)
    for part in rest:
        y = run(t, part, y, Around())
    outer_held.extend(t.held)
    t.held = outer_held
    around.images = f.clone(y) if block.listed else y
    around.sighted = block.masked
    return x


@rule(Sounds)
def sounds(_: Tape, __: Sounds, x: Value, ___: Around) -> Value:
    """A batch of text alone: nothing is heard."""
    return x


@rule(Matrix)
def matrix(t: Tape, block: Matrix, x: Value, _: Around) -> Value:
    """torch.matmul(x, weight): tokens as rows, no copy of the weight for each image."""
    out = f.bmm(f.lower(f.reshape(x, 1, -1, x.shape[-1])), f.lower(f.unsqueeze(t.weight("", block.shape), 0)))
    return f.reshape(out, *x.shape[:-1], -1)


@rule(PooledTokens)
def pooled_tokens(_: Tape, block: PooledTokens, x: Value, around: Around) -> Value:
    """Gemma3MultiModalProjector.forward: as a map, pooled, as tokens again."""
    batch, width = x.shape[0], x.shape[-1]
    x = f.contiguous(f.reshape(f.transpose(x, 1, 2), batch, width, block.side, block.side))
    side = block.side // block.kernel
    return f.transpose(f.reshape(maps.average_pool(x, (side, side)), batch, width, -1), 1, 2)
