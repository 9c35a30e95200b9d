"""The allocator's replay of a step, against the same log followed event by event."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate
from memcalc.known import forget
from memcalc.replay import moves as moving
from memcalc.replay import negligible, records
from memcalc.resolve import resolve
from memcalc.run.validation import parse_run
from memcalc.simulation import simulate
from memcalc.tape.hf import alike
from memcalc.tape.values import rounded

if TYPE_CHECKING:
    from memcalc.replay.reserve import Replay

MIB = 2**20
LLAMA = {"model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16,
         "num_key_value_heads": 8, "vocab_size": 32000, "num_hidden_layers": 12}  # fmt: skip
MIXED = {"model_type": "gemma3_text", "hidden_size": 640, "intermediate_size": 2048, "num_attention_heads": 4,
         "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 50000, "num_hidden_layers": 13,
         "sliding_window": 128}  # fmt: skip
RUNS: list[dict[str, Any]] = [
    {"model": LLAMA, "batch_size": 2, "seq_len": 1024},
    {"model": LLAMA, "batch_size": 3, "seq_len": 700, "precision": "bf16", "checkpointing": "full"},
    {"model": LLAMA, "batch_size": 2, "seq_len": 512, "precision": "amp-bf16", "attention": "eager"},
    {"model": MIXED, "batch_size": 2, "seq_len": 1024, "precision": "bf16", "optimizer": "sgd"},
]


def every_layer(kinds: list[int], **_: object) -> tuple[list[int], list[int]]:
    """In place of one record for like layers, one for each."""
    return list(range(len(kinds))), list(range(len(kinds)))


class Plain:
    """The allocator's rules, spelled out: a segment is a list of [since when it is free (0: in use), bytes]."""

    def __init__(self) -> None:
        self.pools: dict[bool, list[list[list[int]]]] = {True: [], False: []}
        self.reserved = self.clock = 0

    def malloc(self, size: int) -> list[int]:
        """The smallest that fits, the oldest of those; else a new segment."""
        small = size <= MIB
        fitting = [(one[1], one[0], at, place) for place, segment in enumerate(self.pools[small])
                   for at, one in enumerate(segment) if one[0] and one[1] >= size]  # fmt: skip
        if not fitting:
            taken = 2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
            self.reserved += taken
            self.pools[small].append([[0, taken]])
        *_, at, place = min(fitting, default=(0, -1))
        segment = self.pools[small][place]
        one, rest = segment[at], segment[at][1] - size
        one[0] = 0
        if rest > (0 if small else MIB):
            self.clock += 1
            one[1] = size
            segment.insert(at + 1, [self.clock, rest])
        return one

    def free(self, one: list[int]) -> None:
        """Back, and one with its free neighbours."""
        segment, at = next((segment, at) for pool in self.pools.values() for segment in pool
                           for at, part in enumerate(segment) if part is one)  # fmt: skip
        if at + 1 < len(segment) and segment[at + 1][0]:
            one[1] += segment.pop(at + 1)[1]
        if at and segment[at - 1][0]:
            one[1] += segment.pop(at - 1)[1]
        self.clock += 1
        one[0] = self.clock


def followed(replay: Replay) -> int:
    """Two steps, event by event; like tensors in the order of the layers."""
    allocator, recording, weights, trained = Plain(), replay.recording, replay.weights, replay.trained
    for sizes in in_layers([((size,), times) for size, times in weights]):
        for size in sizes:
            allocator.malloc(rounded(size))
    for first in (True, False):
        alive: dict[int, list[int]] = {}
        for event in recording.events[: recording.end]:
            if event >= 0:
                alive[event] = allocator.malloc(recording.sizes[event])
            elif ~event in alive:
                allocator.free(alive.pop(~event))
        for sizes in in_layers([(held.states, held.times) for held in trained]) if first else ():
            for size in sizes:
                allocator.malloc(size)
        together = in_layers([(held.together, held.times) for held in trained])
        for one in [*(allocator.malloc(size) for sizes in together for size in sizes), *alive.values()]:
            allocator.free(one)
    return allocator.reserved


def in_layers(tensors: list[tuple[tuple[int, ...], int]]) -> list[tuple[int, ...]]:
    """What each of so many like tensors has, layer after layer."""
    found: list[tuple[int, ...]] = []
    for times, group in groupby(tensors, key=lambda pair: pair[1]):
        found += [sizes for sizes, _ in group] * times
    return found


def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on every block of every layer is followed."""
    forget()
    monkeypatch.setattr(moving, "MOVES", 10**9)
    monkeypatch.setattr(negligible, "LITTLE", 10**18)


@pytest.mark.parametrize("run", RUNS)
def test_the_replay_is_the_log_event_by_event(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    everything(monkeypatch)
    alone = estimate(run).memory.reserved
    forget()
    monkeypatch.setattr(alike, "sampled", every_layer)
    monkeypatch.setattr("memcalc.simulation.measuring.reserved", followed)
    assert alone == pytest.approx(estimate(run).memory.reserved, rel=1e-3)


@pytest.mark.parametrize("run", RUNS)
def test_what_is_left_out_makes_little_difference(run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    everything(monkeypatch)
    alone = estimate(run).memory.reserved
    for most in (0, 500, 1000):
        forget()
        monkeypatch.setattr(moving, "MOVES", most)
        assert estimate(run).memory.reserved == pytest.approx(alone, rel=0.08)


@pytest.mark.parametrize("run", RUNS)
def test_no_less_is_reserved_than_is_allocated(run: dict[str, Any]) -> None:
    memory = estimate(run).memory
    assert memory.peak_allocated <= memory.reserved


def test_layers_at_the_ends_are_followed_whole() -> None:
    layers_of = [(100, 60)] * 32
    assert records.followed(layers_of, 3200) == [True] * 32
    least = 4 * 100 + 28 * 40
    assert (
        records.followed(layers_of, 0) == records.followed(layers_of, least) == [True] * 2 + [False] * 28 + [True] * 2
    )
    some = records.followed(layers_of, least + 7 * 60)
    assert sum(some[2:-2]) == 7
    assert max(len(run) for run in "".join("x" if one else " " for one in some).split("x")) <= 4  # spread evenly
    assert records.followed([(100, 0)] * 8, 0) == [True] * 8


def test_reserved_is_found_only_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise AssertionError("replayed")

    forget()
    monkeypatch.setattr("memcalc.simulation.measuring.reserved", refuse)
    timeline = simulate(resolve(parse_run(RUNS[0])))
    assert timeline
    assert timeline.peak > 0
    with pytest.raises(AssertionError, match="replayed"):
        _ = timeline.reserved


@pytest.mark.parametrize("run", RUNS)
def test_expandable_segments_reserve_little_more_than_is_allocated(run: dict[str, Any]) -> None:
    usual, expandable = estimate(run).memory, estimate({**run, "expandable_segments": True}).memory
    assert expandable.peak_allocated == usual.peak_allocated
    assert usual.peak_allocated <= expandable.reserved < usual.reserved


def test_what_is_too_tight_may_fit_with_expandable_segments() -> None:
    run = {**RUNS[1], "gpu": "80GiB"}
    usual, expandable = estimate(run), estimate({**run, "expandable_segments": True})
    room = (usual.memory.total + expandable.memory.total) // 2
    assert estimate({**run, "gpu": f"{room}B"}).verdict.level == "tight"
    assert "expandable segments" in estimate({**run, "gpu": f"{room}B"}).verdict.reason
    assert estimate({**run, "gpu": f"{room}B", "expandable_segments": True}).verdict.level == "fits"


def test_gradients_are_made_by_the_first_of_several_micro_batches() -> None:
    """What it leaves lies where its activations were: more than one micro batch's, less than with gradients of their own."""
    run = {**RUNS[1], "checkpointing": "none"}
    one, two, many = (estimate({**run, "grad_accum": times}).memory for times in (1, 2, 8))
    assert two.reserved == many.reserved
    assert one.reserved < two.reserved < one.reserved + 1.5 * one.components.gradients


def test_what_a_layer_makes_may_go_two_layers_on() -> None:
    """Cross-attention without images does nothing: what the layer behind has made goes with the layer before (a block
    given back twice, or before it is there, is an error of the allocator).
    """
    lora = {"rank": 8, "targets": r"model\.language_model\.layers\.\d*[38]\b.*\.(q_proj|v_proj)"}
    run = {"model": "llama-3.2-11b-vision", "precision": "bf16", "checkpointing": "full", "gpus": 2, "sharding": "fsdp"}
    memory = estimate({**run, "lora": lora}).memory
    assert memory.reserved >= memory.peak_allocated


def test_a_stage_without_a_head_keeps_no_outputs() -> None:
    """What the loop holds on to is made on the last stage: on the others there is nothing that ends with the next step's."""
    small = {**LLAMA, "num_hidden_layers": 4, "vocab_size": 1000}
    run = {"model": small, "batch_size": 2, "seq_len": 512, "keep_outputs": True, "grad_accum": 4, "gpus": 8, "sharding": "zero1",
           "parallel": {"tensor": 2, "pipeline": 4}, "offload": "activations"}  # fmt: skip
    memory = estimate(run).memory
    assert memory.reserved >= memory.peak_allocated


def test_what_an_earlier_micro_batch_left_in_one_stream_is_not_found_in_another() -> None:
    """CANINE's adapters have units as large as those that its layers are gathered in."""
    fsdp = {"strategy": "fsdp", "version": 1, "use_orig_params": True, "forward_prefetch": True}
    run = {"model": "canine-s", "gpus": 8, "sharding": fsdp, "precision": "bf16", "grad_accum": 2, "gpu": "h100",
           "checkpointing": {"mode": "full", "reentrant": True}, "lora": {"rank": 8, "targets": "all-linear"}}  # fmt: skip
    memory = estimate(run).memory
    assert memory.reserved >= memory.peak_allocated
