"""The first micro batch of a step as told from the record of a later one, against its own record."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.resolve import resolve
from memcalc.run.validation import parse_run
from memcalc.simulation import setting_of, simulate
from memcalc.tape.earlier import first_micro_batch, without_reduction
from memcalc.tape.step import record_step

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.model import Model
    from memcalc.tape.recorder import Tape
    from memcalc.tape.setting import Setting
    from memcalc.tape.step import Recording
    from memcalc.tape.units import Sharder
    from memcalc.tape.weights import Weights

LANGUAGE, OTHERS = ["gpt2", "t5-small", "qwen3-0.6b"], ["vit-base-patch16-224", "mamba-130m", "resnet-50"]
SWITCHES: list[dict[str, Any]] = [
    {}, {"checkpointing": "full"}, {"precision": "amp-bf16"}, {"precision": "bf16", "attention": "eager"},
    {"keep_outputs": True},
]  # fmt: skip
ADAPTED: list[dict[str, Any]] = [
    {"lora": {"rank": 8}, "checkpointing": "full"},
    {"lora": {"rank": 8}, "quantize": "nf4"},
]
RUNS = [
    *({"model": model, **switches} for model in (*LANGUAGE, *OTHERS) for switches in SWITCHES),
    *({"model": model, **switches} for model in LANGUAGE for switches in ADAPTED),
]

FLAT = [
    {}, {"reduce_dtype": "fp32"}, {"use_orig_params": True}, {"forward_prefetch": True}, {"wrap": "none"},
]  # fmt: skip


def told(recording: Recording) -> tuple[object, ...]:
    """A recording with its storages numbered by their births."""
    born = [event for event in recording.events if event >= 0]
    number = {storage: place for place, storage in enumerate(born)}
    moves = [number[event] if event >= 0 else ~number[~event] for event in recording.events]
    storages = [(recording.sizes[one], recording.owners[one], one in recording.gradients) for one in born]
    stacks = [(stack.events, stack.returns, stack.order) for stack in recording.stacks]
    return moves, storages, stacks, recording.forward_end, recording.end, recording.kept


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_what_follows_is_what_would_be_recorded(run: dict[str, Any]) -> None:
    met: list[bool] = []

    def both(model: Model, setting: Setting, weights: Weights, attach: Callable[[Tape], Sharder | None]) -> Recording:
        later = record_step(model, setting, weights, attach)
        first = record_step(model, replace(setting, accumulating=False), weights, attach)
        assert later.added is not None
        assert told(first_micro_batch(later, later.added)) == told(first)
        met.append(bool(later.added))
        return later

    plan = resolve(parse_run({**run, "grad_accum": 2}))
    assert setting_of(plan).accumulating
    simulate(plan, both)
    assert met == [True]


@pytest.mark.parametrize("options", FLAT, ids=str)
@pytest.mark.parametrize("checkpointing", ["none", "full"])
def test_what_is_not_reduced_leaves_what_the_next_micro_batch_finds(
    options: dict[str, Any], checkpointing: str
) -> None:
    """FSDP1's no_sync: flat gradients stay, one of each unit, and nothing else does; the last unit's is the first."""
    met: list[Recording] = []

    def kept(*given: Any) -> Recording:
        met.append(record_step(*given))
        return met[-1]

    sharding = {"strategy": "fsdp", "version": 1, **options}
    run = {"model": "qwen3-0.6b", "precision": "mixed-bf16", "checkpointing": checkpointing, "gpus": 8}
    simulate(resolve(parse_run({**run, "sharding": sharding, "grad_accum": 2})), kept)
    later = met[0]
    assert later.unreduced is not None
    first = without_reduction(later, later.unreduced)
    alive: list[int] = []
    for event in first.events:
        if event >= 0:
            alive.append(event)
        else:
            alive.remove(~event)
    found = [event for event in later.events if event in later.left]
    assert first.gradients.issuperset(alive)
    assert [first.sizes[storage] for storage in alive[::-1]] == [later.sizes[storage] for storage in found]
    for before, after in zip(later.stacks, first.stacks, strict=True):
        assert [later.events[at] for at in before.returns] == [first.events[at] for at in after.returns]


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("word", ["FULL_SHARD", "SHARD_GRAD_OP"])
def test_only_what_is_added_to_is_found_there(micro_batches: int, word: str) -> None:
    met: list[Recording] = []

    def kept(*given: Any) -> Recording:
        met.append(record_step(*given))
        return met[-1]

    sharding = {"strategy": "fsdp", "version": 1, "sharding_strategy": word}
    run = {"model": "qwen3-0.6b", "gpus": 8, "sharding": sharding, "grad_accum": micro_batches}
    simulate(resolve(parse_run(run)), kept)
    how = met[0].unreduced
    assert (how is not None) == (micro_batches > 1)
    if how:
        assert bool(how.stays) == (word == "SHARD_GRAD_OP")  # nothing is let go of before the last micro batch


def test_gathered_parameters_stay_without_reduction() -> None:
    """no_sync with SHARD_GRAD_OP: FSDP1 lets go of no unit's parameters, and the next micro batch gathers none."""
    met: list[Recording] = []

    def kept(*given: Any) -> Recording:
        met.append(record_step(*given))
        return met[-1]

    sharding = {"strategy": "fsdp", "version": 1, "sharding_strategy": "SHARD_GRAD_OP"}
    run = {"model": "qwen3-0.6b", "precision": "mixed-bf16", "gpus": 8, "sharding": sharding, "grad_accum": 2}
    simulate(resolve(parse_run(run)), kept)
    how = met[0].unreduced
    assert how
    first = without_reduction(met[0], how)
    assert all(~storage in met[0].events and ~storage not in first.events for storage in how.stays)
    assert how.stays < first.gradients
    assert how.once.isdisjoint(how.stays)
    assert all(~storage in first.events for storage in how.once)  # shards cast to be gathered
    assert len(how.once) == len(how.stays)
