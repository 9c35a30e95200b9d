"""FSDP1, FullyShardedDataParallel: all parameters of a unit in one flat parameter, which is cut into equal parts.

Source: torch 2.13.0, torch/distributed/fsdp/_flat_param.py (flattening, padding, gathering) and _runtime_utils.py (when).
Adapters in a frozen base are flat parameters of their own, as PEFT's fsdp_auto_wrap_policy wraps them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from memcalc.dataclass import dataclass
from memcalc.dtypes import BITS
from memcalc.errors import fault
from memcalc.sharding import options
from memcalc.sharding.flat import ordered
from memcalc.sharding.fsdp2 import FullyShard
from memcalc.sharding.groups import paths
from memcalc.sharding.originals import Stretch, Views, fullest
from memcalc.sharding.pairs import alone
from memcalc.sharding.strategy import Local
from memcalc.tape.units import Wrapped
from memcalc.tape.values import FLOATS
from memcalc.tensors import Tensor, numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from memcalc.model import Model
    from memcalc.precision import Recipe
    from memcalc.sharding.options import Reader
    from memcalc.tape.recorder import Tape
    from memcalc.tape.setting import Setting
    from memcalc.tape.units import Sharder

ALIGNMENT = 16  # bytes, where original parameters stay visible (_get_aligned_numel)
WORDS = ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD", "HYBRID_SHARD", "_HYBRID_SHARD_ZERO2")
RESHARDING = ("FULL_SHARD", "HYBRID_SHARD")
KEEPING = ("SHARD_GRAD_OP", "_HYBRID_SHARD_ZERO2")  # what is gathered for the forward pass, until the backward pass
PREFETCHES = ("BACKWARD_PRE", "BACKWARD_POST", "NO_PREFETCH", "none")
OPTIONS: dict[str, Reader] = {
    "version": options.count,
    "sharding_strategy": options.one_of(*WORDS),
    "param_dtype": options.dtype,
    "reduce_dtype": options.dtype,
    "buffer_dtype": options.dtype,
    "cast_forward_inputs": options.flag,
    "keep_low_precision_grads": options.flag,
    "wrap": options.one_of("layers", "none"),
    "backward_prefetch": options.one_of(*PREFETCHES),
    "forward_prefetch": options.flag,
    "limit_all_gathers": options.flag,
    "use_orig_params": options.flag,
    "no_sync": options.flag,
    "sync_module_states": options.flag,
    "cpu_offload": options.flag,
    "offload_params": options.flag,
    "replicate": options.count,
}


# of a flat parameter: whether it learns, its dtype, whether it is an adapter's, its name where it is of that alone
Kind: TypeAlias = "tuple[bool, str, bool, str]"


def _learns(members: Sequence[Tensor]) -> bool:
    """Whether any of a unit's tensors does, but for those of adapters."""
    return any(tensor.trainable for tensor in members if tensor.role != "adapter")


@dataclass(frozen=True)
class Flattened(FullyShard):
    """`word` is the ShardingStrategy; `prefetch` when the next unit's parameters are gathered in the backward pass.

    `visible` is use_orig_params, `narrow` keep_low_precision_grads, `limited` limit_all_gathers, `paths` the stacks whose
    layers are units. Buffers are cast to `buffer_dtype`, if there is one.
    """

    word: str = "FULL_SHARD"
    prefetch: str = "BACKWARD_PRE"
    forward_prefetch: bool = False
    visible: bool = True
    narrow: bool = False
    limited: bool = True
    buffer_dtype: str = ""
    paths: tuple[str, ...] = ()

    def recipe_of(self, recipe: Recipe) -> Recipe:
        """Gradients in the compute dtype where they are to stay low (as reduced, without shards), or FSDP2's."""
        made = super().recipe_of(recipe)
        if not self.narrow:
            return made
        seen = self.param_dtype or (made.weights if recipe.autocast else recipe.compute)
        return replace(made, gradients=(self.reduce_dtype or seen) if self.word == "NO_SHARD" else seen)

    def buffered(self, tensor: Tensor, setting: Setting) -> str:
        """Floating-point buffers are cast to buffer_dtype where there is one (_cast_buffers_to_dtype_and_device)."""
        kept = super().buffered(tensor, setting)
        return self.buffer_dtype if self.buffer_dtype and kept in FLOATS else kept

    def met(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Views of a flat parameter that learns in part all ask for a gradient, and with them what autograd saves."""
        if not self.visible or all(tensor.trainable or tensor.buffer or tensor.role == "adapter" for tensor in tensors):
            return tensors
        layers = Wrapped(self.paths, tensors)
        units = [layers.rest, *(list(members) for path in self.paths for members, _ in layers.alike(path))]
        learns = {t.name for unit in units if any(t.trainable and t.role != "adapter" for t in unit) for t in unit}
        return tuple(
            replace(t, trainable=True) if t.name in learns and t.role != "adapter" and not t.trainable else t
            for t in tensors
        )

    def place(self, tensors: tuple[Tensor, ...]) -> Local:
        """One shard for each flat parameter, states for what of it learns; buffers stay whole.

        The optimizer sees original parameters as they are where nothing is sharded (FlatParamHandle._use_sharded_views).
        """
        parts = (*self._flat(Wrapped(self.paths, tensors)), *(tensor for tensor in tensors if tensor.buffer))
        states = parts
        if self.visible and self.word == "NO_SHARD":
            states = tuple(tensor for tensor in tensors if not tensor.buffer)
        elif self.visible:
            states = tuple(self._originals(Wrapped(self.paths, tensors)))
        return Local(parts, parts, states, accumulated=() if self.accumulates or self.offloads else None)

    def _flat(self, layers: Wrapped) -> Iterator[Tensor]:
        """Each flat parameter as one rank has it."""
        for handle in self.handles(layers.rest):
            yield replace(handle, name="_flat_param", shape=self._shard(handle))
        for path in layers.layers:
            for members, indices in layers.alike(path):
                for handle in self.handles(members):
                    name = f"{path}.{numbers(indices)}._flat_param"
                    yield replace(handle, name=name, shape=self._shard(handle), count=len(indices))

    def _originals(self, layers: Wrapped) -> Iterator[Tensor]:
        """What of the original parameters lies in the fullest rank's shards: the root's, then those of each stack's layers."""
        single = [replace(tensor, count=1) for tensor, _, _ in ordered(layers.rest)]
        views = [*self._views("root", single, 1)]
        for path in layers.layers:
            for members, indices in layers.alike(path):
                views += self._views(f"{path}.{numbers(indices)}", members, len(indices))
        rank = fullest(views)
        for view in views:
            yield from view.of(rank)

    def _views(self, name: str, members: Sequence[Tensor], times: int) -> Iterator[Views]:
        """Where in each flat parameter of a unit its original ones lie."""
        found: dict[Kind, list[Stretch]] = {}
        learns = _learns(members)
        for tensor in members:
            stretches, align = found.setdefault(self._kind(tensor, learns), []), self._aligned(tensor.dtype)
            for _ in range(tensor.count):
                start = -(-stretches[-1].stop // align) * align if stretches else 0
                stretches.append(Stretch(tensor, start, start + tensor.elements))
        for place, stretches in enumerate(found.values()):
            shard = -(-stretches[-1].stop // self.shards)
            yield Views(f"{name}.{place}", times, shard, tuple(stretches))

    def _shard(self, handle: Tensor) -> tuple[int]:
        return (-(-handle.elements // self.shards),)

    def handles(self, members: Sequence[Tensor]) -> list[Tensor]:
        """The flat parameters of one unit, unsharded; one dtype each.

        Adapters are apart from what they adapt. What learns and what does not are together where original parameters stay
        visible, and have one gradient then; FSDP refuses such a unit otherwise.
        """
        learns = _learns(members)
        found: dict[Kind, int] = {}
        for tensor in members:
            key = self._kind(tensor, learns)
            found[key] = self._appended(found.get(key, 0), tensor)
        return [
            Tensor("_flat_param", (self._padded(elements),), 1, "parameter", trainable, dtype=dtype)
            for (trainable, dtype, _, _), elements in found.items()
        ]

    def _kind(self, tensor: Tensor, learns: bool) -> Kind:
        """What the tensors of a flat parameter have in common."""
        own = tensor.role == "adapter"
        name = tensor.name if own and self.wrap == "layers" and alone(tensor) else ""
        return tensor.trainable if own or not self.visible else learns, tensor.dtype, own, name

    def _appended(self, elements: int, tensor: Tensor) -> int:
        """The length of a flat parameter with these at its end, each beginning where it may."""
        align = self._aligned(tensor.dtype)
        if align == 1:
            return elements + tensor.count * tensor.elements
        for _ in range(tensor.count):
            elements = -(-elements // align) * align + tensor.elements
        return elements

    def _aligned(self, dtype: str) -> int:
        """_get_aligned_numel, for the dtype that is computed in: two bytes, where nothing says otherwise."""
        seen = self.param_dtype or dtype or "bf16"
        return ALIGNMENT * 8 // BITS[seen] if self.visible else 1

    def _padded(self, elements: int) -> int:
        return -(-elements // self.shards) * self.shards if self.visible else elements

    @property
    def forgets(self) -> bool:
        """Whether a unit that no gradient comes to stays gathered, from the first step on (_catch_all_reshard).

        Its flat parameter is the shard's again since its forward, which is taken for all having been let go of.
        """
        return self.word in KEEPING and not self.visible

    def over(self, component: str) -> int:  # noqa: ARG002 - all of them
        """All ranks of a group share all."""
        return self.shards

    def attach(self, tape: Tape, model: Model, tensors: tuple[Tensor, ...]) -> Sharder:
        """The hooks of _runtime_utils.py."""
        from memcalc.sharding.flattening import Flattening  # noqa: PLC0415 - only a step that is run needs it
        from memcalc.sharding.groups import grouped  # noqa: PLC0415

        return Flattening(tape, self, grouped(model, tensors, self.wrap))

    @property
    def notes(self) -> tuple[str, ...]:
        """What the allocator's replay can't know."""
        if self.limited:
            return ()
        return (
            "limit_all_gathers is off: what is reserved grows with how far the host runs ahead, which is not counted",
        )


def from_options(
    given: Mapping[str, Any], ranks: int, shards: int, model: Model, *, micro_batches: int, offload: str
) -> Flattened:
    """The strategy with a run's options; RunInvalid lists those that FSDP1 doesn't have."""
    found = options.read(given, OPTIONS, "fsdp (version 1)")
    word = found.get("sharding_strategy", "FULL_SHARD" if shards == ranks else "HYBRID_SHARD")
    if "HYBRID" not in word and shards != ranks:
        raise fault("sharding.sharding_strategy", f"{word} has no replicas; write HYBRID_SHARD or _HYBRID_SHARD_ZERO2")
    offloads = found.get("cpu_offload", False) or found.get("offload_params", False) or offload == "optimizer+params"
    accumulates = micro_batches > 1 and found.get("no_sync", True)
    return Flattened(
        "fsdp" if shards == ranks else "hsdp",
        ranks,
        frozenset({"weights", "master_weights", "gradients", "optimizer_states"} if offloads else ()),
        shards=1 if word == "NO_SHARD" else shards,
        param_dtype=found.get("param_dtype", ""),
        reduce_dtype=found.get("reduce_dtype", ""),
        wrap=found.get("wrap", "layers"),
        accumulates=accumulates,
        sums=micro_batches > 1 and not accumulates,
        offloads=bool(offloads),
        word=word,
        prefetch=found.get("backward_prefetch", "BACKWARD_PRE"),
        forward_prefetch=found.get("forward_prefetch", False),
        visible=found.get("use_orig_params", False),
        narrow=found.get("keep_low_precision_grads", False),
        limited=found.get("limit_all_gathers", True),
        buffer_dtype=found.get("buffer_dtype", ""),
        paths=paths(model, found.get("wrap", "layers")),
    )
