"""Stacks of layers: a record of each kind, in place of a record of every layer."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate
from memcalc.known import forget
from memcalc.tape.hf import alike

samples_of = alike.sampled


def test_the_first_one_of_each_kind_and_the_last() -> None:
    assert samples_of([7, 7, 7, 7, 7], chained=False) == ([0, 1, 4], [0, 1, 1, 1, 2])
    assert samples_of([7, 8, 7], chained=False) == ([0, 1, 2], [0, 1, 2])
    assert samples_of([1, 2, 1, 2, 1, 2], chained=False) == ([0, 1, 2, 5], [0, 1, 2, 1, 2, 3])


def test_in_a_chain_each_record_follows_one_of_the_kind_that_its_layer_follows() -> None:
    kinds = [0, 1, 2, 3, 1, 2, 3, 1, 4]
    samples, order = samples_of(kinds, chained=True)
    assert (samples, order) == ([0, 1, 2, 3, 7, 8], [0, 1, 2, 3, 1, 2, 3, 4, 5])
    for sample, before in zip(samples[1:], samples, strict=False):
        assert kinds[sample - 1] == kinds[before]


def test_in_a_chain_of_kinds_told_by_those_beside_them_a_record_has_beside_it_what_its_layer_has() -> None:
    alone = [0, 0, 0, 1] * 4  # three of a kind and one of another, in turn
    kinds = [0, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 5]
    samples, order = samples_of(kinds, chained=True, alone=alone)
    assert samples == [0, 1, 2, 3, 4, 14, 15]
    for layer, record in enumerate(order):
        for side in (-1, 1):
            if layer + side in range(len(alone)):
                assert alone[samples[record + side]] == alone[layer + side]


RUNS: list[dict[str, Any]] = [
    {"model": "deepseek-v2-lite", "offload": "activations"},  # the first layer is dense, its saved values larger
    {"model": "phi-2", "offload": "activations", "lora": 64},  # the first layer's input needs no gradient
    {"model": "stablelm-base-alpha-3b", "offload": "activations"},
    {"model": "bloom-560m", "checkpointing": {"mode": "full", "every": 3}},
    {"model": "bloom-560m", "checkpointing": {"mode": "selective", "every": 5}, "gpus": 4, "sharding": "fsdp"},
    {"model": "bloom-560m", "checkpointing": {"mode": "full", "every": 3}, "offload": "activations"},
    {"model": "qwen3-0.6b", "checkpointing": {"mode": "full", "every": 99}, "offload": "activations"},
    {"model": "qwen3.5-9b", "gpus": 4, "sharding": "fsdp"},
    {"model": "deepseek-moe-16b"},  # what a mixture puts out has the dtype of what it was given
    {"model": "gpt-oss-20b", "offload": "activations", "precision": "amp-bf16"},
    {"model": "llava-1.5-7b", "freeze": ["vision_tower"]},  # one hidden state of its tower is read
    {"model": "llava-1.5-7b", "precision": "bf16-autocast"},
    {"model": "llava-1.5-7b", "checkpointing": "full"},
    {"model": "llava-1.5-7b", "offload": "activations"},
    {"model": "nemotron-h-56b", "lora": 16},  # adapters in layers of one kind, none of them the first
    {"model": "qwen3.5-9b", "lora": {"rank": 8, "targets": ["q_proj", "v_proj"]}, "gpus": 4, "sharding": "fsdp"},
]


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_a_record_of_each_kind_is_as_good_as_one_of_every_layer(
    run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"precision": "bf16", "batch_size": 2, "seq_len": 64, **run}
    sampled = estimate(asked).memory
    forget()
    monkeypatch.setattr(alike, "sampled", lambda kinds, **_: (list(range(len(kinds))),) * 2)
    every = estimate(asked).memory
    forget()
    assert (sampled.phases, sampled.at_peak) == (every.phases, every.at_peak)
    assert sampled.components == every.components
