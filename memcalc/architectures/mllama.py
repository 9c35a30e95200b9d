"""Llama 3.2 Vision: a Llama some of whose layers attend to image tiles instead of the text (Meta 2024)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.architectures import architecture
from memcalc.architectures.decoder import attention, causal_lm, gated_mlp, head_dim, interleaved, pre_norm_layer, rms
from memcalc.architectures.multimodal import image_text, tower
from memcalc.architectures.vision import attention as vision_attention
from memcalc.architectures.vision import grid, image, layer_norms, mlp, patches
from memcalc.blocks.base import Block, Sequence, residual, sequence, stack
from memcalc.blocks.basic import Embedding, Linear, Norm
from memcalc.blocks.image import Prefix
from memcalc.blocks.multimodal import ReadsImages
from memcalc.blocks.tiles import SightedRows, TanhGate, TiledImages, TiledTower, TilePatchPositions, TilePositions
from memcalc.model import Model

if TYPE_CHECKING:
    from memcalc.dimensions import Dimensions


@architecture("mllama")
def mllama(c: Dimensions) -> Model:
    """Image tiles through a two-stage ViT and a projection; the text reads them by cross attention."""
    v = c.vision_config
    project = Linear("multi_modal_projector", v.vision_output_dim, c.text_config.hidden_size, bias=True)
    images = TiledImages("", (tower(v, "vision_model"), project), image(v), 1, scattered=True, tiles=v.max_num_tiles)
    return image_text(c, images, tower(c.text_config, "language_model"), tie=False)


@architecture("mllama_text_model")
def mllama_text(c: Dimensions) -> Model:
    """Llama with gated cross-attention layers in between; eight more rows in the table, for image tokens."""
    crossing = set(c.get("cross_attention_layers") or [3, 8, 13, 18, 23, 28, 33, 38])

    def layer(crosses: bool) -> Block:
        return _cross_layer(c) if crosses else pre_norm_layer(c, attention(c, dropout=float(c.dropout)), gated_mlp(c))

    layers = interleaved("layers", [i in crossing for i in range(c.num_hidden_layers)], layer)
    embed = Embedding("embed_tokens", c.vocab_size + 8, c.hidden_size)
    return causal_lm(c, embed, layers, rms("norm", c.hidden_size))


def _cross_layer(c: Dimensions) -> Sequence:
    """x + tanh(gate) · cross(norm(x)), then the same with the MLP."""
    q, k = rms("q_norm", head_dim(c)), rms("k_norm", head_dim(c))
    mixer = attention(c, "cross_attn", rotary_dim=0, dropout=float(c.dropout), q_norm=q, k_norm=k)
    mixer = replace(mixer, cross=True, causal=False, formula="mllama-cross")
    first, second = (TanhGate(f"cross_attn_{name}_gate", (1,)) for name in ("attn", "mlp"))
    parts = (
        residual(rms("input_layernorm", c.hidden_size), mixer, first),
        residual(rms("post_attention_layernorm", c.hidden_size), gated_mlp(c), SightedRows(""), second),
    )
    return ReadsImages("", parts)


@architecture("mllama_vision_model")
def mllama_vision(c: Dimensions) -> Model:
    """A ViT over up to `max_num_tiles` tiles, then gated global layers; states of some layers put beside the last."""
    hidden, ratios = c.hidden_size, len(c.get("supported_aspect_ratios") or [0] * 8)
    local, far = _layer(c), _layer(c, gated=True)
    places = TilePatchPositions("gated_positional_embedding", ratios + 1, c.max_num_tiles, grid(c) + 1, hidden)
    body = TiledTower("", (
        patches(c, "patch_embedding", bias=False, looked=1), _tile_positions(c, "pre", ratios),
        Prefix("class_embedding", (hidden,)), places, Norm("layernorm_pre", hidden, "layer"),
        sequence(stack("layers", [local] * c.num_hidden_layers, "never"), name="transformer"),
        Norm("layernorm_post", hidden, "layer"), _tile_positions(c, "post", ratios),
        sequence(stack("layers", [far] * c.num_global_layers, "never"), name="global_transformer"),
    ), at=tuple(c.get("intermediate_layers_indices") or (3, 7, 15, 23, 30)))  # fmt: skip
    return Model(sequence(body), "encoder", image=image(c))


def _tile_positions(c: Dimensions, where: str, ratios: int) -> TilePositions:
    return TilePositions(f"{where}_tile_positional_embedding", ratios + 1, c.max_num_tiles, c.hidden_size)


def _layer(c: Dimensions, *, gated: bool = False) -> Sequence:
    mixer = vision_attention(c, "self_attn", bias=False, out_bias=False)
    first, second = layer_norms(c, "input_layernorm", "post_attention_layernorm")
    gates = (TanhGate("gate_attn", (1,)), TanhGate("gate_ffn", (1,))) if gated else (None, None)
    return sequence(residual(first, mixer, gates[0]), residual(second, mlp(c), gates[1]))
