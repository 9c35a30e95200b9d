"""Which masks a model builds before its layers run, and what building them takes (transformers/masking_utils.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.tape import functions as f

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


def causal_mask(t: Tape, batch: int, seq: int, dtype: str, window: int = 0, *, eager: bool = False) -> Value | None:
    """create_causal_mask and create_sliding_window_causal_mask, for unpadded input.

    sdpa leaves the mask to the kernel's is_causal where no window is as short as the sequence; flash always does.
    """
    attention = "eager" if eager else t.setting.attention
    ahead = t.prefix[0].shape[2] if t.prefix else 0  # virtual tokens, which every token sees
    if attention == "flash" or (attention == "sdpa" and not (ahead or 0 < window <= seq)):
        return None
    return built(t, batch, seq, seq + ahead, dtype, eager=attention == "eager")


def bidirectional_mask(
    t: Tape, batch: int, seq: int, dtype: str, window: int = 0, *, eager: bool = False
) -> Value | None:
    """create_bidirectional_mask: none for unpadded input, whatever the attention; a window needs one."""
    if not 0 < window <= seq or t.setting.attention == "flash":
        return None
    return built(t, batch, seq, seq, dtype, eager=eager or t.setting.attention == "eager")


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


def built(t: Tape, batch: int, rows: int, columns: int, dtype: str, *, eager: bool) -> Value:
    """sdpa_mask's boolean [batch, 1, rows, columns] (broadcast over the batch), eager_mask's floats, one for each."""
    indices = [t.new((size,), "int64") for size in (batch, 1, rows, columns)]
    allowed = t.new((1, 1, rows, columns), "bool")
    del indices
    if not eager:
        return f.expand(allowed, batch, 1, rows, columns)
    zeros = t.new((), dtype), t.new((), dtype)
    mask = t.new((batch, 1, rows, columns), dtype)
    del zeros
    return mask
