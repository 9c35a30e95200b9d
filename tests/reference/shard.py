"""Real models under the real FSDP and DDP, over a process group that only believes in its other ranks: needs torch."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.distributed.fsdp import (
    BackwardPrefetch,
    FullyShardedDataParallel,
    MixedPrecision,
    MixedPrecisionPolicy,
    ShardingStrategy,
    _flat_param,
    fully_shard,
)
from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy
from torch.testing._internal.distributed.fake_pg import FakeStore

if TYPE_CHECKING:
    from collections.abc import Iterator

Run = dict[str, Any]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ITEM = torch.Tensor.item
PARAM = {"mixed-bf16": "bf16", "mixed-fp16": "fp16"}  # by precision: what fp32 shards are gathered in


def options(run: Run) -> Run:
    """The sharding of a run as a mapping."""
    spec = run.get("sharding") or {}
    return {"strategy": spec} if isinstance(spec, str) else dict(spec)


def mesh_of(run: Run) -> Any:
    """One rank's view of all of them; made outside of fake tensors, for it reads real ones."""
    how = options(run)
    if not how:
        return None
    if dist.is_initialized():
        dist.destroy_process_group()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=run["gpus"])
    replicas = how.get("replicate", 1)
    if replicas > 1:
        return dist.init_device_mesh("cpu", (replicas, run["gpus"] // replicas), mesh_dim_names=("replicate", "shard"))
    return dist.init_device_mesh("cpu", (run["gpus"],))


def sharded(model: torch.nn.Module, run: Run, mesh: Any) -> torch.nn.Module:
    """The model in the hands of the strategy that the run names."""
    how = options(run)
    match how.get("strategy"), how.get("version", 2):
        case None, _:
            return model
        case "ddp", _:
            return in_buckets(model, how)
        case _, 1:
            return flat(model, run, how, mesh)
        case _:
            return fully_sharded(model, run, how, mesh)


def layers_of(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of the model's stacks; where these are stages, what _no_split_modules names of them and of their layers."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    inner = {id(other) for found in lists for layer in found for other in layer.modules()}
    layers = [layer for found in lists if id(found) not in inner for layer in found]
    names = set(getattr(model, "_no_split_modules", None) or ())
    parts = [layer for found in lists if id(found) in inner for layer in found]
    within = [part for part in parts if type(part).__name__ in names]
    return [*within, *(layer for layer in layers if type(layer).__name__ in names)] if within else layers


def fully_sharded(model: torch.nn.Module, run: Run, how: Run, mesh: Any) -> torch.nn.Module:
    """FSDP2: fully_shard of every layer, and of the rest."""
    param, reduce = how.get("param_dtype", PARAM.get(run["precision"])), how.get("reduce_dtype")
    policy = MixedPrecisionPolicy(
        param_dtype=DTYPES.get(param), reduce_dtype=DTYPES.get(reduce),  # type: ignore[arg-type]
        output_dtype=DTYPES.get(how.get("output_dtype")), cast_forward_inputs=how.get("cast_forward_inputs", True),  # type: ignore[arg-type]
    )  # fmt: skip
    wrap = partial(fully_shard, mesh=mesh, mp_policy=policy)
    reshard = {"reshard_after_forward": how["reshard_after_forward"]} if "reshard_after_forward" in how else {}
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    with unset_fake_temporarily(), real_numbers():  # a mesh of fewer ranks is made of them
        layers = layers_of(base) if how.get("wrap") != "none" else []
        for layer in layers:
            wrap(layer, **reshard)
        if how.get("wrap") == "accelerate":
            embed, head, norm = base.get_input_embeddings(), base.get_output_embeddings(), base.model.norm
            tied = embed.weight is head.weight
            if not tied:
                wrap(embed, **reshard)
            wrap([norm, embed, head] if tied else [norm, head], reshard_after_forward=False)
            reshard = {}
        elif how.get("wrap") == "layers+embed+head":
            wrap(base.get_input_embeddings(), **reshard)
            wrap([base.model.norm, base.get_output_embeddings()], **reshard)
        wrap(model, **reshard)
    for name, step in (("modules_to_forward_prefetch", 1), ("modules_to_backward_prefetch", -1)):
        in_advance(layers[::step], how.get(name, 0), f"set_{name}")
    if "reduce_scatter_max_input_buffers" in how:
        model.set_reduce_scatter_max_input_buffers(how["reduce_scatter_max_input_buffers"])  # type: ignore[operator]
    return model


def in_advance(layers: list[torch.nn.Module], count: int, name: str) -> None:
    """Each layer gathers the next few of these, as PyTorch's FSDP2 tutorial has it (train.py)."""
    for number, layer in enumerate(layers[:-count] if count else ()):
        getattr(layer, name)(layers[number + 1 : number + 1 + count])


@contextlib.contextmanager
def real_numbers() -> Iterator[None]:
    """Tensors that can be read, while recording has patched them."""
    patched = torch.Tensor.item
    torch.Tensor.item = ITEM  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.item = patched  # type: ignore[method-assign]


def flat(model: torch.nn.Module, run: Run, how: Run, mesh: Any) -> torch.nn.Module:
    """FSDP1: flat parameters of every layer, and of the rest."""
    wrapped = {id(layer) for layer in layers_of(model)}
    if hasattr(model, "get_base_model"):  # peft's fsdp_auto_wrap_policy: what learns in a frozen base, apart
        wrapped |= {id(module) for module in model.modules() if _learns_alone(module)}
    _flat_param._same_storage = _shared  # noqa: SLF001 - fake tensors all lie at address 0
    _flat_param._data_ptr_allocated = _there  # noqa: SLF001 - the same
    FakeTensor.data_ptr = _address  # type: ignore[method-assign]
    param, reduce = how.get("param_dtype", PARAM.get(run["precision"])), how.get("reduce_dtype")
    policy = MixedPrecision(
        param_dtype=DTYPES.get(param), reduce_dtype=DTYPES.get(reduce),  # type: ignore[arg-type]
        keep_low_precision_grads=how.get("keep_low_precision_grads", False),
    ) if param or reduce else None  # fmt: skip
    rest: Run = {key: how[key] for key in ("use_orig_params", "forward_prefetch", "limit_all_gathers") if key in how}
    if "backward_prefetch" in how:
        rest["backward_prefetch"] = BackwardPrefetch[how["backward_prefetch"]]
    word = how.get("sharding_strategy", "FULL_SHARD")
    return FullyShardedDataParallel(
        model,
        device_id=torch.device("cpu"),
        auto_wrap_policy=partial(lambda_auto_wrap_policy, lambda_fn=lambda module: id(module) in wrapped),
        mixed_precision=policy,
        sharding_strategy=ShardingStrategy[word],
        device_mesh=mesh if "HYBRID" in word else None,
        **rest,
    )


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata  # noqa: SLF001


def _learns_alone(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return not list(module.children()) and weight is not None and weight.requires_grad


def _there(tensor: torch.Tensor) -> bool:
    return tensor.untyped_storage().size() > 0


def _shared(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage()._cdata == b.untyped_storage()._cdata  # noqa: SLF001


def in_buckets(model: torch.nn.Module, how: Run) -> torch.nn.Module:
    """DDP; a hook stands in for the all-reduce, which nobody answers."""
    known = ("bucket_cap_mb", "gradient_as_bucket_view", "static_graph", "find_unused_parameters")
    made = torch.nn.parallel.DistributedDataParallel(model, **{key: how[key] for key in known if key in how})

    def reduced(_, bucket):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - torch reads annotations, and refuses strings
        buffer = bucket.buffer()
        if how.get("comm_hook", "none") in ("bf16_compress", "fp16_compress"):
            buffer.copy_(buffer.to(torch.bfloat16).div_(8))
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        future.set_result(buffer)
        return future

    made.register_comm_hook(None, reduced)
    return made


@contextlib.contextmanager
def unsynchronised(model: torch.nn.Module, run: Run) -> Iterator[None]:
    """Micro batches before the last: without reduction, as Hugging Face's Trainer asks for it, or with."""
    if not options(run).get("no_sync", True) or not options(run):
        yield
    elif hasattr(model, "set_requires_gradient_sync"):
        model.set_requires_gradient_sync(False)
        yield
        model.set_requires_gradient_sync(True)
    else:
        with model.no_sync():  # type: ignore[operator]
            yield
