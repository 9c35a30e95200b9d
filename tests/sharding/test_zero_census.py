"""What real DeepSpeed engines hold between the moments of a step, byte for byte.

The figures are a census of all live tensors of at least a KiB in DeepSpeed 0.19.8 engines that ran over gloo on 2 or 4
ranks: an embedding 1000x256, six linear layers 256x256, a LayerNorm of 256 and a head 1000x256; torch's AdamW, two micro
batches, buckets of 200,000 elements. Rank 0's are given. LayerNorm's two vectors are too small to be seen, unless they lie
in a flat buffer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc.dtypes import nbytes
from memcalc.known import forget
from memcalc.ledger import ledger
from memcalc.models import from_preset
from memcalc.optimizers import resolve
from memcalc.precision import recipe
from memcalc.run import Run
from memcalc.sharding.deepspeed import deepspeed
from memcalc.sharding.flat import Flat
from memcalc.sharding.strategy import books
from memcalc.sharding.zero import Zero
from memcalc.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL = (
    Tensor("embed.weight", (1000, 256), role="embedding"),
    Tensor("layers.{0..5}.weight", (256, 256), 6, "linear"),
    Tensor("norm.weight", (256,), role="norm"),
    Tensor("norm.bias", (256,), role="norm"),
    Tensor("head.weight", (1000, 256), role="linear"),
)
PARAMETERS = 905_728
OPTIONS = {"reduce_bucket_size": 200_000, "allgather_bucket_size": 200_000, "stage3_param_persistence_threshold": 0}
SMALL = 2 * 512  # bytes of the LayerNorm's own gradients
# (stage, ranks, dtype, gradients accumulated in): bytes after the engine is made, after a micro batch that is not the last,
# after the last, after the step
CENSUS = {
    ("zero1", 2, "bf16", ""): (3_622_912, 9_456_256, 8_282_112, 7_245_824),
    ("zero1", 2, "bf16", "fp32"): (7_245_824, 12_679_168, 12_679_168, 10_868_736),
    ("zero2", 2, "bf16", ""): (3_622_912, 8_282_112, 8_282_112, 7_245_824),
    ("zero2", 2, "bf16", "fp32"): (3_622_912, 9_057_280, 9_057_280, 7_245_824),
    ("zero3", 2, "bf16", ""): (4_022_912, 7_645_824, 7_645_824, 7_645_824),
    ("zero3", 2, "bf16", "fp32"): (4_928_640, 8_551_552, 8_551_552, 8_551_552),
    ("zero3", 2, "fp32", ""): (6_234_368, 9_857_280, 9_857_280, 9_857_280),
    ("zero0", 2, "bf16", ""): (12_673_024, 14_483_456, 14_483_456, 12_673_024),
    ("zero2", 4, "bf16", ""): (2_717_184, 5_040_640, 5_040_640, 4_528_640),
}


@pytest.fixture(autouse=True)
def _of_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    monkeypatch.setattr(Flat, "fullest", 0)


def _strategy(name: str, ranks: int, dtype: str, wide: str) -> Zero:
    options: dict[str, Any] = {**OPTIONS, **({"grad_accum_dtype": wide} if wide else {})}
    run = Run(model="gpt2", precision="mixed-bf16" if dtype == "bf16" else "fp32", grad_accum=2)
    made = deepspeed(name, options, ranks, run, from_preset("gpt2"))
    assert isinstance(made, Zero)
    return made


def _held(strategy: Zero, dtype: str, tensors: tuple[Tensor, ...]) -> Mapping[str, int]:
    """Bytes by component, and what is there of gradients when a further micro batch begins."""
    local = strategy.place(tensors)
    kept = strategy.recipe_of(recipe("mixed-bf16" if dtype == "bf16" else "fp32"))
    book = books(local, kept, resolve("adamw"), tensors, ledger(tensors, kept, resolve("adamw")))
    held = {
        name: book.total(name) for name in ("weights", "master_weights", "gradients", "optimizer_states", "buffers")
    }
    left = local.gradients if local.accumulated is None else local.accumulated
    there = sum(tensor.count * nbytes(tensor.elements, tensor.dtype or kept.gradients) for tensor in left)
    return {**held, "accumulated": there}


@pytest.mark.parametrize("case", CENSUS, ids=lambda case: " ".join(map(str, case)))
def test_between_the_moments_of_a_step(case: tuple[str, int, str, str]) -> None:
    name, _, dtype, wide = case
    tensors = tuple(tensor for tensor in MODEL if name != "zero0" or tensor.role != "norm")
    held = _held(_strategy(*case), dtype, tensors)
    ground, states, gradients = held["weights"] + held["master_weights"], held["optimizer_states"], held["gradients"]
    made: tuple[int, ...]
    match name:
        case "zero0":  # states are made with the engine
            made = ground + states, ground + states + gradients, ground + states + gradients, ground + states
        case "zero1" if wide:  # fp32 gradients of all parameters are there all along, their own until the step is over
            all_along = ground + 4 * PARAMETERS
            last = ground + states + gradients - SMALL
            made = all_along, last, last, all_along + states
        case "zero1":  # parameters keep their gradients, and the bucket stays, until the last micro batch
            middle = ground + states + held["accumulated"] - SMALL + held["buffers"]
            made = ground, middle, ground + states + gradients, ground + states
        case "zero2":
            made = ground, *[ground + states + gradients] * 2, ground + states
        case _:  # the bucket and the partitions of gradients are there all along
            all_along = ground + gradients + held["buffers"]
            made = all_along, *[all_along + states] * 3
    assert made == CENSUS[case]
