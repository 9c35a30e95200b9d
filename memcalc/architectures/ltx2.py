"""LTX-2: video and sound made together, by two streams of their own widths (Lightricks 2026)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from memcalc.architectures import architecture
from memcalc.architectures.diffusers import attention, denoiser, feed_forward
from memcalc.architectures.dit import bare_norm, projected_caption, time_embedder
from memcalc.blocks.base import Unused, repeat, sequence
from memcalc.blocks.basic import Linear, Norm, Raw
from memcalc.blocks.sounding import SoundStream, StreamBlock, StreamEnds, StreamTables, StreamTexts, TimeVectors

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.blocks.attention import Attention
    from memcalc.blocks.base import Block
    from memcalc.blocks.basic import NormKind
    from memcalc.dimensions import Dimensions
    from memcalc.model import Model

LTX2_TOKENS = 1024  # max_sequence_length of its pipeline
RATE = 24  # frames of video a second, as its pipeline has it
PREFIXES, STREAMS, BETWEEN = ("", "audio_"), ("video", "audio"), ("audio_to_video", "video_to_audio")

T = TypeVar("T")


@architecture("LTX2VideoTransformer3DModel")
def ltx2(c: Dimensions) -> Model:
    """LTX's layers twice over, for video and for sound, that read each other's tokens."""
    widths, frames, keyed = _widths(c), c.get("latents") or (16, 16, 24), c.use_keyframes_abs_pos_embedding
    sound = _sound(c, frames[0])
    tables = StreamTables(
        "", (*widths, c.audio_cross_attention_dim), (c.num_attention_heads, c.audio_num_attention_heads),
        c.rope_type == "split", sound,
    )  # fmt: skip
    return denoiser(
        c, tables, Linear("proj_in", c.in_channels, widths[0], bias=True),
        SoundStream("", Linear("audio_proj_in", c.audio_in_channels, widths[1], bias=True), sound, c.audio_in_channels),
        Unused("", (Raw("keyframes_abs_pos_embedding", (1, widths[0])),)) if keyed else None,
        *_times(c, widths), _texts(c, widths), repeat("transformer_blocks", c.num_layers, _block(c, widths)),
        _ends(c, widths),
        text=LTX2_TOKENS, image=(math.prod(frames), c.in_channels), scale=(32, 8),
    )  # fmt: skip


def _widths(c: Dimensions) -> tuple[int, int]:
    """Channels of the video's stream and of the sound's."""
    return c.num_attention_heads * c.attention_head_dim, c.audio_num_attention_heads * c.audio_attention_head_dim


def _sound(c: Dimensions, frames: int) -> int:
    """Tokens of sound that last as long as the video: so many of them a second (its pipeline, audio_latents_per_second)."""
    second: float = c.audio_sampling_rate / c.audio_hop_length / c.audio_scale_factor
    return round(((frames - 1) * 8 + 1) / RATE * second)


def _times(c: Dimensions, widths: tuple[int, int]) -> tuple[Block, ...]:
    """The time step's vectors: for each stream's layers, for reading the other's tokens, and (2.3) for the text."""
    (video, sound), prompted = widths, _prompted(c) and c.use_prompt_adaln_single
    sizes = {
        "time_embed": (video, 9 if c.cross_attn_mod else 6), "audio_time_embed": (sound, 9 if c.audio_cross_attn_mod else 6),
        **({"prompt_adaln": (video, 2), "audio_prompt_adaln": (sound, 2)} if prompted else {}),
        "av_cross_attn_video_scale_shift": (video, 4), "av_cross_attn_video_a2v_gate": (video, 1),
        "av_cross_attn_audio_scale_shift": (sound, 4), "av_cross_attn_audio_v2a_gate": (sound, 1),
    }  # fmt: skip
    return tuple(
        TimeVectors(name, sequence(time_embedder(width), name="emb"), Linear("linear", width, count * width, bias=True))
        for name, (width, count) in sizes.items()
    )


def _prompted(c: Dimensions) -> bool:
    """Whether the text's states are modulated, too."""
    return bool(c.cross_attn_mod or c.audio_cross_attn_mod)


def _texts(c: Dimensions, widths: tuple[int, int]) -> StreamTexts:
    if not c.use_prompt_embeddings:
        return StreamTexts("", (), (c.cross_attention_dim, c.audio_cross_attention_dim))
    into = _both(lambda i: projected_caption(f"{PREFIXES[i]}caption_projection", c.caption_channels, widths[i]))
    return StreamTexts("", into, (c.caption_channels, c.caption_channels))


def _both(make: Callable[[int], T]) -> tuple[T, T]:
    """The video's and the sound's."""
    return make(0), make(1)


def _block(c: Dimensions, widths: tuple[int, int]) -> StreamBlock:
    kind: NormKind = "rms" if c.norm_elementwise_affine else "rms-no-weight"
    names = [(name, f"audio_{name}") for name in ("norm1", "norm2", "norm3")]
    names.insert(2, ("audio_to_video_norm", "video_to_audio_norm"))
    norms = tuple((Norm(a, widths[0], kind, "t5"), Norm(b, widths[1], kind, "t5")) for a, b in names)
    rows = (9 if c.cross_attn_mod else 6), (9 if c.audio_cross_attn_mod else 6)
    texts, biases = (c.cross_attention_dim, c.audio_cross_attention_dim), (c.ff_bias, c.audio_ff_bias)
    own, other = (
        (c.num_attention_heads, c.attention_head_dim),
        (c.audio_num_attention_heads, c.audio_attention_head_dim),
    )
    gates, kinds = (c.gated_attn, c.audio_gated_attn), (own, other)

    def mixer(i: int, name: str, source: int = 0, *, across: bool = False) -> Attention:
        count, dim = other if across else kinds[i]
        gate = (Linear("to_gate_logits", widths[i], count, bias=True),) if gates[i] else ()
        return attention(
            name, widths[i], count, dim, source, bias=c.attention_bias, out_bias=c.attention_out_bias, before=gate,
            q_norm=Norm("norm_q", count * dim, "rms", "olmo2"), k_norm=Norm("norm_k", count * dim, "rms", "olmo2"),
            formula="ltx2",
        )  # fmt: skip

    return StreamBlock(
        "", norms, _both(lambda i: mixer(i, f"{PREFIXES[i]}attn1")), _both(lambda i: mixer(i, f"{PREFIXES[i]}attn2", texts[i])),
        _both(lambda i: mixer(i, f"{BETWEEN[i]}_attn", widths[1 - i], across=True)),
        _both(lambda i: feed_forward(f"{PREFIXES[i]}ff", widths[i], act=c.activation_fn, bias=biases[i])),
        _both(lambda i: Raw(f"{PREFIXES[i]}scale_shift_table", (rows[i], widths[i]))),
        _both(lambda i: Raw(f"{PREFIXES[i]}prompt_scale_shift_table", (2, widths[i]))) if _prompted(c) else (),
        _both(lambda i: Raw(f"{STREAMS[i]}_a2v_cross_attn_scale_shift_table", (5, widths[i]))),
    )  # fmt: skip


def _ends(c: Dimensions, widths: tuple[int, int]) -> StreamEnds:
    outs = c.get("out_channels") or c.in_channels, c.get("audio_out_channels") or c.audio_in_channels
    return StreamEnds(
        "", _both(lambda i: Raw(f"{PREFIXES[i]}scale_shift_table", (2, widths[i]))), _both(lambda i: bare_norm(widths[i])),
        _both(lambda i: Linear(f"{PREFIXES[i]}proj_out", widths[i], outs[i], bias=True)), ("time_embed", "audio_time_embed"),
    )  # fmt: skip
