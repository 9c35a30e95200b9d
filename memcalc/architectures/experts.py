"""What mixtures of experts share: stacked experts, routers, a word for every layer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from memcalc.architectures.decoder import activation as activation_of
from memcalc.architectures.decoder import gated_mlp
from memcalc.blocks.base import Param
from memcalc.blocks.basic import Linear
from memcalc.blocks.mlp import Experts, LinearRouter, Moe, Router

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcalc.blocks.mlp import Reports
    from memcalc.dimensions import Dimensions

_RENAMED = {
    "mamba": "linear_attention",
    "attention": "full_attention",
    "deepseek_sparse_attention": "indexed_attention",
}


def stacked_experts(
    c: Dimensions,
    count: int,
    width: int,
    *,
    hidden: int = 0,
    bias: bool = False,
    transposed: bool = False,
    gated: bool = True,
    activation: str = "",
    formula: str = "",
) -> Experts:
    """Experts of `width` as transformers 5 stacks them: gate_up_proj [E, 2W, H] and down_proj [E, H, W].

    `transposed` ones are [E, H, 2W] and [E, W, H]; those that are not gated have up_proj [E, W, H] instead.
    """
    hidden = hidden or c.hidden_size
    first, inner = ("gate_up_proj", 2 * width) if gated else ("up_proj", width)
    shapes = {first: (count, inner, hidden), "down_proj": (count, hidden, width)}
    params = [Param(name, (e, i, o) if transposed else (e, o, i)) for name, (e, o, i) in shapes.items()]
    if bias:
        params += [Param(f"{name}_bias", (e, o)) for name, (e, o, _) in shapes.items()]
    act, how = activation or activation_of(c), str(c.get("experts_implementation") or "")
    return Experts("experts", count, width, tuple(params), gated, act, formula, how, transposed)


def router(c: Dimensions, count: int, name: str = "gate", **more: Any) -> Router:  # noqa: ANN401 - fields of Router
    """The scores of `count` experts, of which num_experts_per_tok are chosen."""
    return Router(name, c.hidden_size, count, c.num_experts_per_tok, **more)


def linear_router(c: Dimensions, count: int, name: str = "gate", **more: Any) -> LinearRouter:  # noqa: ANN401
    """The same as an nn.Linear."""
    return LinearRouter(name, c.hidden_size, count, c.num_experts_per_tok, **more)


def corrected_router(c: Dimensions, count: int, **more: Any) -> Router:  # noqa: ANN401
    """DeepSeek-V3's: a sigmoid in fp32, a correction that balances the load (arXiv:2412.19437)."""
    usual = {"scores": "sigmoid", "normalized": bool(c.get("norm_topk_prob", True)), "fp32": True}
    return router(c, count, **{**usual, "correction": "e_score_correction_bias", **more})


def mixture(c: Dimensions, gate: Router, width: int, name: str = "mlp", **more: Any) -> Moe:  # noqa: ANN401
    """The experts of `width` that the router chooses from; `more` are fields of the mixture.

    `prefix` goes before the name of the experts, where they are not in the module of the mixture.
    """
    experts = more.pop("experts", None) or stacked_experts(c, gate.experts, width)
    experts = replace(experts, name=f"{more.pop('prefix', '')}{experts.name}")
    whole = c.traits.leaf_mixture
    return Moe(name, gate, experts, top_k=gate.top_k, **{"reports": reports(c), "whole": whole, **more})


def reports(c: Dimensions) -> Reports:
    """What becomes of the routers' logits, where the config's `output_router_logits` asks for them.

    The cards of classes that balance the experts' load by a loss give `router_aux_loss_coef` a default.
    """
    if not c.get("output_router_logits"):
        return ""
    return "loss" if c.get("router_aux_loss_coef") is not None else "logits"


def noises(c: Dimensions, key: str = "router_jitter_noise") -> int:
    """How often the mixture's input is multiplied by noise: once where the config has any."""
    return int(float(c.get(key) or 0.0) > 0)


def shared_expert(c: Dimensions, width: int) -> dict[str, Any]:
    """Qwen's shared expert of `width` under the sigmoid of a gate, as fields of a mixture."""
    return {
        "shared": gated_mlp(c, "shared_expert", width),
        "shared_gate": Linear("shared_expert_gate", c.hidden_size, 1),
    }


def per_layer(c: Dimensions, key: str, default: Sequence[str], count: int = 0) -> list[str]:
    """A list with a word for every layer: the config's own, in today's words, or the default its class would make."""
    kinds = [_RENAMED.get(kind, kind) for kind in c.get(key) or default]
    if len(kinds) != (count or c.num_hidden_layers):
        raise ValueError(f"{key} names {len(kinds)} layers, but there are {count or c.num_hidden_layers}")
    return kinds
