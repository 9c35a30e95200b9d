"""Megatron-LM's theoretical memory: weights and optimizer of the fullest pipeline stage, and its activations.

Source: Megatron-LM d98e8a6, megatron/training/theoretical_memory_usage.py (compute_weight_and_optimizer_memory,
compute_activation_memory, compute_activation_memory_without_sp). Bytes of one GPU. What it leaves out is Megatron's own
choice: biases, norms of queries and keys, the product of gate and up that SwiGLU keeps, recomputation, transients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Block, Stack
from memcalc.blocks.basic import Norm
from memcalc.blocks.mla import Mla
from memcalc.blocks.mlp import Experts, Mlp, Moe, Router
from memcalc.dataclass import dataclass
from memcalc.errors import fault
from memcalc.report import FormulaPart
from memcalc.sharding.pipeline import longest_stack
from memcalc.sharding.tensor_parallel import vocabulary
from memcalc.tensors import parameter_count, tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.plan import Plan

SOURCE = "Megatron-LM d98e8a6, megatron/training/theoretical_memory_usage.py"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model as the formula sees it: parameters by how they are divided, and what its activations follow from.

    `split` are cut by the tensor degree, `routed` by the expert and expert-tensor degree, `replicated` by neither; all
    of the layers and the final norm. `table` are those of one table of tokens, of which there are two where `untied`.
    """

    split: int
    routed: int
    replicated: int
    table: int
    untied: bool
    layers: int
    hidden: int
    ffn: int
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class Split:
    """How it is divided: `data` is the degree of data parallelism, context included; `chunks` those of a stage, if any."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    expert_tensor: int = 1
    chunks: int | None = None
    distributed: bool = True

    @property
    def expert_data(self) -> int:
        """Ranks that share the same experts."""
        return max(1, self.tensor * self.data // (self.expert * self.expert_tensor))


def weights_and_optimizer(shape: Shape, how: Split) -> float:
    """Bytes of parameters, main gradients, main parameters and Adam's states on the fullest stage."""
    tables = 2 if shape.untied and how.pipeline == 1 else 1
    dense = (shape.split / how.pipeline + tables * shape.table) / how.tensor + shape.replicated / how.pipeline
    experts = shape.routed / (how.expert_tensor * how.expert * how.pipeline)
    if not how.distributed:
        return 18 * (dense + experts)
    return dense * (6 + 12 / how.data) + experts * (6 + 12 / how.expert_data)


def activations(shape: Shape, how: Split, batch: int, seq: int, micro_batches: int) -> float:
    """Bytes with sequence parallelism and selective recomputation (arXiv:2205.05198, table 2), on the first stage."""
    tokens = seq * batch
    total = tokens * shape.hidden * (18 + (4 * (shape.ffn / shape.hidden))) * shape.layers
    total += 8 * tokens * how.pipeline + tokens * shape.hidden * how.pipeline
    total *= _in_flight(how, micro_batches)
    if how.pipeline == 1:
        total += tokens * shape.hidden * 4 * (1 + (shape.vocabulary / shape.hidden))
    return total / how.tensor


def activations_without_sequence(shape: Shape, how: Split, batch: int, seq: int, micro_batches: int) -> float:
    """Bytes without sequence parallelism, and 5 % for what is temporary."""
    tokens = seq * batch
    total = tokens * shape.hidden * (10 + (24 / how.tensor)) * shape.layers
    total += 8 * tokens * how.pipeline + tokens * shape.hidden * how.pipeline
    total *= _in_flight(how, micro_batches)
    if how.pipeline == 1:
        total += (tokens * shape.vocabulary / how.tensor + tokens * shape.hidden) * 2
    return total * 1.05


def _in_flight(how: Split, micro_batches: int) -> float:
    """The micro batches that are in flight on the first stage, over the stages."""
    if how.chunks is not None:
        return 1 + (how.pipeline - 1) / (how.pipeline * how.chunks)
    return min(1, micro_batches / how.pipeline) if how.pipeline > 1 else 1


def formula(plan: Plan) -> FormulaPart:
    """The formula's numbers for a run; RunInvalid where the model has no stack of layers to count."""
    run, degrees = plan.run, plan.run.parallel
    options = run.sharding.options if run.sharding and run.sharding.strategy == "megatron" else {}
    how = Split(
        tensor=degrees.tensor, pipeline=degrees.pipeline, expert=degrees.expert,
        data=max(1, run.gpus // (degrees.tensor * degrees.pipeline)), expert_tensor=degrees.expert_tensor or degrees.tensor,
        chunks=degrees.virtual if degrees.virtual > 1 else None,
        distributed=bool(options.get("distributed_optimizer", options.get("use_distributed_optimizer", True))),
    )  # fmt: skip
    shape = shape_of(plan, int(options.get("make_vocab_size_divisible_by", 128)) * degrees.tensor)
    kept = weights_and_optimizer(shape, how)
    shared, alone = "with sequence parallelism and selective recomputation", "without sequence parallelism, and 5 %"
    selective = run.checkpointing.mode == "selective" or options.get("recompute_granularity") == "selective"
    count = activations if degrees.sequence and selective else activations_without_sequence
    live = count(shape, how, run.batch_size, plan.seq_len, run.grad_accum)
    return FormulaPart(
        name="megatron", gpu_bytes=round(kept + live), source=SOURCE,
        terms={"weights_and_optimizer": round(kept), "activations": round(live)},
        says="weights, fp32 main gradients, main parameters and Adam's states of the first pipeline stage, and its "
             f"activations {shared if count is activations else alone}",
    )  # fmt: skip


def shape_of(plan: Plan, multiple: int) -> Shape:
    """The model as the formula sees it, its vocabulary padded to a multiple."""
    body, known = plan.model.body, plan.model.dimensions
    stack, rows = longest_stack(body), vocabulary(body)
    if stack is None or known is None or not rows:
        raise fault("model", "Megatron-LM's formula is of language models with a table of tokens and a stack of layers")
    hidden = int(known["hidden_size"])
    counted = {
        "split": 0,
        "routed": 0,
        "replicated": next(_norms(stack), 0),
    }  # the final norm is like those of the layers
    for indices, layer in stack.groups():
        for kind, count in _parameters(layer):
            counted[kind] += count * len(indices or [])
    padded = -(-rows // multiple) * multiple
    ffn = int(known.get("intermediate_size") or known.get("n_inner") or known.get("ffn_dim") or 4 * hidden)
    return Shape(
        **counted, table=padded * hidden,
        untied=not known.get("tie_word_embeddings", False), layers=len(stack.layers), hidden=hidden, ffn=ffn, vocabulary=padded,
    )  # fmt: skip


def _parameters(block: Block) -> Iterator[tuple[str, int]]:
    """Parameters below a layer by how they are divided: weights of matrices; biases and norms of heads are not counted."""
    match block:
        case Moe():
            yield (
                "replicated",
                sum(t.parameters for t in tensors(block.router) if len(t.shape) > 1)
                if isinstance(block.router, Router)
                else 0,
            )
            yield "routed", _matrices(block.experts)
            yield "split", _matrices(block.shared)
        case Attention() | Mlp():
            yield "split", _matrices(block)
        case Mla():
            yield "split", _matrices(block)
            yield "replicated", block.q_rank + block.kv_rank
        case Experts():
            yield "routed", _matrices(block)
        case _ if not list(block.groups()):
            yield "replicated", parameter_count(tensors(block))
        case _:
            for indices, part in block.groups():
                for kind, count in _parameters(part):
                    yield kind, count * (len(indices) if indices and isinstance(block, Stack) else 1)


def _norms(block: Block) -> Iterator[int]:
    """Parameters of every norm of the hidden states below a block."""
    if isinstance(block, Norm):
        yield parameter_count(tensors(block))
    elif not isinstance(block, (Attention, Mla, Mlp, Moe)):
        for _, part in block.groups():
            yield from _norms(part)


def _matrices(block: Block | None) -> int:
    return sum(t.parameters for t in tensors(block) if len(t.shape) > 1) if block else 0
