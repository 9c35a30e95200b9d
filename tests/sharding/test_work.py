"""What is done for an answer under sharding, counted: no more than twice of what is done without, or may be."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate
from memcalc.known import forget
from memcalc.replay import moves as moving
from memcalc.replay.allocator import Pool
from memcalc.tape.hf import alike

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memcalc.replay.allocator import Block

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
    sampled, follow = alike.sampled, Pool.follow

    def counted(kinds: list[int], **how: Any) -> tuple[list[int], list[int]]:
        made = sampled(kinds, **how)
        found["layers"] += len(made[0])
        return made

    def followed(self: Pool, moves: list[int], sizes: Sequence[int], alive: list[Block]) -> None:
        found["moves"] += len(moves)
        follow(self, moves, sizes, alive)

    with monkeypatch.context() as patched:
        patched.setattr(alike, "sampled", counted)
        patched.setattr(Pool, "follow", followed)
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


@pytest.mark.parametrize(("model", "layers"), [("gemma-2-27b", 8), ("nemotron-h-56b", 26)])
def test_fsdp1_records_layers_of_several_kinds_once_for_those_with_the_same_around_them(
    model: str, layers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 46 layers of two kinds in turn and 118 of three in a pattern: told by two on either side, where units are frozen."""
    for word in ("FULL_SHARD", "SHARD_GRAD_OP"):
        sharding = {"strategy": "fsdp", "version": 1, "sharding_strategy": word}
        assert work({"model": model, "lora": 16, "gpus": 8, "sharding": sharding}, monkeypatch)["layers"] <= layers, (
            word
        )


@pytest.mark.parametrize("run", [{}, {"checkpointing": "full"}, {"lora": 16, "checkpointing": "full"}], ids=str)
@pytest.mark.parametrize("model", ["llama-2-7b", "llama-3.1-405b", "falcon-h1-7b"])
def test_each_kind_of_stage_takes_no_more_work_than_the_whole_model(
    model: str, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first stage, one between and the last, as long as none of them holds all that another does."""
    if model == "falcon-h1-7b" and "lora" in run:
        pytest.skip("peft has no default targets for it")
    whole = {"model": model, "gpu": "h100", "grad_accum": 16, **run}
    plain = work(whole, monkeypatch)
    staged = work({**whole, "gpus": 64, "parallel": {"pipeline": 8}}, monkeypatch)
    assert staged["layers"] <= 3 * plain["layers"]
    assert staged["moves"] <= 3 * max(plain["moves"], 2 * STEPS * moving.MOVES)


@pytest.mark.parametrize("sharding", ["fsdp", {"strategy": "fsdp", "reshard_after_forward": 2}], ids=str)
@pytest.mark.parametrize("run", [{}, {"grad_accum": 4}, {"lora": 16}], ids=str)
def test_what_layers_end_of_others_is_looked_for_once_for_like_layers(
    run: dict[str, Any], sharding: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not again for each of 126: whole or in part, next to the ends and between, and where a micro batch is another."""
    looks = 0
    die = moving.Moves._die  # noqa: SLF001 - it is what is counted

    def counted(*given: Any) -> None:
        nonlocal looks
        looks += 1
        die(*given)

    with monkeypatch.context() as patched:
        patched.setattr(moving.Moves, "_die", counted)
        forget()
        assert estimate(
            {"model": "llama-3.1-405b", "gpu": "h100", **run, "gpus": 8, "sharding": sharding}
        ).memory.reserved
    forget()
    assert looks <= 126


@pytest.mark.parametrize(
    "more",
    [{"lora": 16}, {"lora": 16, "word": "SHARD_GRAD_OP"}, {"lora": 16, "checkpointing": "full"}, {"forward": True}],
    ids=str,
)
@pytest.mark.parametrize("model", ["llama-2-7b", "gpt2", "mixtral-8x7b", "t5-base", "bert-base-uncased", "gemma-2-2b"])
def test_fsdp1_answers_as_if_every_layer_were_recorded(
    model: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"forward_prefetch": more.get("forward", False), "sharding_strategy": more.get("word", "FULL_SHARD")}
    run = {"model": model, "gpus": 8, "sharding": {"strategy": "fsdp", "version": 1, **options}}
    run |= {key: value for key, value in more.items() if key not in ("forward", "word")}
    few = estimate(run).memory
    with monkeypatch.context() as patched:
        patched.setattr(alike, "_outlasting", lambda kinds, _: list(range(len(kinds))))
        forget()
        every = estimate(run).memory
    forget()
    assert (few.peak_allocated, few.reserved, few.phases) == (every.peak_allocated, every.reserved, every.phases)
