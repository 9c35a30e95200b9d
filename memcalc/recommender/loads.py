"""From a plan to what the throughput model asks of it: bytes that are gathered, reduced, updated and sent to the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.dtypes import BITS, nbytes
from memcalc.recommender.legality import data_parallel
from memcalc.recommender.throughput import Load

if TYPE_CHECKING:
    from memcalc.plan import Plan
    from memcalc.recommender.heights import Ground
    from memcalc.tensors import Tensor

# optimizer steps that are one pass over the states: torch's fused, bitsandbytes' and others' kernels, compiled ones
ONE_PASS = frozenset({"fused", "kernel", "compiled", "triton", ""})
RINGS = 3  # times that keys and values go round context-parallel ranks: once forward, and back with their gradients
COLLECTIVES = 4  # all-reduces of a layer under tensor parallelism, two forward and two back (Shoeybi et al. 2019, 3)


def load(plan: Plan, ground: Ground, grad_accum: int, implementation: str, staged: int) -> Load:
    """The load of one rank; `implementation` is the optimizer's, `staged` what a micro step sends to host memory."""
    compute = plan.recipe.autocast or plan.recipe.compute
    trained = [tensor for tensor in plan.tensors if tensor.trainable and not tensor.buffer and not tensor.tied_to]
    gradients = sum(tensor.count * nbytes(tensor.elements, tensor.dtype or plan.recipe.gradients) for tensor in trained)
    own = gradients // max(1, plan.placement.over("optimizer_states"))
    return Load(
        dtype=compute,
        strategy=plan.placement.name,
        gpus=plan.run.gpus,
        data=data_parallel(plan.run),
        pipeline=plan.run.parallel.pipeline,
        grad_accum=grad_accum,
        weights=sum(_gathered(tensor, plan, compute) for tensor in plan.tensors if not tensor.tied_to),
        gradients=gradients,
        updated=2 * ground.states + 3 * own if ground.states or not ground.hosted else 0,
        fused=implementation in ONE_PASS,
        hosted=ground.hosted,
        paged=ground.paged,
        staged=staged,
        weights_from_host="weights" in plan.placement.offloaded,
        tensor_traffic=tensor_traffic(plan),
    )


def tensor_traffic(plan: Plan) -> int:
    """Bytes that a rank sends in a micro step for tensor and context parallelism; 0 where the model's width is not known.

    Tensor: each collective moves 2 (t - 1) / t of [tokens, width] (Shoeybi et al. 2019, Megatron-LM, 3; sequence
    parallelism splits them, not less). Context: keys and values of the local tokens go round the ring once forward, and
    with their gradients once back (Liu et al. 2023, Ring Attention, 3).
    """
    parallel, known = plan.run.parallel, plan.model.dimensions
    if max(parallel.tensor, parallel.context) == 1 or known is None or "hidden_size" not in known:
        return 0
    layers = -(-_whole(plan, "num_hidden_layers", 1) // parallel.pipeline)
    width, heads = _whole(plan, "hidden_size", 1), _whole(plan, "num_attention_heads", 1)
    tokens = (
        plan.run.batch_size * plan.seq_len * BITS[plan.recipe.compute] // 8
    )  # those of this rank, in bytes a channel
    reduced = COLLECTIVES * 2 * (parallel.tensor - 1) * width // parallel.tensor
    passed = (
        RINGS
        * 2
        * (parallel.context - 1)
        * width
        * _whole(plan, "num_key_value_heads", heads)
        // heads
        // parallel.tensor
    )
    return layers * tokens * (reduced + passed)


def _whole(plan: Plan, key: str, otherwise: int) -> int:
    """A dimension of the model, or what stands in for one it does not have."""
    known = plan.model.dimensions
    value = known[key] if known is not None and key in known else None
    return value if isinstance(value, int) and value else otherwise


def _gathered(tensor: Tensor, plan: Plan, compute: str) -> int:
    """Bytes of a weight as it travels: packed where it is packed, else in the dtype that is computed in."""
    if tensor.dtype:
        return tensor.count * nbytes(tensor.elements, tensor.dtype)
    return tensor.count * nbytes(tensor.elements, min(compute, plan.recipe.weights, key=lambda dtype: BITS[dtype]))
