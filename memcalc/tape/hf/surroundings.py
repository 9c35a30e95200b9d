"""What a model makes before its layers run, for all of them: positions, masks, rotary tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from memcalc.blocks.attention import Attention
from memcalc.tape import functions as f
from memcalc.tape.hf import alibi
from memcalc.tape.hf.attention import eager_only
from memcalc.tape.hf.masks import bidirectional_mask, block_mask, built, causal_mask, local_mask, padded_mask, row_mask
from memcalc.tape.hf.rotary import cached_tables, rotary_tables, tables_of_axes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcalc.blocks.base import Block
    from memcalc.blocks.mla import Mla
    from memcalc.tape.recorder import Tape
    from memcalc.tape.rules import Around
    from memcalc.tape.values import Value


MASKED_BY_BIAS = frozenset({"falcon", "mpt"})  # formulas whose masks are made with their biases
UNMASKED = MASKED_BY_BIAS | {"openai-gpt", "canine-local"}  # and whose masks are buffers


def prepare(t: Tape, layers: Block, x: Value, around: Around) -> None:
    """LlamaModel.forward between the embedding and the layers; the embedding is held until the model returns.

    Where it adds positions to it, the sum is called what the layers' outputs are.
    """
    around.ready = True
    placed = around.placed is not None and around.placed == t.path.rpartition(".")[0]
    t.held += [] if around.holds or placed else [x]
    mixers = [mixer for mixer in attentions(layers) if not (isinstance(mixer, Attention) and mixer.cross)]
    batch, seq = x.shape[0], x.shape[1] * (t.setting.ways.spread if t.setting.ways else 1)
    tables = dict.fromkeys(table for mixer in mixers if (table := rotary(mixer))[1])
    if tables and around.positions is None:
        around.positions = f.shift(t.new((seq,), "int64"))
    first = mixers[0] if mixers else None
    masks(t, mixers, x, seq, around)
    if isinstance(first, Attention) and (first.formula in MASKED_BY_BIAS or first.alibi):
        alibi.surround(t, first, x, around)
    if any(layer.__class__.__name__ == "Hybrid" for _, layer in layers.groups()):
        around.original = f.clone(x)
    for kind, dim, wide in tables:
        axes = kind == "axes"  # each sequence's tokens have positions of their own, on three axes, or in `each` one
        make = cached_tables if "rope-cache" in t.setting.fused else tables_of_axes if axes else rotary_tables
        rows = batch if axes or kind.startswith("each ") else 1
        around.ropes[kind] = around.rotary = make(t, rows, seq, dim, "fp32" if wide else x.dtype)


def masks(t: Tape, mixers: list[Attention | Mla], x: Value, seq: int, around: Around) -> None:
    """The masks of all windows that a model's attentions see, and those that some of them ask for besides."""
    first, batch, attention = mixers[0] if mixers else None, x.shape[0], t.setting.attention
    formula = first.formula if isinstance(first, Attention) else ""
    dtype = bare(t, x) if formula == "bloom" else made_for(t, first, x)
    if formula == "merged":
        from memcalc.tape.hf.merged import merged_masks  # noqa: PLC0415 - few models have them

        around.masks = merged_masks(t, dict.fromkeys(sees(mixer) for mixer in mixers), x, around)
        return
    seen = dict.fromkeys((window, True, eager_only(first, attention)) for window in t.masks) if first else {}
    seen |= dict.fromkeys((sees(mixer), mixer.causal, eager_only(mixer, attention)) for mixer in mixers)
    for window, causal, eager in () if formula in UNMASKED else seen:
        if causal:
            positions = tells_positions(mixers[0])
            around.masks[window] = causal_mask(t, batch, seq, dtype, window, eager=eager, positions=positions)
        else:
            around.masks[window] = bidirectional_mask(t, batch, seq, x.dtype, window, eager=eager)
    indexed = any(getattr(mixer, "indexer", None) for mixer in mixers)
    around.chooses = indexed and any(getattr(mixer, "hands_on", False) for mixer in mixers)
    if indexed and attention == "sdpa" and not runs_eagerly(mixers):  # it is needed as a tensor
        around.masks[0] = built(t, batch, seq, seq, x.dtype, eager=False)
    if around.sighted:
        eagerly = attention == "eager"
        made = [window for window in around.masks if window or around.sighted != "windows"]
        around.masks |= {window: _of_each(t, built(t, batch, seq, seq, x.dtype, eager=eagerly)) for window in made}
    if formula in _BLOCKED and isinstance(first, Attention):
        around.masks[0] = _BLOCKED[formula](t, first, x)
    if formula == "fsmt" and isinstance(first, Attention):
        from memcalc.tape.hf.seq2seq import triangle  # noqa: PLC0415 - it imports this file

        around.masks[0] = triangle(t, first, x)
    if isinstance(first, Attention) and first.padded and not around.masks[first.window]:
        around.masks[first.window] = made_anyway(t, first, x, seq)


def _of_each(t: Tape, mask: Value) -> Value:
    """A mask that differs from sequence to sequence, by where their images are (blockwise_overlay)."""
    return t.new(mask.shape, mask.dtype)


_BLOCKED = {"longt5-local": local_mask, "big-bird": block_mask}  # masks of blocks, made once for all layers


def made_anyway(t: Tape, first: Attention, x: Value, seq: int) -> Value | None:
    """The mask that a model makes also where nothing asks for one: of padding, of every key alone, or the causal one."""
    eagerly = eager_only(first, t.setting.attention)
    if first.padded == "rows":
        return row_mask(t, x.shape[0], seq)
    if first.padded == "always":
        return built(t, x.shape[0], seq, seq, x.dtype, eager=eagerly)
    return padded_mask(t, x.shape[0], seq, made_for(t, first, x), eager=eagerly)


def made_for(t: Tape, first: Attention | Mla | None, x: Value) -> str:
    """The dtype of the embeddings that a mask is made of: a decoder's before it norms them, which autocast widens (BART).

    Embeddings that are summed up are wide before that (Dia).
    """
    before = isinstance(first, Attention) and first.causal and first.padded is True and first.formula != "dia"
    return t.setting.weights if before else x.dtype


def bare(t: Tape, x: Value) -> str:
    """The dtype of BLOOM's embeddings ahead of their norm, which autocast widens: masks are made for that."""
    outer = t.path.rpartition(".")[0]
    name = f"{outer}.word_embeddings.weight" if outer else "word_embeddings.weight"
    return t.weights.of(name)[0] if t.weights.find(name) else x.dtype


def handed_to(layer: Block, around: Around) -> Around:
    """What a layer is given, and its checkpoint keeps: the mask and the tables of its own kind, where there are several."""
    given = around.copy()
    mixers = list(attentions(layer)) if len(around.masks) > 1 or len(around.ropes) > 1 else []
    if mixers:
        windows, kinds = {sees(mixer) for mixer in mixers}, {rotary(mixer)[0] for mixer in mixers}
        given.masks = {window: mask for window, mask in around.masks.items() if window in windows}
        given.ropes = {kind: tables for kind, tables in around.ropes.items() if kind in kinds}
        given.rotary = next(iter(given.ropes.values()), None)
    return given


def sees(mixer: Attention | Mla) -> int:
    """The window its mask is made for; GPT-Neo's local layers keep a mask of their own beside that for all."""
    return 0 if mixer.formula in OWN_MASKS else mixer.window


OWN_MASKS = frozenset(
    {"big-bird", "gpt_neo", "longt5-local", "longt5-transient-global"}
)  # of each layer, or each kind of layer


def tells_positions(mixer: Attention | Mla) -> bool:
    """Whether the model hands positions to what makes its masks; BLOOM and MPT have none, OPT keeps them for itself."""
    return not isinstance(mixer, Attention) or mixer.formula not in ("bloom", "mpt", "opt")


def runs_eagerly(mixers: Iterable[Attention | Mla], attention: str = "sdpa") -> bool:
    """Whether one of a model's attentions runs eagerly though another is asked for."""
    return any(eager_only(mixer, attention) for mixer in mixers)


def rotary(mixer: Attention | Mla) -> tuple[str, int, bool]:
    """The tables a layer rotates by: their kind, channels (0: none), and whether they stay in fp32."""
    if not isinstance(mixer, Attention):
        wide = mixer.rotary_fp32 or mixer.formula == "deepseek_v2"  # complex numbers, as wide as two in fp32
        return mixer.rotary_kind, mixer.rope, wide
    return mixer.rotary_kind, 0 if mixer.rotation == "own" else mixer.rotary_dim, mixer.rotary_fp32


def attentions(block: Block) -> Iterator[Attention | Mla]:
    """Every distinct attention below a block, in order."""
    if block.duty == "attention":
        yield cast("Attention | Mla", block)
    for _, part in block.groups():
        yield from attentions(part)
