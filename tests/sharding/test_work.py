"""What is done for an answer under sharding, counted: no more than twice of what is done without, or may be."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate
from memcalc import moves as moving
from memcalc.allocator import CachingAllocator
from memcalc.known import forget
from memcalc.tape.hf import alike

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcalc.allocator import Block, Parted

MODELS = ["gpt2", "sdxl-unet", "llama-2-7b", "llama-3.1-405b", "qwen3.5-9b", "nemotron-h-56b", "t5-small"]
RUNS: list[dict[str, Any]] = [{}, {"checkpointing": "full"}]
SHARDED: dict[str, Any] = {
    "ddp": "ddp",
    "fsdp1": {"strategy": "fsdp", "version": 1},
    "fsdp2": "fsdp",
    "fsdp2 accelerate": {"strategy": "fsdp", "wrap": "accelerate", "reduce_dtype": "fp32"},
    "zero1": "zero1",
    "zero2": "zero2",
    "zero3": "zero3",
}
STEPS = 2  # that are followed


def work(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many layers are recorded, and how many moves of blocks followed."""
    found: Counter[str] = Counter()
    sampled, follow = alike.sampled, CachingAllocator.follow

    def counted(kinds: list[int], **how: Any) -> tuple[list[int], list[int]]:
        made = sampled(kinds, **how)
        found["layers"] += len(made[0])
        return made

    def followed(self: CachingAllocator, moves: Parted, sizes: Sequence[int], alive: list[Block]) -> None:
        found["moves"] += len(moves.small) + len(moves.large)
        follow(self, moves, sizes, alive)

    with monkeypatch.context() as patched:
        patched.setattr(alike, "sampled", counted)
        patched.setattr(CachingAllocator, "follow", followed)
        forget()
        assert estimate(run).memory.reserved
    forget()
    return found


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("run", RUNS, ids=str)
def test_sharding_at_most_doubles_the_work(model: str, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = work({"model": model, "gpu": "h100", **run}, monkeypatch)
    for name, sharding in SHARDED.items():
        sharded = work({"model": model, "gpu": "h100", **run, "gpus": 8, "sharding": sharding}, monkeypatch)
        assert sharded["layers"] <= 2 * plain["layers"], name
        assert sharded["moves"] <= 2 * max(plain["moves"], STEPS * moving.MOVES), name


@pytest.mark.parametrize("more", [{}, {"forward_prefetch": True}], ids=str)
def test_fsdp1_records_like_layers_once_where_frozen_units_outlast_theirs(
    more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 126 layers two at either end, one between, and those that are told apart by these beside them."""
    run = {"model": "llama-3.1-405b", "lora": 16, "gpus": 8, "sharding": {"strategy": "fsdp", "version": 1, **more}}
    assert work(run, monkeypatch)["layers"] <= 2 + 2 + 1 + 2


@pytest.mark.parametrize("more", [{"lora": 16}, {"lora": 16, "checkpointing": "full"}, {"forward": True}], ids=str)
@pytest.mark.parametrize("model", ["llama-2-7b", "gpt2", "mixtral-8x7b", "t5-base", "bert-base-uncased"])
def test_fsdp1_answers_as_if_every_layer_were_recorded(
    model: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"forward_prefetch": more.get("forward", False)}
    run = {"model": model, "gpus": 8, "sharding": {"strategy": "fsdp", "version": 1, **options}}
    run |= {key: value for key, value in more.items() if key != "forward"}
    few = estimate(run).memory
    with monkeypatch.context() as patched:
        patched.setattr(alike, "_ends_apart", lambda kinds: list(range(len(kinds))))
        forget()
        every = estimate(run).memory
    forget()
    assert (few.peak_allocated, few.reserved, few.phases) == (every.peak_allocated, every.reserved, every.phases)
