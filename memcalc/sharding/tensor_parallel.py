"""Tensor parallelism: the part of every block that one rank holds (Shoeybi et al. 2019; Narayanan et al. 2021).

Queries, keys and values, gates and up projections are cut by columns, the projections behind them by rows (with their
bias whole), tables and heads by the vocabulary; norms, routers and down projections to a latent are whole everywhere. So are
the mixers of state-space and linear-attention layers in transformers' base_model_tp_plans (Jamba, Nemotron-H, Granite 4,
MiniMax, Kimi Linear); of gated delta nets the projections are cut by columns, and their outputs gathered (Qwen3-Next).
Experts are cut by the expert-tensor degree, and their number by the expert degree. What is left of a block is a block of
the same kind, so that tensors, ledger and tape of a rank follow from it as they do from the whole.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd
from typing import TYPE_CHECKING, Any

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Parallel, PostNorm, Recomputed, Residual, Sequence, Stack, Sum, mapped
from memcalc.blocks.basic import (
    Activation,
    Cast,
    Dropout,
    Embedding,
    Idle,
    Linear,
    Norm,
    ProductLinear,
    Raw,
    Scale,
    Select,
    Softcap,
    TransposedLinear,
)
from memcalc.blocks.mla import Mla
from memcalc.blocks.mlp import Mlp, Moe
from memcalc.blocks.multimodal import Images, Sounds, Unseen
from memcalc.blocks.parallel import Gather, GatherChannels, Scatter, SplitChannels
from memcalc.blocks.predicting import Predictor
from memcalc.blocks.ssm import GatedDelta, KimiDelta, Lightning, Mamba, Mamba2
from memcalc.dataclass import dataclass
from memcalc.errors import Fault
from memcalc.sharding.expert import divided_experts

if TYPE_CHECKING:
    from memcalc.ways import Ways

LINEARS = (Linear, TransposedLinear, ProductLinear)
FRAMES = (Sequence, Residual, PostNorm, Parallel, Sum, Stack, Recomputed)
TOWERS = (Images, Sounds, Unseen)  # whole on every rank
MIXERS = (Mamba, Mamba2, GatedDelta, Lightning)  # that have no heads to themselves on a rank
WHOLE = (Norm, Raw, Dropout, Idle, Activation, Cast, Scale, Softcap, Select)


@dataclass
class Cutter:
    """Cuts blocks `ways.tensor` ways; `faults` are what does not divide, each once. Equal blocks stay one value."""

    ways: Ways
    faults: dict[str, Fault]
    done: dict[int, tuple[Block, Block]]
    hybrid: bool = False  # whether there is attention, too, or experts: without, there is nothing to divide

    def cut(self, block: Block) -> Block:
        """The rank's part of a block."""
        known = self.done.get(id(block))
        if known is None:
            known = self.done[id(block)] = block, self._cut(block)
        return known[1]

    def _cut(self, block: Block) -> Block:
        if isinstance(block, TOWERS):
            return block
        made = self._divided(block)
        return self.spread(block, made) if self.ways.spread > 1 and self.ways.modules_of == "hf" else made

    def spread(self, block: Block, made: Block) -> Block:
        """The rank's part of a block between parts of the sequence: gathered before it, scattered behind it."""
        ranks = self.ways.spread
        if isinstance(block, Attention | Mla | Mlp | Moe):
            whole = self.ways.overlapped and not isinstance(block, Moe)
            return Sequence("", (Gather("", ranks, whole), made, Scatter("", ranks, whole)))
        if made is block:
            return made
        if isinstance(block, Embedding):
            return Sequence("", (made, Scatter("", ranks)))
        return Sequence("", (Gather("", ranks), made)) if isinstance(block, Linear) else made

    def _divided(self, block: Block) -> Block:
        if isinstance(block, Moe):
            return self.mixture(block)
        if isinstance(block, Predictor):
            made: Predictor = mapped(block, self.cut)
            return replace(made, projection=self.columns(block.projection))
        if self.ways.tensor == 1 and not isinstance(block, FRAMES):
            return block if not isinstance(block, Embedding) and type(block) not in LINEARS else self.table(block)
        if isinstance(block, Attention | Mla | Mlp):
            return self.part(block)
        if isinstance(block, Embedding) or type(block) in LINEARS:
            return self.table(block)
        if isinstance(block, FRAMES):
            frame: Block = mapped(block, self.cut)
            return frame
        return self.whole(block)

    def part(self, block: Attention | Mla | Mlp) -> Block:
        """Attention or an MLP by heads and inner widths, unless a plan of transformers' own has it otherwise."""
        match dict(self.ways.plan).get("mlp" if isinstance(block, Mlp) else "attention"):
            case "whole":
                return block
            case "gathered":
                return self.around(block)
        if isinstance(block, Mla):
            return self.latent(block)
        if isinstance(block, Mlp):
            return self.mlp(block)
        return self.attention(block) if type(block) is Attention else self.whole(block)

    def around(self, block: Attention | Mla | Mlp) -> Block:
        """Weights that are divided around channels that are not (colwise_gather_output, rowwise_split_input)."""
        names = ("up", "gate") if isinstance(block, Mlp) else ("q", "k", "v", "qkv", "gate")
        last = "down" if isinstance(block, Mlp) else "out"
        cut: dict[str, Any] = {name: self.gathered(getattr(block, name)) for name in names if hasattr(block, name)}
        rows = self.rows(getattr(block, last)) or getattr(block, last)
        cut[last] = Sequence("", (SplitChannels("", self.ways.tensor), rows))
        return replace(block, **cut)

    def whole(self, block: Block) -> Block:
        """A block that every rank has all of, or most of it."""
        if dict(self.ways.plan).get("attention") == "whole":
            return block
        if isinstance(block, MIXERS) and self.ways.modules_of == "hf" and self.hybrid:
            return self.mixer(block)
        if self.ways.plan and not isinstance(block, WHOLE):
            frame: Block = mapped(block, self.cut)  # what a plan of transformers' own does not name is whole
            return frame
        if not isinstance(block, WHOLE):
            kind = type(block).__name__
            self.refuse("parallel.tensor", f"tensor parallelism of {kind} blocks is not modelled; leave it at 1")
        return block

    def mixer(self, block: Block) -> Block:
        """A state-space or linear-attention mixer, which every rank runs whole."""
        if self.ways.spread > 1:
            kind = type(block).__name__
            self.refuse("parallel.sequence", f"sequence parallelism around {kind} blocks is not modelled; leave it out")
        if not isinstance(block, GatedDelta) or isinstance(block, KimiDelta):
            return block
        made = tuple(self.gathered(part) for part in block.projections)
        return replace(block, projections=made, out_proj=self.gathered(block.out_proj))

    def gathered(self, block: Block | None) -> Any:  # noqa: ANN401 - a block, or none
        """A linear cut by columns whose output is gathered (colwise_gather_output)."""
        if not isinstance(block, Linear):
            return block
        return Sequence("", (self.columns(block) or block, GatherChannels("", self.ways.tensor)))

    def refuse(self, where: str, what: str) -> None:
        """Note a fault, once."""
        self.faults.setdefault(f"{where} {what}", Fault(where, what))

    def share(self, count: int, what: str) -> int:
        """`count` things over the tensor-parallel ranks."""
        if count % self.ways.tensor:
            self.refuse("parallel.tensor", f"{what} ({count}) must be a multiple of tensor_model_parallel_size "
                                           f"({self.ways.tensor})")  # fmt: skip
        return max(1, count // self.ways.tensor)

    def attention(self, block: Attention) -> Attention:
        """Heads, and key/value heads: each at least one, shared by the ranks of a group where there are fewer."""
        tensor, heads = self.ways.tensor, self.share(block.heads, "num_attention_heads")
        if block.kv_heads % tensor and (tensor % block.kv_heads or not self.ways.replicates_heads):
            also = " or divisor" if self.ways.replicates_heads else ""
            self.refuse("parallel.tensor", f"num_query_groups ({block.kv_heads}) must be a multiple{also} of "
                                           f"tensor_model_parallel_size ({tensor})")  # fmt: skip
        kv = max(1, block.kv_heads // tensor)
        cut: dict[str, Any] = {name: self.columns(getattr(block, name)) for name in ("q", "k", "v", "qkv", "gate")}
        wide: dict[str, Any] = {
            name: self.normed(getattr(block, name), block.head_dim) for name in ("q_norm", "k_norm", "v_norm")
        }
        table = self.columns(block.bias_table)
        return replace(block, heads=heads, kv_heads=kv, out=self.rows(block.out), bias_table=table, **cut, **wide)

    def latent(self, block: Mla) -> Mla:
        """Heads; the maps down to the latents and their norms are whole on every rank."""
        cut: dict[str, Any] = {name: self.columns(getattr(block, name)) for name in ("q", "q_b", "kv_b", "gate")}
        return replace(block, heads=self.share(block.heads, "num_attention_heads"), out=self.rows(block.out), **cut)

    def mlp(self, block: Mlp) -> Mlp:
        """The inner width."""
        width = self.share(block.width, "ffn_hidden_size") if block.width else 0
        cut: dict[str, Any] = {
            "up": self.columns(block.up),
            "gate": self.columns(block.gate),
            "down": self.rows(block.down),
        }
        return replace(block, width=width, norm=self.normed(block.norm, 0), **cut)

    def mixture(self, block: Moe) -> Moe:
        """Routed experts by expert and expert-tensor degree, shared ones by tensor degree; the router whole."""
        experts = divided_experts(block.experts, self.ways, self.refuse) if block.experts else None
        return replace(block, experts=experts, shared=self._divided(block.shared) if block.shared else None)

    def columns(self, block: Block | None) -> Block | None:
        """A linear whose outputs are shared; an embedding whose width is."""
        if isinstance(block, Linear):
            return replace(block, outputs=self.share(block.outputs, "outputs"))
        if isinstance(block, Embedding):
            return replace(block, width=self.share(block.width, "num_attention_heads"))
        return mapped(block, lambda part: self.columns(part) or part) if isinstance(block, FRAMES) else block

    def rows(self, block: Block | None) -> Block | None:
        """A linear whose inputs are shared; its bias is whole."""
        if isinstance(block, Linear):
            return replace(block, inputs=self.share(block.inputs, "inputs"))
        return mapped(block, lambda part: self.rows(part) or part) if isinstance(block, FRAMES) else block

    def normed(self, block: Block | None, head_dim: int) -> Block | None:
        """A norm over the channels that are shared; one over a single head's is whole."""
        if not isinstance(block, Norm) or block.width == head_dim:
            return block
        return replace(block, width=self.share(block.width, "channels"))

    def table(self, block: Block) -> Block:
        """Tables of tokens and heads over the vocabulary, padded so that it divides; other linears are whole."""
        if isinstance(block, Embedding) and block.index == "tokens" and block.trainable:
            plan = dict(self.ways.plan)
            if plan.get("table") == "whole" or (plan and block.width != self.ways.width):  # a table beside the input's
                return block
            return replace(block, rows=self.ways.vocabulary(block.rows))
        if isinstance(block, Linear) and block.outputs == self.ways.words:
            head = replace(block, outputs=self.ways.vocabulary(block.outputs))
            together = GatherChannels("", self.ways.tensor)
            return Sequence("", (head, together)) if self.ways.whole_logits else head
        return block


def has(block: Block, kinds: tuple[type[Block], ...]) -> bool:
    """Whether a block of one of these kinds is below a block, or is it."""
    return isinstance(block, kinds) or any(has(part, kinds) for _, part in block.groups())


def table_of(block: Block) -> Embedding | None:
    """The first table of tokens below a block; a tower's, of places in an image, is none."""
    if isinstance(block, TOWERS):
        return None
    if isinstance(block, Embedding) and block.index == "tokens":
        return block
    return next((found for _, part in block.groups() if (found := table_of(part))), None)


def vocabulary(block: Block) -> int:
    """Rows of the first table of tokens below a block; 0 where there is none."""
    table = table_of(block)
    return table.rows if table else 0


def divided(body: Block, ways: Ways) -> tuple[Block, list[Fault]]:
    """The part of a model's body that a tensor- and expert-parallel rank holds, and what does not divide."""
    cutter = Cutter(ways, {}, {}, has(body, (Attention, Mla, Moe)))
    return cutter.cut(body), list(cutter.faults.values())


def padded(words: int, multiple: int) -> int:
    """The vocabulary as Megatron pads it: up to a multiple (megatron/training/tokenizer, _vocab_size_with_padding)."""
    return -(-words // multiple) * multiple


def common(a: int, b: int) -> int:
    """Their least common multiple."""
    return a * b // gcd(a, b)
