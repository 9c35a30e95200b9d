"""ZeRO-1 and ZeRO-2: flat parameters on every rank, master copy and states of one partition, gradients reduced in buckets.

Source: DeepSpeed 0.19.8, runtime/zero/stage_1_and_2.py (DeepSpeedZeroOptimizer) and runtime/bf16_optimizer.py
(BF16_Optimizer: stage 1 with bf16 parameters and gradients accumulated in fp32).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.dataclass import dataclass
from memcalc.dtypes import BITS
from memcalc.replay.reserve import Staged
from memcalc.sharding.flat import flat_of
from memcalc.sharding.strategy import Local
from memcalc.sharding.zero import Zero
from memcalc.tape.values import rounded
from memcalc.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memcalc.model import Model
    from memcalc.optimizers import Optimizer
    from memcalc.sharding.flat import Flat
    from memcalc.sharding.strategy import Books, Hosted
    from memcalc.tape.recorder import Tape
    from memcalc.tape.setting import Setting
    from memcalc.tape.units import Sharder

ALIGNED = 16  # bytes at a multiple of which parameters begin, where they are aligned
WIDE = 4  # bytes of an element of what the optimizer steps
LOW = "bf16"  # of a partition whose master copy is separate, whatever the model's dtype
OUTSIDE = "gradient outside the partition"
VIEWED = "reduction bucket that gradients keep"
DOUBLE = 8  # bytes of an element in the norm of a gradient (zero/utils.py, get_norm_dtype)


@dataclass(frozen=True)
class ZeroOneTwo(Zero):
    """DeepSpeedZeroOptimizer: `stage` 2 lets go of gradients as they are reduced, stage 1 keeps them to the end."""

    def flat(self, tensors: tuple[Tensor, ...]) -> Flat:
        """The trained parameters in their flat buffer."""
        aligned = ALIGNED // self.item if self.settings.parameter_alignment else 1
        return flat_of(tensors, self.ranks, aligned, round_robin=self.settings.round_robin_gradients)

    @property
    def compact(self) -> bool:
        """Gradients added up in fp32 in a buffer of the partition's size (_use_compact_grad_partition_buffer)."""
        return self.gradient_dtype == "fp32" and self.dtype != "fp32"

    @property
    def offloads(self) -> bool:
        """Whether master copy, states and their gradients are in host memory."""
        return self.settings.offload_optimizer.device != "none"

    def over(self, component: str) -> int:
        """Ranks that share master copies, states, and what is left of gradients."""
        return 1 if component == "weights" else self.ranks

    @property
    def notes(self) -> tuple[str, ...]:
        """Which gradients are whole while what is left of them is not."""
        whole = (
            "ZeRO-1 holds all gradients from the backward pass to the step: what is left of them then is a partition's",
        )
        return (*super().notes, *(whole if self.stage == 1 else ()))

    def place(self, tensors: tuple[Tensor, ...]) -> Local:
        """Flat parameters and the rest whole; the fullest rank's partition, and the gradients that it keeps."""
        flat = self.flat(tensors)
        kept = tuple(self.cast(tensor) for tensor in tensors if tensor.buffer or not tensor.trainable)
        weights = (*piece("flat parameters", flat.size, self.dtype), *kept)
        return Local(
            weights, self.gradients(flat), piece("partition", flat.partition, LOW), self.buffers(flat),
            accumulated=self.accumulated(tensors, flat),
        )  # fmt: skip

    @property
    def keeps_gradients(self) -> bool:
        """Whether autograd finds a parameter's gradient of an earlier micro batch."""
        return not self.reduces_at_once and not self.compact  # which are kept beside it (grad_accum)

    @property
    def reduces_at_once(self) -> bool:
        """Whether gradients are reduced as they come; stage 1 without overlap waits for the end of the backward pass."""
        return self.stage == 2 or self.overlaps

    def gradients(self, flat: Flat) -> tuple[Tensor, ...]:
        """What is left of the gradients when the backward pass is over: of the partition, parameters at its ends whole."""
        if self.lingers or (self.compact and self.stage == 2):
            own = pieces((clipped for _, clipped in flat.inside(flat.fullest)), "fp32")
            return (*own, *(pieces(self.left_over(flat), "fp32", OUTSIDE) if self.lingers else ()))
        if self.offloads:
            return ()
        inside = flat.inside(flat.fullest)
        outside = (one.elements - elements for one, elements in inside if one.elements > elements)
        return (*pieces((min(one.elements, elements) for one, elements in inside), self.gradient_dtype),
                *pieces(outside, self.gradient_dtype, OUTSIDE))  # fmt: skip

    @property
    def lingers(self) -> bool:
        """Whether gradients added up in fp32 are let go of in the step alone: stage 1's outside the partition."""
        return self.compact and self.stage == 1 and not self.offloads

    def left_over(self, flat: Flat) -> list[int]:
        """Elements of what those gradients keep to the step beside the partition.

        Contiguous ones are views of a bucket; those too large for it, and all where none is contiguous, are their own.
        """
        if not self.settings.contiguous_gradients:
            return [piece.elements for piece in flat.pieces]
        most = self.settings.reduce_bucket_size
        own = [elements for elements in self.outside(flat) if elements > most]
        once = self.viewed(flat) and not self.accumulating  # else the bucket is there all along
        return [*own, *([most] * (2 if self.overlaps else 1) if once else [])]

    def viewed(self, flat: Flat) -> bool:
        """Whether any gradient outside the partition is a view of a bucket."""
        most = self.settings.reduce_bucket_size
        return self.settings.contiguous_gradients and any(elements <= most for elements in self.outside(flat))

    def outside(self, flat: Flat) -> list[int]:
        """Elements of each parameter of which the partition has none."""
        mine = set(flat.overlapping(flat.fullest))
        return [piece.elements for piece in flat.pieces if piece not in mine]

    def accumulated(self, tensors: tuple[Tensor, ...], flat: Flat) -> tuple[Tensor, ...]:
        """What earlier micro batches leave: stage 1 keeps every parameter's own gradient."""
        if not self.accumulating:
            return ()
        if self.stage == 1:
            return tuple(replace(tensor, dtype=self.kept_dtype) for tensor in trained(tensors))
        return self.gradients(flat)

    @property
    def kept_dtype(self) -> str:
        """The dtype of gradients that parameters keep: grad_accum_dtype in stage 1 (use_grad_accum_attribute)."""
        return self.gradient_dtype if self.stage == 1 else self.dtype

    def buffers(self, flat: Flat) -> tuple[Tensor, ...]:
        """A staging buffer of the offload; stage 1's bucket stays from the first micro batch to the last."""
        held: tuple[Tensor, ...] = ()
        if self.offloads:
            largest = max((one.elements for one in flat.pieces), default=0)
            held = piece("temp_grad_buffer_for_gpu_offload", largest, self.dtype)
        if self.stage == 1 and self.accumulating:
            held += piece(
                VIEWED if self.lingers and self.viewed(flat) else "reduction bucket",
                self.bucket_bytes // BITS[LOW] * 8,
                LOW,
            )
        return held

    @property
    def bucket_bytes(self) -> int:
        """The buckets of contiguous gradients (setup_buckets): two where communication overlaps."""
        if not self.settings.contiguous_gradients and not self.offloads:
            return 0
        wide = self.kept_dtype if self.stage == 1 else self.dtype
        return self.settings.reduce_bucket_size * BITS[wide] // 8 * (2 if self.overlaps else 1)

    def attach(self, tape: Tape, model: Model, tensors: tuple[Tensor, ...]) -> Sharder:
        """Hooks on gradients alone."""
        from memcalc.sharding.bucketing import Bucketing  # noqa: PLC0415 - only a step that is run needs it

        ties = {tensor.name: tensor.tied_to for tensor in model.tensors if tensor.tied_to}
        return Bucketing(tape, self, self.flat(tensors), ties)

    def step(self, plain: int, local: Local, optimizer: Optimizer, setting: Setting) -> int:  # noqa: ARG002
        """Norms in fp64 one gradient at a time; the partition's gradients flattened, cast, and then used.

        Its own gradients, which persist until then, go before the optimizer runs: they are counted off.
        """
        if self.offloads:
            return 0
        partition = sum(tensor.elements for tensor in local.states)
        used, item = rounded(4 * partition), BITS[self.gradient_dtype] // 8
        slices = [tensor.elements for tensor in local.gradients if tensor.name != OUTSIDE]
        norm = rounded(DOUBLE * max(slices, default=0)) if self.settings.compute_grad_norm else 0
        if self.compact:
            going = sum(rounded(WIDE * one.elements) * one.count for one in local.gradients if one.name == OUTSIDE)
            going += sum(rounded(BITS[LOW] // 8 * one.elements) for one in local.buffers if one.name == VIEWED)
            return max(norm, plain - going)
        left = sum(rounded(item * tensor.elements * tensor.count) for tensor in local.gradients)
        flattened = rounded(item * partition) if self.gradient_dtype != "fp32" else 0  # else it is what is used
        return max(norm, flattened + used, used + plain - left)

    def staged(self, local: Local, optimizer: Optimizer, setting: Setting) -> Staged:  # noqa: ARG002
        """Buckets in the backward pass, this rank's gradients until they are flat and in fp32."""
        partition = 0 if self.offloads else sum(tensor.elements for tensor in local.states)
        item = BITS[self.gradient_dtype] // 8
        left = sum(rounded(item * tensor.elements * tensor.count) for tensor in local.gradients)
        wide = rounded(4 * partition) if partition and not self.compact else 0
        flat = rounded(item * partition) if item < WIDE and wide else 0
        late = (left,) if left and not self.accumulating else ()
        bucket = 0 if self.accumulating and self.stage == 1 else self.bucket_bytes
        parts = 2 if self.overlaps else 1
        return Staged((bucket // parts,) * parts if bucket else (), late, flat, wide, frees=self.stage == 1)

    def hosted(self, books: Books) -> Hosted:
        """What the offload keeps in one rank's host memory."""
        from memcalc.sharding.offload import hosted12  # noqa: PLC0415

        return hosted12(self, books)


@dataclass(frozen=True)
class Bf16Optimizer(ZeroOneTwo):
    """BF16_Optimizer: a buffer of all gradients in fp32 on every rank, all along, beside the parameters' own in bf16."""

    @property
    def compact(self) -> bool:
        """There is no partition's buffer."""
        return False

    @property
    def kept_dtype(self) -> str:
        """Parameters keep gradients of their own dtype."""
        return self.dtype

    def gradients(self, flat: Flat) -> tuple[Tensor, ...]:
        """The fp32 gradients of all parameters, and the parameters' own, which stay until the step is over."""
        return (*piece("fp32 gradients", flat.size, "fp32"), *piece("gradients", flat.elements, self.dtype))

    def place(self, tensors: tuple[Tensor, ...]) -> Local:
        """The fp32 gradients are there all along."""
        flat = self.flat(tensors)
        wide = piece("fp32 gradients", flat.size, "fp32")
        return super().place(tensors)._replace(buffers=(), accumulated=(*self.accumulated(tensors, flat), *wide))

    def staged(self, local: Local, optimizer: Optimizer, setting: Setting) -> Staged:  # noqa: ARG002
        """The copy of all gradients that is sent."""
        sent = self.sent_dtype
        size = sum(tensor.elements for tensor in local.gradients if tensor.dtype == "fp32")
        return Staged(flat=rounded(size * BITS[sent] // 8) if sent != "fp32" else 0)

    def attach(self, tape: Tape, model: Model, tensors: tuple[Tensor, ...]) -> Sharder:  # noqa: ARG002
        """A hook on the end of the backward pass."""
        from memcalc.sharding.casting import Casting  # noqa: PLC0415 - only a step that is run needs it

        return Casting(tape, self, self.flat(tensors))

    def step(self, plain: int, local: Local, optimizer: Optimizer, setting: Setting) -> int:  # noqa: ARG002
        """What the optimizer does with its partition; the gradients are there as they are needed."""
        return plain


def trained(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors that are optimized."""
    return [tensor for tensor in tensors if tensor.trainable and not tensor.buffer and not tensor.tied_to]


def piece(name: str, elements: int, dtype: str) -> tuple[Tensor, ...]:
    """A flat tensor, or none where it would be empty."""
    return (Tensor(name, (elements,), dtype=dtype),) if elements else ()


def pieces(sizes: Iterable[int], dtype: str, name: str = "gradient") -> tuple[Tensor, ...]:
    """The gradients that a partition keeps, like ones grouped."""
    return tuple(Tensor(name, (elements,), count, dtype=dtype) for elements, count in Counter(sizes).items())
