"""What of a step is left out of the allocator's replay: the smallest blocks, that hold little of the whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate
from memcalc.known import forget
from memcalc.replay import negligible
from memcalc.replay.negligible import LITTLE, SHARE, below, by_size, passing, stretches
from memcalc.timeline.slices import schedule

if TYPE_CHECKING:
    from memcalc.replay.reserve import Replay
    from memcalc.tape.step import Recording

MIB = 2**20
MODEL = {"model_type": "llama", "hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8,
         "num_key_value_heads": 4, "vocab_size": 32000, "num_hidden_layers": 9}  # fmt: skip
PLAIN: dict[str, Any] = {"model": MODEL, "batch_size": 1, "seq_len": 512, "precision": "bf16"}
AGAIN: dict[str, Any] = {**PLAIN, "checkpointing": "full"}


@pytest.fixture(params=[PLAIN, AGAIN])
def recording(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Recording:
    """A step as the allocator is given it."""
    given: list[Recording] = []

    def look(replay: Replay) -> int:
        given.append(replay.recording)
        return 0

    forget()
    monkeypatch.setattr("memcalc.simulation.measuring.reserved", look)
    assert estimate(request.param).memory.reserved
    forget()
    return given[0]


def test_stretches_are_the_whole_step(recording: Recording) -> None:
    found = [(start, stop) for start, stop, times in stretches(recording) for _ in range(times)]
    assert sorted(found) == sorted((piece.start, piece.stop) for piece in schedule(recording))


def test_every_block_is_counted_once(recording: Recording) -> None:
    born = [
        event for piece in schedule(recording) for event in recording.events[piece.start : piece.stop] if event >= 0
    ]
    assert sum(kept.moves for kept in by_size(recording)) == 2 * len(born)
    for kept in by_size(recording):
        assert kept.moves == 2 * sum(recording.sizes[storage] == kept.size for storage in born)


def test_of_a_small_model_next_to_nothing_is_left_out(recording: Recording) -> None:
    found = below(recording, 0, 10**9)
    assert found.nbytes * LITTLE <= sum(kept.forward + kept.step for kept in by_size(recording))


def test_the_smallest_are_left_out_until_few_remain(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negligible, "LITTLE", 10**18)
    sizes = by_size(recording)
    floor = below(recording, 10**12, 300).floor
    left = sum(kept.moves for kept in sizes if kept.size > floor)
    assert left <= 300 < left + sum(kept.moves for kept in sizes if kept.size == floor)


def test_what_is_left_out_holds_a_small_part(recording: Recording) -> None:
    for persistent in (0, 10 * MIB, 1000 * MIB):
        found = below(recording, persistent, 0)
        held = [(kept.forward, kept.step) for kept in by_size(recording) if kept.size <= found.floor]
        forward, step = (sum(part) for part in zip(*held, strict=True)) if held else (0, 0)
        assert found.nbytes == max(forward, step) + sum(passing(recording, found.floor).values())
        everything = sum(kept.forward + kept.step for kept in by_size(recording))
        assert SHARE * found.nbytes <= persistent + everything


def test_what_layers_that_run_again_make_is_no_less_for_going_at_once(recording: Recording) -> None:
    """Passing blocks count: a checkpointed layer keeps nothing but its input, and yet needs all of them."""
    assert sum(passing(recording, max(recording.sizes)).values()) > 16 * MIB
