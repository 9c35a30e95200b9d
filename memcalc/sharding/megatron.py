"""Megatron-LM's data parallelism: contiguous gradient and parameter buffers, and the distributed optimizer's shards.

megatron/core/distributed/param_and_grad_buffer.py, optimizer/distrib_optimizer.py. The fp32 gradient buffer is there all
along and whole on every rank; with the distributed optimizer the weights are views of a buffer of their own, and each
rank keeps master copies and states of its part of both. Experts have buffers of their own, shared by fewer ranks.
"""

from __future__ import annotations

from dataclasses import replace
from math import lcm
from typing import TYPE_CHECKING, Any

from memcalc.blocks.megatron import OutputLayer
from memcalc.dataclass import dataclass
from memcalc.dtypes import BITS
from memcalc.lengths import assumed_length
from memcalc.sharding.megatron_options import options
from memcalc.sharding.ranks import has_experts
from memcalc.sharding.strategy import Books, Hosted, Local, Strategy
from memcalc.tensors import Tensor
from memcalc.ways import Recompute, Ways

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from memcalc.blocks.base import Block
    from memcalc.model import Model
    from memcalc.optimizers import Optimizer
    from memcalc.precision import Recipe
    from memcalc.run import Run
    from memcalc.tape.setting import Setting

ALIGN = 64  # elements at which each parameter of a buffer begins
END = 128  # elements that the end of a bucket is a multiple of, with the degree of data parallelism
BUSBAR = 2**16  # with pad_buckets_for_high_nccl_busbw
MULTIPLIED = ("linear", "expert", "head")  # roles of matrices


@dataclass(frozen=True)
class Megatron(Strategy):
    """`ranks` share dense parameters (data times context parallel), `expert_ranks` those of experts.

    `whole_words` are the bytes of Megatron's global memory buffer (a gathered sequence before the head).
    """

    name: str = "megatron"
    expert_ranks: int = 1
    shards: bool = True
    bucket: int = 0
    busbar: bool = False
    main_grads: str = "fp32"
    main_params: str = "fp32"
    moments: str = "fp32"
    decoupled: bool = False
    fp8_weights: bool = False
    dummies: bool = True
    workspaces: tuple[int, ...] = ()
    gathered_words: int = 0
    caches_fp8: int = 0
    masters = True

    def recipe_of(self, recipe: Recipe) -> Recipe:
        """Half-precision weights, fp32 main gradients, fp32 masters and states, whatever else the recipe says."""
        half = next((d for d in (recipe.autocast, recipe.weights, recipe.compute) if d in ("bf16", "fp16")), "")
        plain = replace(recipe, gradients="fp32", master="", states="param", autocast="", autocast_cache=False)
        if not half:
            return plain
        return replace(
            plain,
            weights=half,
            master=self.main_params,
            gradients="fp16" if half == "fp16" and self.main_grads == "fp32" else self.main_grads,
            states=self.moments,
            compute=half,
            master_gradients="",
        )

    def place(self, tensors: tuple[Tensor, ...]) -> Local:
        """The buffers of dense and of expert parameters, and this rank's shards of them."""
        learning = tuple(t for t in tensors if t.trainable and not t.buffer and not t.tied_to)
        rest = tuple(t for t in tensors if not (t.trainable and not t.buffer) and not t.tied_to)
        buffers = self.own(learning)
        if not self.shards:
            flat = tuple(_flat(name, sum(t.parameters for t in group)) for name, group in _groups(learning) if group)
            return Local((*learning, *rest), flat, learning, buffers, flat)
        found = [
            (name, self.padded(group, ranks), ranks)
            for (name, group), ranks in zip(_groups(learning), (self.ranks, self.expert_ranks), strict=True)
            if group
        ]
        weights = tuple(_flat(f"{name}.param_data", size) for name, size, _ in found)
        weights = tuple(self.in_fp8(learning)) if self.fp8_weights else weights
        grads = tuple(_flat(f"{name}.grad_data", size) for name, size, _ in found)
        dense, expert = (group for _, group in _groups(learning))
        shards = (*shard(dense, self.ranks), *shard(expert, self.expert_ranks))
        return Local((*weights, *rest), grads, shards, buffers, grads)

    def in_fp8(self, learning: tuple[Tensor, ...]) -> Iterator[Tensor]:
        """Weights of Transformer Engine's linears in fp8, the others as they are, in buffers of their own."""
        for (name, group), ranks in zip(_groups(learning), (self.ranks, self.expert_ranks), strict=True):
            low = tuple(tensor for tensor in group if quantizes(tensor))
            high = tuple(tensor for tensor in group if not quantizes(tensor))
            yield replace(_flat(f"{name}.fp8", self.padded(low, ranks)), dtype="fp8")
            yield _flat(f"{name}.param_data", self.padded(high, ranks))

    def padded(self, group: tuple[Tensor, ...], ranks: int) -> int:
        """Elements of a buffer: parameters begin at multiples of 64, buckets end at multiples of the ranks' and 128."""
        whole, at, start = lcm(ranks, END, BUSBAR if self.busbar else 1), 0, 0
        for tensor in reversed(group):
            size = -(-tensor.elements // ALIGN) * ALIGN
            if not self.bucket:
                at += tensor.count * size
                continue
            for _ in range(tensor.count):
                at += size
                if at - start >= self.bucket:
                    at = start = -(-at // whole) * whole
        return -(-at // whole) * whole

    def own(self, learning: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What Transformer Engine and Megatron keep all along.

        A stand-in gradient for each shape of linear weight (the true one is added to the main gradients;
        transformer_engine, module/base.py, get_dummy_wgrad), cuBLAS workspaces, the buffer of gathered sequences, and
        the copies of weights in fp8, row by row and column by column.
        """
        shapes = dict.fromkeys(t.shape for t in learning if t.role in MULTIPLIED and len(t.shape) == 2)
        dummies = [Tensor("dummy_wgrad", shape, dtype="bf16") for shape in shapes] if self.dummies else []
        spaces = [Tensor("cublas_workspace", (size,), dtype="uint8") for size in self.workspaces]
        words = [Tensor("mpu", (self.gathered_words,), dtype="bf16")] if self.gathered_words else []
        copies = self.caches_fp8 * sum(t.parameters for t in learning if quantizes(t))
        cached = [Tensor("fp8_weights", (copies,), dtype="uint8")] if copies else []
        return (*dummies, *spaces, *words, *cached)

    def over(self, component: str) -> int:  # noqa: D102
        return self.ranks if self.shards and component in ("master_weights", "optimizer_states") else 1

    def step(self, plain: int, local: Local, optimizer: Optimizer, setting: Setting) -> int:  # noqa: ARG002
        """FusedAdam needs nothing; main gradients that are not fp32 are widened, shard by shard."""
        if self.main_grads == "fp32" or self.decoupled or not setting.master:
            return 0
        return sum(4 * tensor.parameters for tensor in local.states)

    def hosted(self, books: Books) -> Hosted:
        """HybridDeviceOptimizer: main parameters and their gradients pinned, states as the optimizer makes them."""
        if not self.offloaded:
            return Hosted()
        return Hosted(2 * books.total("master_weights"), books.total("optimizer_states"))

    @property
    def leaves_out(self) -> str:
        """Nothing of the allocator's."""
        return ""

    @property
    def notes(self) -> tuple[str, ...]:  # noqa: D102
        kept = f"{BITS[self.main_params] // 8} + {2 * BITS[self.moments] // 8}"
        shared = f"({kept}) / {self.ranks}" if self.shards else kept
        return (
            (
                "Megatron-LM with Transformer Engine's modules, as in megatron-core 0.16: fused attention, weight gradients "
                "added to the main gradients by the products themselves"
            ),
            (
                f"bytes per parameter: {1 if self.fp8_weights else 2} weights + {BITS[self.main_grads] // 8} main gradients "
                f"+ {shared} main parameters and Adam's states, where weights are of half precision"
            ),
        )


def _groups(learning: tuple[Tensor, ...]) -> tuple[tuple[str, tuple[Tensor, ...]], tuple[str, tuple[Tensor, ...]]]:
    """Dense and expert parameters."""
    experts = tuple(t for t in learning if ".experts." in t.name)
    return ("dense", tuple(t for t in learning if ".experts." not in t.name)), ("expert", experts)


def quantizes(tensor: Tensor) -> bool:
    """Whether it is a weight of a linear that Transformer Engine multiplies in fp8: the head is not."""
    return tensor.role in ("linear", "expert") and len(tensor.shape) == 2


def shard(group: tuple[Tensor, ...], ranks: int) -> Iterator[Tensor]:
    """What one of `ranks` keeps master copies and states of: its part of the buffer, parameter by parameter.

    Parameters lie in the buffer last first; one that crosses the end of a part is shared out (distrib_optimizer.py,
    _build_model_gbuf_range).
    """
    left = -(-sum(tensor.parameters for tensor in group) // ranks)
    for tensor in reversed(group):
        whole = min(tensor.count, left // tensor.elements)
        if whole:
            yield replace(tensor, shape=(tensor.elements,), count=whole)
        left -= whole * tensor.elements
        if left and whole < tensor.count:
            yield replace(tensor, shape=(left,), count=1)
            return


def _flat(name: str, size: int) -> Tensor:
    return Tensor(name, (size,))


def strategy(run: Run, given: Mapping[str, Any], model: Model) -> Megatron:
    """The strategy of a run with these options; `model` is the whole one or a rank's."""
    found, degrees = options(given), run.parallel
    ways = ways_of(run, found, mixtures=has_experts(model.body))
    ranks = max(1, run.gpus // (degrees.tensor * degrees.pipeline))  # data parallel times context parallel
    experts = max(1, run.gpus // (ways.expert_tensor * degrees.expert * degrees.pipeline))
    overlaps, aware = found.get("overlap_grad_reduce", False), found.get("use_precision_aware_optimizer", False)
    offloads = found.get("optimizer_cpu_offload", False) or run.offload == "optimizer"
    return Megatron(
        ranks=ranks,
        offloaded=frozenset({"master_weights", "optimizer_states"}) if offloads else frozenset(),
        expert_ranks=experts,
        shards=found.get("distributed_optimizer", True),
        bucket=found.get("ddp_bucket_size", max(40_000_000, 1_000_000 * ranks)) if overlaps else 0,
        busbar=found.get("pad_buckets_for_high_nccl_busbw", False),
        main_grads=found.get("main_grads_dtype", "bf16" if found.get("grad_reduce_in_bf16") else "fp32"),
        main_params=_masters(found) if aware else "fp32",
        moments=found.get("exp_avg_dtype", "fp32"),
        decoupled=aware,
        fp8_weights=bool(found.get("fp8_param")),
        dummies=ways.accumulates,
        workspaces=workspaces(run, model, grouped=ways.experts),
        gathered_words=_gathered(run, model) if ways.spread > 1 else 0,
        caches_fp8=0 if not found.get("fp8") else 1 if found.get("fp8_param") else 2,
    )


def _masters(found: Mapping[str, Any]) -> str:
    """Of fp32 main parameters only the 16 bits that the weights lack, unless they are to be kept whole."""
    masters = str(found.get("main_params_dtype", "fp32"))
    return "fp16" if masters == "fp32" and found.get("store_param_remainders", True) else masters


def workspaces(run: Run, model: Model, *, grouped: bool) -> tuple[int, ...]:
    """Bytes of cuBLAS workspaces: Transformer Engine's own, four more for the streams of grouped products, and PyTorch's.

    Transformer Engine: 32 MiB from Hopper on, else 4 MiB (cpp_extensions/gemm.py, get_cublas_workspace_size_bytes).
    PyTorch multiplies for the head: a workspace for the thread that runs forward, one for the one that runs
    backward (aten/src/ATen/cuda/CublasHandlePool.cpp: handles are a thread's own).
    """
    from memcalc.gpus import gpu  # noqa: PLC0415 - no strategy needs more of it

    card = gpu(run.gpu) if run.gpu else None
    capability = card.capability if card else ""
    large = not capability or not capability[0].isdigit() or float(capability) >= 9
    size = 32 * 2**20 + 1024 if large else 4 * 2**20
    torch = (card.cublas_workspace if card else 8_519_680,) * 2 if _head(model.body) else ()
    return (size,) * (5 if grouped else 1) + torch


def _head(block: Block) -> OutputLayer | None:
    """The head, which PyTorch multiplies, below a block."""
    if isinstance(block, OutputLayer):
        return block
    return next((found for _, part in block.groups() if (found := _head(part))), None)


def _gathered(run: Run, model: Model) -> int:
    """Elements of the buffer that the sequence is gathered into before the head (GlobalMemoryBuffer, "mpu")."""
    seq = run.seq_len or assumed_length(model)
    head = _head(model.body)
    hidden = head.inputs if head else 0
    return run.batch_size * seq // run.parallel.context * hidden


def ways_of(run: Run, found: Mapping[str, Any], *, mixtures: bool) -> Ways:
    """How a run's options divide the model, and what its modules do."""
    degrees = run.parallel
    fused = found.get("cross_entropy_loss_fusion", run.loss.kind == "fused")
    impl = found.get("cross_entropy_fusion_impl", "te" if run.loss.kind == "fused" else "native")
    granularity = found.get("recompute_granularity", run.checkpointing.mode)
    methods: dict[str, Recompute] = {"full": found.get("recompute_method", "uniform"), "selective": "selective"}
    return Ways(
        tensor=degrees.tensor, sequence=degrees.sequence, context=degrees.context, expert=degrees.expert,
        expert_tensor=degrees.expert_tensor or degrees.tensor if mixtures else 1,
        multiple=found.get("make_vocab_size_divisible_by", 128), fused_loss=impl if fused else "",
        accumulates=found.get("gradient_accumulation_fusion", True),
        fuses_activation=found.get("bias_swiglu_fusion", found.get("bias_gelu_fusion", True)),
        fuses_permutation=found.get("moe_permute_fusion", False), capacity=found.get("moe_expert_capacity_factor", 0.0),
        attention_over_context=found.get("cp_comm_type", "p2p"), experts=mixtures, modules_of="megatron",
        recompute=methods.get(granularity, ""),
        recomputed_layers=found.get("recompute_num_layers", 1) if granularity == "full" else 0,
        modules=frozenset(found.get("recompute_modules", ("core_attn",)) if granularity == "selective" else ()),
        router=found.get("moe_router_dtype", ""), pads=found.get("moe_pad_expert_input_to_capacity", False),
        fp8=found.get("fp8", "") and found.get("fp8_recipe", "delayed"),
    )  # fmt: skip
