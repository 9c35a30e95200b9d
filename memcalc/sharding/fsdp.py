"""FSDP of either version, with or without replicas: which one a run means."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.errors import fault
from memcalc.sharding.expert import experts_tensor
from memcalc.sharding.options import count
from memcalc.tape.recorder import PACKED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from memcalc.model import Model
    from memcalc.run import Run
    from memcalc.sharding.fsdp2 import FullyShard
    from memcalc.sharding.strategy import Strategy

NODE = 8  # GPUs of a node, over which hybrid sharding shards


def fully_sharded(name: str, given: Mapping[str, Any], ranks: int, run: Run, model: Model) -> Strategy:
    """The strategy of `fsdp` or `hsdp` over that many data-parallel ranks; RunInvalid where its options are wrong."""
    shards = ranks // _replicas(name, given, ranks)
    if run.offload == "optimizer":
        raise fault("offload", "FSDP moves parameters, gradients and optimizer states to the host together; "
                               "write offload: optimizer+params")  # fmt: skip
    packed = integers(run)
    if given.get("version") in (1, "1"):
        if packed:
            raise fault("quantize", "Must flatten tensors with uniform dtype but got torch.bfloat16 and torch.uint8; "
                                    "write quantize: {name: nf4, storage: bf16}")  # fmt: skip
        from memcalc.sharding import fsdp1  # noqa: PLC0415 - one module a run

        made = fsdp1.from_options(given, ranks, shards, model, micro_batches=run.grad_accum, offload=run.offload)
        if (run.train or run.freeze) and not made.visible:
            _uniform(made.paths, model, run)
        return made
    from memcalc.sharding import fsdp2  # noqa: PLC0415

    if run.parallel.pipeline > 1 and given.get("reshard_after_forward", "default") == "default":
        given = {**given, "reshard_after_forward": False}  # torchtitan gathers once for all micro batches (apply_fsdp)
    made2 = fsdp2.from_options(given, ranks, shards, micro_batches=run.grad_accum, offload=run.offload, packed=packed)
    made2 = replace(made2, outermost=run.implementation.startswith("torchtitan"))
    return _with_experts(made2, run, model) if run.parallel.expert > 1 else made2


def _with_experts(made: FullyShard, run: Run, model: Model) -> FullyShard:
    """The strategy where experts are dealt out: how many ranks share each, and along which axis.

    torchtitan cuts them along the second where there are more ranks than experts (models/llama4/infra/parallelize.py,
    apply_fsdp); transformers has no expert-tensor degree.
    """
    degrees = run.parallel
    ranks, inner = made.shards * degrees.tensor, degrees.expert * experts_tensor(run)
    if ranks % inner:
        raise fault("parallel.expert", f"`ep_size` ({degrees.expert}) must divide `fsdp_size * tp_size` ({ranks})")
    if not run.implementation.startswith("torchtitan") and degrees.expert % degrees.tensor:
        raise fault("parallel.expert", "`ep_size` must be a multiple of `tp_size`.")
    shards, own = ranks // inner, run.implementation.startswith("torchtitan")
    stacked = [tensor.shape for tensor in model.tensors if tensor.role == "expert"] if own else []
    axis = int(any(shards > shape[0] for shape in stacked))
    if axis and any(shape[1] % shards for shape in stacked):
        raise fault(
            "parallel.expert", f"FSDP does not support uneven sharding on dim 1: {stacked[0]} (world size: {shards})"
        )
    return replace(made, expert_shards=shards, expert_axis=axis, chains=own)


def _uniform(paths: tuple[str, ...], model: Model, run: Run) -> None:
    """Refuse units in which some parameters learn and some do not, as FlatParamHandle does."""
    from memcalc.freezing import learning  # noqa: PLC0415 - few runs need it
    from memcalc.tape.units import Wrapped  # noqa: PLC0415

    found = Wrapped(paths, learning(model.tensors, run.train, run.freeze))
    units = [found.rest, *(list(members) for path in paths for members, _ in found.alike(path))]
    if any(len({tensor.trainable for tensor in unit}) > 1 for unit in units):
        raise fault("sharding.use_orig_params", "Must flatten tensors with uniform `requires_grad` when "
                                                "`use_orig_params=False`; write use_orig_params: true")  # fmt: skip


def integers(run: Run) -> bool:
    """Whether bitsandbytes keeps the base's weights as integers, which FSDP can't shard."""
    if not run.quantize:
        return False
    from memcalc.quantization.storage import scheme  # noqa: PLC0415 - few runs need it

    how = scheme(run.quantize)
    return how.library == "bitsandbytes" and how.options.get("storage", "int8") in PACKED


def _replicas(name: str, given: Mapping[str, Any], ranks: int) -> int:
    """How many times the shards are there: as asked; hybrid sharding's default is one per node."""
    if given.get("replicate") is None:
        return ranks // NODE if name == "hsdp" and ranks % NODE == 0 else 1
    try:
        replicas = count(given["replicate"])
    except ValueError:  # told with whatever else is wrong in the options
        return 1
    if ranks % replicas:
        raise fault("sharding.replicate", f"{ranks} data-parallel ranks can't be shared among {replicas} replicas")
    return replicas
