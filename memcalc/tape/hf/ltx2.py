"""LTX-2: two streams, each modulated for itself, that read the text and each other (diffusers, transformer_ltx2.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.sounding import SoundStream, StreamBlock, StreamEnds, StreamTables, StreamTexts, TimeVectors
from memcalc.tape import functions as f
from memcalc.tape.functions.inplace import addcmul_
from memcalc.tape.hf.diffusion import Scene, given
from memcalc.tape.hf.diffusion import through as conditioned
from memcalc.tape.hf.dit import by_head, modulated, text, through
from memcalc.tape.hf.lean_dit import padding, rotated
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

Tables = tuple["Value", "Value"]
ALONE, ACROSS = (0, 1), (2, 3)  # which tables rotate a stream's own tokens, and those for the other's


class Sounding(Scene):
    """What the blocks hand to each other besides: four pairs of tables, texts, vectors, and what attention reads just now."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[Tables] = []
        self.sound: Value | None = None
        self.texts: list[Value] = []
        self.embedded: dict[str, Value] = {}
        self.read: Value | None = None
        self.turns_of: tuple[Tables, Tables] | None = None
        self.masked = False


@rule(StreamTables)
def stream_tables(t: Tape, block: StreamTables, x: Value, around: Around) -> Value:
    """LTX2AudioVideoRotaryPosEmbed.forward, four times: cos and sin [batch, tokens, width], or by head, in fp32."""
    scene = around.scene = Sounding()
    batch, (video, sound, across) = x.shape[0], block.widths
    around.named.append(t.new((batch, 3, x.shape[1], 2), "fp32"))  # video_coords
    kinds = ((x.shape[1], video, 0), (block.sound, sound, 1), (x.shape[1], across, 0), (block.sound, across, 1))
    for tokens, width, stream in kinds:
        scene.pairs.append(
            (_table(t, block, batch, tokens, width, stream), _table(t, block, batch, tokens, width, stream))
        )
    return x


def _table(t: Tape, block: StreamTables, batch: int, tokens: int, width: int, stream: int) -> Value:
    if not block.split:
        return t.new((batch, tokens, width), "fp32")
    count = block.heads[stream]
    return f.transpose(t.new((batch, tokens, count, width // 2 // count), "fp32"), 1, 2)


@rule(SoundStream)
def sound_stream(t: Tape, block: SoundStream, x: Value, around: Around) -> Value:
    """audio_proj_in."""
    latents = t.given((x.shape[0], block.tokens, block.channels), t.setting.weights)
    around.scene.sound = run(t, block.into, latents, around)
    return x


@rule(TimeVectors)
def time_vectors(t: Tape, block: TimeVectors, x: Value, around: Around) -> Value:
    """LTX2AdaLayerNormSingle.forward: [batch, 1, vectors · width], and the embedded time step."""
    assert block.embed and block.linear  # noqa: S101, PT018 - it has both
    embedder = block.embed.parts()[0]
    with inside(t, block.embed), inside(t, embedder):
        vector = conditioned(t, embedder, given(t, embedder, x.shape[0]), around)  # type: ignore[arg-type]  # a Condition
    made = run(t, block.linear, f.silu(vector), around)
    around.scene.made[block.name] = f.reshape(made, x.shape[0], 1, -1)
    around.scene.embedded[block.name] = vector
    return x


@rule(StreamTexts)
def stream_texts(t: Tape, block: StreamTexts, x: Value, around: Around) -> Value:
    """The text's states for each stream; from here on the second stream is what goes from layer to layer beside the first."""
    scene, own = around.scene, text(around)
    scene.embedded = {
        name: value for name, value in scene.embedded.items() if name in ("time_embed", "audio_time_embed")
    }
    scene.texts = [own, t.given((*own.shape[:2], block.widths[1]), t.setting.weights)]
    for i, into in enumerate(block.projections):
        with inside(t, into):
            scene.texts[i] = conditioned(t, into, scene.texts[i], around)  # type: ignore[arg-type]  # a Condition
    around.encoder, scene.sound = scene.sound, None
    return x


def vectors(table: Value, made: Value) -> list[Value]:
    """get_mod_params: the table's rows plus the time step's vectors, each [batch, 1, width]."""
    batch, rows, width = made.shape[0], *table.shape
    both = f.add(f.unsqueeze(f.unsqueeze(table, 0), 0), f.reshape(made, batch, 1, rows, width))
    return list(f.unbind(both, 2))


@rule(StreamBlock)
def stream_block(t: Tape, block: StreamBlock, x: Value, around: Around) -> Value:
    """LTX2VideoTransformerBlock.forward; what has a name in it keeps that to its end."""
    streams, names, own = [x, text(around)], dict[tuple[str, int], "Value"](), list[list["Value"]]()
    for i, time in enumerate(("time_embed", "audio_time_embed")):
        own.append(vectors(_weight(t, block.tables[i]), around.scene.made[time]))
        names["normed", i] = run(t, block.norms[0][i], streams[i], around)
        names["normed", i] = modulated(names["normed", i], own[i][1], own[i][0])
        names["arguments", i] = names["normed", i]  # video_self_attn_args
        names["attended", i] = attend(t, block.mixers[i], names["normed", i], None, (i, i), around)
        streams[i] = f.add(streams[i], f.mul(names["attended", i], own[i][2]))
    _read_text(t, block, streams, own, names, around)
    _read_other(t, block, streams, names, around)
    for i in ALONE:
        names["normed", i] = modulated(run(t, block.norms[3][i], streams[i], around), own[i][4], own[i][3])
        names["fed", i] = through(t, block.feeds[i], names["normed", i], around)
        streams[i] = f.add(streams[i], f.mul(names["fed", i], own[i][5]))
    x, around.encoder = streams
    names.clear()
    return x


def _weight(t: Tape, table: Block) -> Value:
    return t.weight(table.name, table.shape)  # type: ignore[attr-defined]  # a Raw


def _read_text(
    t: Tape,
    block: StreamBlock,
    streams: list[Value],
    own: list[list[Value]],
    names: dict[tuple[str, int], Value],
    around: Around,
) -> None:
    """Cross attention to the text, whose states are modulated, too, where the layer has a table for them (2.3)."""
    prompts = [_prompt(t, block, i, streams[i].dtype, around) for i in ALONE] if block.prompts else []
    for i in ALONE:
        names["normed", i] = run(t, block.norms[1][i], streams[i], around)
        if len(own[i]) > 6:
            names["normed", i] = modulated(names["normed", i], own[i][7], own[i][6])
        read = around.scene.texts[i]
        if prompts:
            names["text", i] = read = modulated(read, prompts[i][1], prompts[i][0])
        names["attended", i] = attend(t, block.readers[i], names["normed", i], read, None, around)
        if len(own[i]) > 6:
            names["attended", i] = f.mul(names["attended", i], own[i][8])
        streams[i] = f.add(streams[i], names["attended", i])
        del read


def _prompt(t: Tape, block: StreamBlock, i: int, dtype: str, around: Around) -> list[Value]:
    """Shift and scale of the text: of the time step, or (use_prompt_adaln_single: false) the table alone."""
    table, made = _weight(t, block.prompts[i]), around.scene.made.get(("prompt_adaln", "audio_prompt_adaln")[i])
    if made is not None:
        return vectors(table, made)
    return list(f.unbind(f.unsqueeze(f.unsqueeze(f.to(table, dtype), 0), 0), 2))


def _read_other(
    t: Tape, block: StreamBlock, streams: list[Value], names: dict[tuple[str, int], Value], around: Around
) -> None:
    """audio_to_video_attn and video_to_audio_attn, of streams normed before either."""
    for i in ALONE:
        names["normed", i] = run(t, block.norms[2][i], streams[i], around)
    made, between, gates = around.scene.made, list[list["Value"]](), list["Value"]()
    for i, name in enumerate(("av_cross_attn_video_{}", "av_cross_attn_audio_{}")):
        table = _weight(t, block.cross_tables[i])
        between.append(vectors(f.narrow(table, 0, 4), made[name.format("scale_shift")]))
        gates += vectors(f.narrow(table, 0, 1), made[name.format(("a2v_gate", "v2a_gate")[i])])
    for i in ALONE:
        for j in ALONE:
            scale, shift = between[j][2 * i : 2 * i + 2]
            names["between", j] = modulated(names["normed", j], scale, shift)
        places = ACROSS if not i else ACROSS[::-1]
        names["crossed", i] = attend(t, block.crossing[i], names["between", i], names["between", 1 - i], places, around)
        streams[i] = f.add(streams[i], f.mul(gates[i], names["crossed", i]))
    names["between", 2], names["gates", 0], names["gates", 1] = names["between", 0], *gates


def attend(
    t: Tape, mixer: Attention, x: Value, read: Value | None, places: tuple[int, int] | None, around: Around
) -> Value:
    """The attention of a stream to its own tokens, or to what it reads; rotated by tables, else under a mask of padding."""
    scene = around.scene
    scene.read, scene.masked = read, places is None
    scene.turns_of = (scene.pairs[places[0]], scene.pairs[places[1]]) if places else None
    out = run(t, mixer, x, around)
    scene.read = None
    return out


@rule(Attention, "ltx2")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """LTX2AudioVideoAttnProcessor."""
    scene, read = around.scene, x if around.scene.read is None else around.scene.read
    mask = padding(t, block, read) if scene.masked else None
    gate = run(t, block.before[0], x, around) if block.before else None
    q, k, v = (
        run(t, part, source, around) for part, source in ((block.q, x), (block.k, read), (block.v, read)) if part
    )
    q, k = run(t, block.q_norm, q, around), run(t, block.k_norm, k, around)
    if scene.turns_of:
        q = turned(q, scene.turns_of[0])
        k = turned(k, scene.turns_of[1])
    q, k, v = (f.transpose(by_head(part, block.heads), 1, 2) for part in (q, k, v))
    out = f.transpose(f.attention(q, k, v, mask), 1, 2)
    out = f.to(f.reshape(out, *out.shape[:2], -1), q.dtype)
    if gate is not None:
        out = by_head(out, block.heads)
        gates = f.scale(f.sigmoid(gate))
        out = f.mul(out, f.unsqueeze(gates, -1))
        out = f.reshape(out, *out.shape[:2], -1)
    return run(t, block.out, out, around)


def turned(x: Value, tables: Tables) -> Value:
    """apply_interleaved_rotary_emb, or apply_split_rotary_emb where the tables are by head."""
    if len(tables[0].shape) == 3:
        return rotated(x, tables)
    cos, sin = tables
    batch, count, tokens, half = cos.shape
    parts = f.reshape(f.transpose(f.reshape(x, batch, tokens, count, -1), 1, 2), batch, count, tokens, 2, half)
    wide = f.to(parts, "fp32")
    first, second = f.narrow(wide, 3, 1), f.narrow(wide, 3, 1)
    cos, sin = f.unsqueeze(cos, 3), f.unsqueeze(sin, 3)
    out = f.mul(wide, cos)
    out = addcmul_(out, f.neg(sin), second)
    out = addcmul_(out, sin, first)
    out = f.transpose(f.reshape(out, batch, count, tokens, 2 * half), 1, 2)
    return f.to(f.reshape(out, batch, tokens, -1), x.dtype)


@rule(StreamEnds)
def stream_ends(t: Tape, block: StreamEnds, x: Value, around: Around) -> Value:
    """norm_out, proj_out and the sound's: what the sound's target is compared with is left beside."""
    outs: list[Value] = []
    for i, stream in enumerate((x, text(around))):
        embedded = around.scene.embedded[block.times[i]]
        table = f.unsqueeze(f.unsqueeze(_weight(t, block.tables[i]), 0), 0)
        both = f.add(table, f.reshape(embedded, x.shape[0], 1, 1, -1))
        shift, scale = f.select(both, 2), f.select(both, 2)
        y = run(t, block.norms[i], stream, around)
        y = modulated(y, scale, shift)
        outs.append(run(t, block.outs[i], y, around))
        around.named += both, y
    around.encoder, around.scene.beside = None, outs[1]
    return outs[0]
