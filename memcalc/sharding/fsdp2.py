"""FSDP2, fully_shard: every parameter cut along its first dimension, gathered and reduced one unit at a time.

Source: torch 2.13.0, torch/distributed/fsdp/_fully_shard: _fsdp_param.py (shards and their padding), _fsdp_collectives.py
(what a gather and a reduction allocate), _fsdp_param_group.py and _fsdp_state.py (when).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass
from memcalc.dtypes import BITS
from memcalc.errors import fault
from memcalc.sharding import options
from memcalc.sharding.groups import grouped
from memcalc.sharding.offload import hosted
from memcalc.sharding.strategy import Hosted, Local, Strategy
from memcalc.tape.recorder import PACKED
from memcalc.tape.values import FLOATS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from memcalc.model import Model
    from memcalc.precision import Recipe
    from memcalc.sharding.options import Reader
    from memcalc.sharding.strategy import Books
    from memcalc.tape.recorder import Tape
    from memcalc.tape.setting import Setting
    from memcalc.tape.units import Sharder
    from memcalc.tensors import Tensor

WRAPS = ("layers", "layers+embed+head", "accelerate", "none")
RESHARD = options.either(options.flag, options.one_of("default", "always", "never"), options.count)
OPTIONS: dict[str, Reader] = {
    "version": options.count,
    "reshard_after_forward": RESHARD,
    "param_dtype": options.dtype,
    "reduce_dtype": options.dtype,
    "output_dtype": options.dtype,
    "cast_forward_inputs": options.flag,
    "modules_to_forward_prefetch": options.amount,
    "modules_to_backward_prefetch": options.amount,
    "wrap": options.one_of(*WRAPS),
    "no_sync": options.flag,
    "cpu_offload": options.flag,
    "offload_params": options.flag,
    "pin_memory": options.flag,
    "reduce_scatter_max_input_buffers": options.count,
    "replicate": options.count,
    "enable_fsdp_float8_all_gather": options.flag,
    "enable_async_tensor_parallel": options.flag,
}


WHOLE = (
    "packed integers are left out of the sharding, as accelerate does: every GPU holds them whole; "
    "quantize: {name: nf4, storage: bf16} shards them"
)


@dataclass(frozen=True)
class FullyShard(Strategy):
    """`shards` ranks share what each of `ranks // shards` replicas keeps.

    * `reshard` is whether layers let go of what they gathered between forward and backward, or to how many ranks they give
      it back (an int); `root_reshards` and `head_reshards` are for the root and the unit of the head.
    * `param_dtype` and `reduce_dtype` are '' where the recipe decides, or nothing is cast. Modules' outputs are cast to
      `output_dtype`, if there is one, and their inputs to param_dtype where it `casts_inputs`.
    * `accumulates` where earlier micro batches were not reduced, `sums` where they were.
    * `inputs` is how many inputs of reductions are held for those under way; `ahead` how many layers each one gathers in
      advance by name, forward and backward.
    * `whole_packed` where integers that stand for weights are left out of the sharding (accelerate leaves bitsandbytes' out).
    * `expert_shards` ranks share experts, each module of them a unit of its own, where expert parallelism has them
      (efsdp), cut along the `expert_axis`. Where it `chains`, every unit names the next ones to gather (torchtitan).
    * `float8` where weights of linear layers are gathered in fp8 (torchao's enable_fsdp_float8_all_gather).
    * `outermost` where units are around checkpoints, and the loss is no part of the root (torchtitan).
    """

    shards: int = 1
    reshard: bool | int = True
    root_reshards: bool | int = False
    head_reshards: bool | int = True
    param_dtype: str = ""
    reduce_dtype: str = ""
    wrap: str = "layers"
    accumulates: bool = False
    sums: bool = False
    offloads: bool = False
    pins: bool = True
    inputs: int = 1
    expert_shards: int = 0
    expert_axis: int = 0
    chains: bool = False
    outermost: bool = False
    float8: bool = False
    ahead: tuple[int, int] = (0, 0)
    output_dtype: str = ""
    casts_inputs: bool = True
    whole_packed: bool = False
    streams = True

    def recipe_of(self, recipe: Recipe) -> Recipe:
        """Shards in the master's dtype in place of a master copy, and gradients as the shards (MixedPrecisionPolicy)."""
        kept = recipe.master or recipe.weights
        return replace(recipe, weights=kept, gradients=kept, master="", master_gradients="")

    def setting_of(self, setting: Setting) -> Setting:
        """Parameters in param_dtype; gradients of earlier micro batches are not where autograd would look for them."""
        seen = self.param_dtype or (setting.weights if setting.autocast else setting.compute or setting.weights)
        frozen = self.param_dtype or setting.frozen
        return replace(setting, weights=seen, frozen=frozen, inputs=setting.weights, accumulating=False)

    def gathered(self, tensor: Tensor, stored: str, setting: Setting) -> str:
        """Every floating-point parameter is cast to param_dtype, adapters in fp32 included; buffers stay as they are kept.

        Without a param_dtype, of its own or the recipe's, each stays what it is.
        """
        if tensor.buffer:
            return self.buffered(tensor, setting)
        casts = bool(self.param_dtype) or setting.weights != setting.inputs
        return setting.weights if casts and stored in FLOATS and not setting.autocast else stored

    def buffered(self, tensor: Tensor, setting: Setting) -> str:
        """The dtype that modules see a buffer in."""
        return tensor.dtype or setting.inputs

    def over(self, component: str) -> int:  # noqa: ARG002 - all of them
        """Everything is sharded."""
        return self.shards

    def place(self, tensors: tuple[Tensor, ...]) -> Local:
        """Dimension 0 cut into as many parts as there are shards, each rank's padded to the largest (_init_sharded_param)."""
        parts = tuple(
            tensor if self.stays(tensor) else cut(tensor, self.ways_of(tensor), self.axis_of(tensor))
            for tensor in tensors
        )
        return Local(parts, parts, parts, accumulated=() if self.accumulates or self.offloads else None)

    def attach(self, tape: Tape, model: Model, tensors: tuple[Tensor, ...]) -> Sharder:
        """The hooks of FSDPState and FSDPParamGroup."""
        from memcalc.sharding.gathering import Gathering  # noqa: PLC0415 - only a step that is run needs it

        groups = grouped(model, tuple(t for t in tensors if not self.stays(t)), self.wrap)
        groups.expert_shards = self.expert_shards
        return Gathering(tape, self, groups)

    def ways_of(self, tensor: Tensor) -> int:
        """How many ranks share a parameter."""
        return self.expert_shards if self.expert_shards and tensor.role == "expert" else self.shards

    def axis_of(self, tensor: Tensor) -> int:
        """The axis that a parameter is cut along."""
        return self.expert_axis if tensor.role == "expert" else 0

    def narrowed(self, tensor: Tensor) -> bool:
        """Whether a layer's parameter is gathered in fp8: Float8Linear's weights, whose sides are multiples of 16.

        torchao 0.18, float8/fsdp_utils.py, WeightWithDynamicFloat8CastTensor; torchtitan's module_filter_fn, and its configs'
        filter_fqns, which leave the head out.
        """
        shape = tensor.shape
        return self.float8 and tensor.role == "linear" and len(shape) == 2 and not shape[0] % 16 and not shape[1] % 16

    def stays(self, tensor: Tensor) -> bool:
        """Whether every rank keeps the whole of a tensor."""
        return tensor.buffer or (self.whole_packed and tensor.role == "quantized" and tensor.dtype in PACKED)

    def hosted(self, books: Books) -> Hosted:
        """CPUOffloadPolicy: parameters and gradients pinned one by one, states pageable as the optimizer makes them."""
        if not self.offloads:
            return Hosted()
        kept = [(entry.tensor.count, entry.weights) for entry in books.weights.entries if not entry.tensor.buffer]
        kept += [(entry.tensor.count, entry.gradients) for entry in books.gradients.entries if entry.gradients]
        copies = [size // count for count, size in kept for _ in range(count)]
        return hosted(copies, [books.total("optimizer_states")], pins=self.pins)

    @property
    def communicators(self) -> tuple[int, ...]:
        """The mesh: one group, or one that shards and one that replicates."""
        return (self.ranks,) if self.shards == self.ranks else (self.ranks, self.shards, self.ranks // self.shards)

    @property
    def notes(self) -> tuple[str, ...]:
        """What is not sharded, though one would think so."""
        if not self.whole_packed:
            return ()
        return (WHOLE,)

    @property
    def leaves_out(self) -> str:
        """Nothing of the allocator's."""
        return ""


def cut(tensor: Tensor, ways: int, axis: int = 0) -> Tensor:
    """The largest of the parts that an axis of a parameter is cut into."""
    if ways == 1:
        return tensor
    shape = list(tensor.shape or (1,))
    shape[axis] = -(-shape[axis] // ways)
    return replace(tensor, shape=tuple(shape))


def from_options(
    given: Mapping[str, Any], ranks: int, shards: int, *, micro_batches: int, offload: str, packed: bool = False
) -> FullyShard:
    """The strategy with a run's options; RunInvalid lists those that FSDP2 doesn't have."""
    found = options.read(given, OPTIONS, "fsdp (version 2)")
    reshard, root, head = _resharding(found.get("reshard_after_forward"), found.get("wrap", "layers"), shards)
    offloads = found.get("cpu_offload", False) or found.get("offload_params", False) or offload == "optimizer+params"
    return FullyShard(
        "fsdp" if shards == ranks else "hsdp",
        ranks,
        frozenset({"weights", "master_weights", "gradients", "optimizer_states"} if offloads else ()),
        shards=shards,
        reshard=reshard,
        root_reshards=root,
        head_reshards=head,
        param_dtype=found.get("param_dtype", ""),
        reduce_dtype=found.get("reduce_dtype", ""),
        wrap=found.get("wrap", "layers"),
        accumulates=micro_batches > 1 and found.get("no_sync", True),
        sums=micro_batches > 1 and not found.get("no_sync", True),
        offloads=bool(offloads),
        pins=found.get("pin_memory", True),
        inputs=found.get("reduce_scatter_max_input_buffers", 1),
        ahead=(found.get("modules_to_forward_prefetch", 0), found.get("modules_to_backward_prefetch", 0)),
        output_dtype=found.get("output_dtype", ""),
        casts_inputs=found.get("cast_forward_inputs", True),
        whole_packed=packed,
        float8=found.get("enable_fsdp_float8_all_gather", False),
    )


def _resharding(given: bool | int | str | None, wrap: str, shards: int) -> tuple[bool | int, bool | int, bool | int]:
    """Whether layers, the root and the head reshard after forward.

    fully_shard's own None is true but for the root; torchtitan's `default` (apply_fsdp) and accelerate's
    fsdp2_prepare_model keep the head, too, for it is the first unit of the backward pass.
    """
    value: bool | int = {"default": True, "always": True, "never": False}.get(given, True) if isinstance(given, str) else (
        True if given is None else given)  # fmt: skip
    if not isinstance(value, bool):
        if value > shards or shards % value:
            raise fault("sharding.reshard_after_forward", "If passing reshard_after_forward as an int, it should be a factor "
                                                          f"of {shards}, not {value}")  # fmt: skip
        value = {1: False, shards: True}.get(value, value)
    if wrap == "accelerate":
        return value, False, False
    if isinstance(given, str):
        return value, False, given == "always"
    return value, False if given is None else value, value


def nbytes(elements: int, dtype: str) -> int:
    """Bytes of that many elements."""
    return -(-elements * BITS[dtype] // 8)
