"""Denoisers of diffusers: what they are given, their conditioning vector, and the loss."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Stack
from memcalc.blocks.basic import Embedding, Linear, Norm
from memcalc.blocks.diffusion import Condition, Modulate, Sample
from memcalc.blocks.fusing import FusedTexts
from memcalc.blocks.hidream import LayerTexts
from memcalc.blocks.leading import LeadingRow
from memcalc.blocks.mochi import PooledTime
from memcalc.blocks.prior import PriorRow
from memcalc.blocks.sounding import StreamTexts
from memcalc.blocks.streams import PaddedTokens, TokenRefiner
from memcalc.tape import functions as f
from memcalc.tape.hf.dit import stream_modulated
from memcalc.tape.hf.layers import under_name
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.blocks.base import Block
    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


class Scene:
    """What the blocks of a denoiser hand to each other beside the stream.

    `vector` is the conditioning vector [batch, width], `sizes` the maps that are read as tokens just now, `skips` what
    a UNet keeps on its way down, `used` the ones that the level on its way up has taken. `chunks` are the vectors of the
    last modulation, `shared` those of all layers, `rotary` the tables; `pieces` are parts of a vector.
    """

    def __init__(self) -> None:
        self.vector: Value | None = None
        self.shown: Value | None = None  # which tokens are of the image
        self.whole: Value | None = None  # of two times, where `vector` is the first one's half
        self.sizes: list[tuple[int, ...]] = []
        self.map: tuple[int, ...] = ()  # the last of them
        self.maps: dict[int, tuple[int, ...]] = {}  # each by how many tokens it makes
        self.skips: list[Value] = []
        self.used: list[Value] = []
        self.chunks: list[Value] = []
        self.shared: Value | None = None
        self.made: dict[str, Value] = {}  # shared by name, where there are several
        self.rotary: tuple[Value, Value] | None = None
        self.tables: dict[int, Value] = {}  # by how many tokens they are for
        self.controls: list[Value] = []  # what a ControlNet adds
        self.mask: Value | None = None  # of the text's padding
        self.control: Value | None = None  # the stream that steers this one, or what it yields last
        self.stream: Value | None = None  # that it begins with
        self.places: Value | None = None  # added in every layer
        self.texts: list[Value] = []  # of every layer's own
        self.turning: Value | None = None  # a table of two by two numbers
        self.hints: list[Value] = []
        self.pair: Value | None = None  # vectors of a layer's two streams
        self.pieces: list[Value] = []
        self.turns = 0  # channels of tables that are copied from the host
        self.beside: Value | None = None  # what a second stream yields
        self.frames = 1  # of a video whose frames stand as images in the batch
        self.image = 0  # states of an image before the text's


def denoise(t: Tape, model: Model) -> tuple[Value, Value]:
    """mse_loss(model(latents, time step, text), target), the target as large as the output: (loss, output)."""
    s = t.setting
    dtype, around = s.inputs or s.weights, Around()
    x = t.given((s.batch, *model.image), dtype)
    around.ready, around.scene = True, Scene()
    width = text_width(model.body)
    if width and s.seq:
        around.encoder = t.given((s.batch, s.seq, width), dtype)
    out = body(t, model.body, x, around)
    loss = f.mse_loss(out, t.given(out.shape, dtype))
    beside = around.scene.beside
    return (loss if beside is None else f.add(loss, f.mse_loss(beside, t.given(beside.shape, s.weights)))), out


def body(t: Tape, block: Block, x: Value, around: Around) -> Value:
    """The model's forward, whose local variables go when it returns; what layers read first has the name of their outputs.

    What the last norm reads keeps its name until its output is modulated, mostly.
    """
    parts, read = block.parts(), None
    for part, following in zip(parts, (*parts[1:], None), strict=False):
        if isinstance(part, Stack) and t.sharder is None:
            given = [x]
            del x
            x = under_name(t, part, given, around)
            continue
        if isinstance(part, Modulate) and part.once:
            given = [x]
            del x
            x, read = stream_modulated(given, around), None
            continue
        kept = x if isinstance(following, Modulate) and not following.apart else None
        x = run(t, part, x, around)
        read = kept
    del read
    around.scene.used.clear()
    around.named.clear()
    return x


def text_width(block: Block) -> int:
    """Channels of the text states that a model reads: what its first projection of them, or cross attention, takes."""
    return next((width for width in _text_widths(block) if width), 0)


def _text_widths(block: Block) -> Iterator[int]:
    if isinstance(block, Condition) and block.tokens:
        first = block.blocks[0]
        yield first.inputs if isinstance(first, Linear) else getattr(first, "width", 0)
    elif isinstance(block, PaddedTokens):
        yield getattr(block.blocks[0], "width", 0) if block.text else 0
    elif isinstance(block, TokenRefiner) and isinstance(block.into, Linear):
        yield block.into.inputs
    elif isinstance(block, StreamTexts):
        yield block.widths[0]
    elif isinstance(block, LayerTexts):
        yield block.widths[1]
    elif isinstance(block, FusedTexts | LeadingRow | PriorRow):
        yield block.text
    elif isinstance(block, PooledTime) and isinstance(block.caption, Linear):
        yield block.caption.inputs
    elif isinstance(block, Attention) and block.cross and isinstance(block.k, Linear):
        yield block.k.inputs
    else:
        for _, part in block.groups():
            yield from _text_widths(part)


@rule(Condition)
def condition(t: Tape, block: Condition, x: Value, around: Around) -> Value:
    """The text's states projected; or a vector made of the time step, or of what is given, added to the others."""
    if block.image and around.encoder is not None:
        width = next(part.width for part in block.blocks if isinstance(part, Norm))
        made = through(t, block, t.given((x.shape[0], block.image, width), t.setting.weights), around)
        around.named.append(made)
        around.encoder, around.scene.image = f.cat((made, around.encoder), 1), block.image
        return x
    if block.makes:
        linear, *rest = block.blocks
        made = run(t, linear, given(t, block, x.shape[0]), around)
        around.encoder = f.reshape(made, x.shape[0], block.makes, -1)
        around.encoder = through(t, replace(block, blocks=tuple(rest)), around.encoder, around)
        return x
    if block.tokens:
        assert around.encoder is not None  # noqa: S101 - a model with text is given some
        around.encoder = through(t, block, around.encoder, around)
        return x
    made = through(t, block, given(t, block, x.shape[0]), around)
    scene = around.scene
    if scene.vector is not None and made.shape[-1] != scene.vector.shape[-1]:
        scene.pieces.append(f.reshape(made, x.shape[0], -1))
        if sum(piece.shape[-1] for piece in scene.pieces) < scene.vector.shape[-1]:
            return x
        made, scene.pieces = f.cat(scene.pieces), []
    scene.vector = made if scene.vector is None else f.add(scene.vector, made)
    return x


def given(t: Tape, block: Condition, batch: int) -> Value:
    """What a vector is made of: class labels, something given, or sinusoids of the time step or other numbers."""
    if isinstance(block.blocks[0], Embedding):
        return t.given((batch,), "int64", ".class_labels")
    first = next((part for part in block.blocks if isinstance(part, Linear)), None)
    if first is None:  # Fourier features (time_embedding_type)
        raise LookupError("there is no rule for what this condition is made of")
    if block.given:
        return t.given((batch, first.inputs), t.setting.weights, f".{block.named}" if block.named else "")
    return sinusoids(t, batch * block.rows, first.inputs)


def through(t: Tape, block: Condition, x: Value, around: Around) -> Value:
    """The blocks of a condition, one after the other; a table of classes asks for no gradient that it need not have."""
    for part in block.blocks:
        if isinstance(part, Embedding):
            with inside(t, part):
                x = f.embedding(x, t.weight("weight", (part.rows, part.width)))
        else:
            x = run(t, part, x, around)
    return x


def sinusoids(t: Tape, batch: int, width: int) -> Value:
    """get_timestep_embedding: sines and cosines of the time steps, in fp32, cast to the model's dtype."""
    t.given((batch,), "int64", ".timestep")
    angles = t.new((batch, width // 2), "fp32")
    waves = f.cat((f.scale(angles), f.scale(angles)))
    del angles
    return f.to(f.clone(waves), t.setting.weights)


@rule(Sample)
def sample(t: Tape, block: Sample, x: Value, around: Around) -> Value:
    """DiagonalGaussianDistribution: mean + exp(logvar / 2) * noise (diffusers, autoencoders/vae.py)."""
    mean, logarithm = f.chunk(x, 2, 1)
    logarithm = f.clamp(logarithm)
    deviation, _variance = f.exp(f.scale(logarithm)), f.exp(logarithm)
    return f.add(mean, f.mul(deviation, t.new(mean.shape, x.dtype)))
