"""How long sequences are where nobody says: tokens up to the model's limit, sound by the second."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate
from memcalc.errors import RunInvalid

# (model, inputs of ten seconds, what they are called): 16 kHz waveforms, 100 frames of a spectrogram, or two to each
SOUND = [
    ("wav2vec2-base-960h", 160_000, "samples"), ("wavlm-base-plus", 160_000, "samples"), ("moonshine-tiny", 160_000, "samples"),
    ("parakeet-ctc-1.1b", 1_000, "frames"), ("w2v-bert-2.0", 500, "frames"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "length", "unit"), SOUND)
def test_sound_is_ten_seconds_long_where_nobody_says(name: str, length: int, unit: str) -> None:
    found = estimate({"model": name})
    assert found.run["seq_len"] == length
    assert [note.code for note in found.assumptions if note.path == "seq_len"] == [unit]
    assert not [note.code for note in found.warnings]


@pytest.mark.parametrize(("asked", "expected"), [({}, 60), ({"seq_len": 40_000}, 15), ({"target_len": 7}, 7)])
def test_a_decoder_of_speech_writes_six_tokens_a_second(asked: dict[str, Any], expected: int) -> None:
    assert estimate({"model": "moonshine-tiny", **asked}).run["target_len"] == expected


@pytest.mark.parametrize(("name", "length"), [("llama-2-7b", 2048), ("gpt2", 1024), ("bert-base-uncased", 512)])
def test_text_is_2048_tokens_long_or_as_long_as_the_model_goes(name: str, length: int) -> None:
    found = estimate({"model": name})
    assert found.run["seq_len"] == length
    assert found.run["target_len"] is None


def test_sound_too_short_for_its_convolutions_is_a_fault() -> None:
    """Kernels of 10, 3, 3, 3, 3, 2, 2 under strides of 5, 2, 2, 2, 2, 2, 2 leave one frame of 400 samples, none of 399."""
    estimate({"model": "wav2vec2-base-960h", "seq_len": 400})
    with pytest.raises(RunInvalid, match=r"seq_len: the sequence is too small .* left 1 for a kernel of 2"):
        estimate({"model": "wav2vec2-base-960h", "seq_len": 399})


@pytest.mark.parametrize(("asked", "size"), [({}, "3 x 512 x 512"), ({"image_size": [512, 1024]}, "3 x 512 x 1024")])
def test_images_have_the_size_of_the_preset_or_the_run(asked: dict[str, Any], size: str) -> None:
    notes = estimate({"model": "segformer-b0", **asked}).assumptions
    assert f"images of {size}" in [note.message for note in notes]


def test_images_of_no_size_are_asked_for_theirs() -> None:
    with pytest.raises(RunInvalid, match=r"says nothing of the size of its images or latents: say it"):
        estimate({"model": {"model_type": "segformer"}})
    assert estimate({"model": {"model_type": "segformer"}, "image_size": 256}).memory.components.activations
