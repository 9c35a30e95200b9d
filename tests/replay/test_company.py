"""A step's log with those of its companions in it."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate
from memcalc.known import forget
from memcalc.replay import company
from memcalc.replay import reserve as replaying
from tests.replay.test_reserve import every_layer, everything, followed

if TYPE_CHECKING:
    from memcalc.replay.reserve import Replay
    from memcalc.tape.step import Recording

LLAMA = {"model_type": "llama", "vocab_size": 8000, "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 5,
         "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 4096}  # fmt: skip
RUN: dict[str, Any] = {"model": LLAMA, "precision": "bf16", "optimizer": "adamw", "batch_size": 2, "seq_len": 512}
COMPANIONS: list[Any] = [
    ["reference"],
    ["reward", "reference"],
    [{"role": "value", "trainable": True}],
    [{"role": "value", "trainable": True}, "reference"],
]


def told(companions: Any, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Replay:
    """What the allocator is replayed from."""
    given: list[Replay] = []

    def look(replay: Replay) -> int:
        given.append(replay)
        return 0

    forget()
    monkeypatch.setattr(company, "reserved", look)
    assert estimate({**RUN, "companions": companions, **more}).memory.reserved
    monkeypatch.setattr(company, "reserved", replaying.reserved)
    return given[0]


def bounds(recording: Recording) -> list[int]:
    """All places that the log says something of, in the order in which they must come."""
    stacks = recording.stacks
    forward = [place for stack in stacks for place in stack.events]
    backward = [place for stack in reversed(stacks) for place in stack.returns]
    return [0, *forward, recording.forward_end, *backward, recording.end]


@pytest.mark.parametrize("companions", COMPANIONS)
@pytest.mark.parametrize("keep_outputs", [False, True])
def test_all_are_in_one_log(companions: Any, keep_outputs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = told(companions, monkeypatch, keep_outputs=keep_outputs).recording
    born = [event for event in recording.events if event >= 0]
    assert sorted(born) == list(range(len(recording.sizes)))  # each once
    places = {event: at for at, event in enumerate(recording.events)}
    assert all(places[~event] < at for event, at in places.items() if event < 0)
    assert bounds(recording) == sorted(bounds(recording))
    assert recording.end == len(recording.events)
    stay = {event for event in born if ~event not in places} - recording.gradients
    assert len(stay) == keep_outputs


@pytest.mark.parametrize("companions", COMPANIONS)
def test_the_replay_is_that_of_the_whole_log(companions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    everything(monkeypatch)
    found = replaying.reserved(told(companions, monkeypatch))
    monkeypatch.setattr("memcalc.tape.hf.alike.sampled", every_layer)
    assert found == pytest.approx(followed(told(companions, monkeypatch)), rel=1e-3)


@pytest.mark.parametrize("companions", COMPANIONS)
def test_nothing_fits_in_less_than_is_there(companions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replay = told(companions, monkeypatch)
    sizes, events = replay.recording.sizes, replay.recording.events
    live = max(accumulate(sizes[event] if event >= 0 else -sizes[~event] for event in events))
    weights = sum(size * count for size, count in replay.weights)
    memory = estimate({**RUN, "companions": companions}).memory
    assert memory.reserved >= max(memory.peak_allocated, weights + live)


def test_a_reference_of_the_model_itself_brings_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    lora = {"rank": 8, "targets": ["q_proj"]}
    own = told(["reference"], monkeypatch, lora=lora)
    shared = told([{"role": "reference", "shared": True}], monkeypatch, lora=lora)
    assert sum(size * count for size, count in own.weights) > 1.8 * sum(size * count for size, count in shared.weights)
    assert len(own.recording.events) == pytest.approx(len(shared.recording.events), rel=0.01)
