"""Which masks a model builds before its layers run, and what building them takes (transformers/masking_utils.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f

if TYPE_CHECKING:
    from memcalc.blocks.attention import Attention
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Shape, Value


def causal_mask(
    t: Tape, batch: int, seq: int, dtype: str, window: int = 0, *, eager: bool = False, positions: bool = True
) -> Value | None:
    """create_causal_mask and create_sliding_window_causal_mask, for unpadded input.

    sdpa leaves the mask to the kernel's is_causal where no window is as short as the sequence; flash always does.
    Packed sequences are told apart by their positions, where the model hands them on.
    """
    attention = "eager" if eager else t.setting.attention
    if t.setting.packed and positions:
        return packed_mask(t, seq, dtype, attention, windowed=window > 0)
    ahead = t.prefix[0].shape[2] if t.prefix else 0  # virtual tokens, which every token sees
    if attention == "flash" or (attention == "sdpa" and not (ahead or 0 < window <= seq)):
        return None
    return built(t, batch, seq, seq + ahead, dtype, eager=attention == "eager", windowed=window > 0)


def packed_mask(t: Tape, seq: int, dtype: str, attention: str, *, windowed: bool = False) -> Value | None:
    """The mask of a row of several sequences, found by their positions (find_packed_sequence_indices): none for flash.

    and_masks: which sequence each token belongs to, then the causal mask of positions that begin anew; each is a
    boolean [1, 1, seq, seq], and joined to those before into another.
    """
    belongs = t.new((1, seq), "int64")
    if attention == "flash":
        return None
    indices = [t.new((size,), "int64") for size in (1, 1, seq, seq)]
    shape = (1, 1, seq, seq)
    allowed = joined(t, t.new((), "bool"), t.new(shape, "bool"))
    causal = within_window(t, shape) if windowed else t.new(shape, "bool")
    mask = joined(t, allowed, causal)
    del belongs, indices, allowed, causal
    if attention == "eager":
        zeros = t.new((), dtype), t.new((), dtype)
        mask = t.new(shape, dtype)
        del zeros
    return mask


def within_window(t: Tape, shape: tuple[int, ...]) -> Value:
    """sliding_window_causal_mask_function: what lies in the window, and the causal mask."""
    within = joined(t, t.new((), "bool"), t.new(shape, "bool"))
    return joined(t, within, t.new(shape, "bool"))


def joined(t: Tape, a: Value, b: Value) -> Value:
    """a & b."""
    return t.new(b.shape if len(b.shape) > len(a.shape) else a.shape, "bool")


def bidirectional_mask(
    t: Tape, batch: int, seq: int, dtype: str, window: int = 0, *, eager: bool = False
) -> Value | None:
    """create_bidirectional_mask: none for unpadded input, whatever the attention; a window needs one."""
    if not 0 < window <= seq or t.setting.attention == "flash":
        return None
    return built(t, batch, seq, seq, dtype, eager=eager or t.setting.attention == "eager")


def filled_mask(t: Tape, batch: int, seq: int, dtype: str) -> Value | None:
    """create_bidirectional_mask where a mask tells what fills up: [batch, 1, seq, seq], boolean; floats for eager."""
    if t.setting.attention == "flash":
        return None
    allowed = t.new((batch, 1, seq, seq), "bool")
    return t.new(allowed.shape, dtype) if t.setting.attention == "eager" else allowed


def padded_mask(t: Tape, batch: int, seq: int, dtype: str, *, eager: bool) -> Value | None:
    """create_causal_mask's boolean mask [batch, 1, seq, seq] where a mask of padding is given; floats for eager.

    On a device it is dropped again where nothing is padded at all; the recorder on fake tensors can't see that.
    """
    if t.setting.attention == "flash":
        return None
    ones = t.new((batch, seq), "fp32")
    padding = t.new(ones.shape, "bool")
    causal = t.new((1, 1, seq, seq), "bool")
    mask = t.new((batch, 1, seq, seq), "bool")
    del ones, padding, causal
    return t.new(mask.shape, dtype) if eager or t.setting.attention == "eager" else mask


def local_mask(t: Tape, block: Attention, x: Value) -> Value:
    """_get_local_attention_mask: [batch, 1, blocks, length, 3 length], of blocks and their neighbours (modeling_longt5.py)."""
    shape = local_shape(block, x)
    both = t.new((shape[0], *shape[2:]), "bool")
    distances = t.new(shape[3:], "int32")
    near = f.compare(f.scale(distances))
    allowed = t.new(shape, "bool")
    del near, distances, both
    return allowed


def local_shape(block: Attention, x: Value) -> Shape:
    """Of that mask."""
    return x.shape[0], 1, -(-x.shape[1] // block.window), block.window, 3 * block.window


def block_mask(t: Tape, block: Attention, x: Value) -> Value | None:
    """Of neighbouring blocks, in fp32 (create_masks_for_block_sparse_attn, modeling_big_bird.py), or the usual one of padding."""
    if too_short(block, x):
        return padded_mask(t, x.shape[0], x.shape[1], x.dtype, eager=True)
    size = block.window
    return t.new((x.shape[0], 1, x.shape[1] // size - 4, size, 3 * size), "fp32")


def too_short(block: Attention, x: Value) -> bool:
    """Whether a sequence has too few blocks to leave any out: then all is attended to."""
    return x.shape[1] <= (5 + 2 * block.group) * block.window


def row_mask(t: Tape, batch: int, seq: int) -> Value:
    """(1 - attention_mask) * min, of every key, in the weights' dtype (LayoutLMModel.forward)."""
    ones = f.to(t.new((batch, 1, 1, seq), "fp32"), t.setting.weights)
    return f.scale(f.shift(ones))


def built(t: Tape, batch: int, rows: int, columns: int, dtype: str, *, eager: bool, windowed: bool = False) -> Value:
    """sdpa_mask's boolean [batch, 1, rows, columns] (broadcast over the batch), eager_mask's floats, one for each."""
    indices = [t.new((size,), "int64") for size in (batch, 1, rows, columns)]
    shape = (1, 1, rows, columns)
    allowed = within_window(t, shape) if windowed else t.new(shape, "bool")
    del indices
    if not eager:
        return f.expand(allowed, batch, 1, rows, columns)
    zeros = t.new((), dtype), t.new((), dtype)
    mask = t.new((batch, 1, rows, columns), dtype)
    del zeros
    return mask
