"""The largest value that fits: it does, and the next one does not."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate, max_fitting
from memcalc.errors import RunInvalid, UsageError

LORA: dict[str, Any] = {"model": "llama-3.2-1b", "lora": 16, "gpu": "16GiB", "seq_len": 1024, "precision": "bf16"}


def fits(run: dict[str, Any], **change: Any) -> bool:
    return bool(estimate({**run, **change}).verdict.fits)


def test_the_largest_batch() -> None:
    (row,) = max_fitting(LORA).rows
    assert isinstance(row.value, int)
    assert fits(LORA, batch_size=row.value)
    assert not fits(LORA, batch_size=row.value + 1)
    assert row.bounded == "memory"
    assert row.headroom is not None
    beyond = estimate({**LORA, "batch_size": row.value + 1}).verdict.headroom
    assert beyond is not None
    assert row.over == -beyond


def test_the_longest_sequence_ends_with_memory_or_with_the_positions() -> None:
    (row,) = max_fitting({**LORA, "gpu": "8GiB"}, "seq_len").rows
    assert isinstance(row.value, int)
    assert fits({**LORA, "gpu": "8GiB"}, seq_len=row.value)
    assert not fits({**LORA, "gpu": "8GiB"}, seq_len=row.value + 1)
    (whole,) = max_fitting({"model": "gpt2", "gpu": "h100-80gb"}, "seq_len").rows
    assert (whole.value, whole.bounded) == (1024, "positions")


def test_the_largest_rank() -> None:
    run = {**LORA, "gpu": "6GiB", "seq_len": 128}
    (row,) = max_fitting(run, "lora.rank").rows
    assert isinstance(row.value, int)
    assert fits(run, lora={"rank": row.value})
    assert not fits(run, lora={"rank": row.value + 1})


def test_in_two_dimensions() -> None:
    """The batch for each length, which falls as sequences grow; every cell fits and its neighbour does not."""
    answer = max_fitting(LORA, "batch_size", "seq_len", sweep={"seq_len": [256, 512, 1024]})
    assert [row.others for row in answer.rows] == [{"seq_len": 256}, {"seq_len": 512}, {"seq_len": 1024}]
    values = [int(row.value or 0) for row in answer.rows]
    assert values == sorted(values, reverse=True)
    for row, value in zip(answer.rows, values, strict=True):
        assert fits(LORA, batch_size=value, **row.others)
        assert not fits(LORA, batch_size=value + 1, **row.others)


def test_the_usual_lengths_end_at_the_positions() -> None:
    answer = max_fitting({"model": "gpt2", "gpu": "16GiB", "precision": "bf16"}, "batch_size", "seq_len")
    assert [row.others["seq_len"] for row in answer.rows] == [512, 1024]


def test_the_largest_model() -> None:
    run = {"model": "gpt2", "gpu": "rtx-3060-12gb", "lora": 16, "quantize": "nf4", "checkpointing": "full"}
    (row,) = max_fitting(run, "model").rows
    assert isinstance(row.value, str)
    assert isinstance(row.beyond, str)
    assert fits(run, model=row.value)
    assert not fits(run, model=row.beyond)
    sizes = [estimate({**run, "model": name}).model.parameters for name in (row.value, row.beyond)]
    assert sizes[0] <= 1.01 * sizes[1]  # adapters counted in


def test_nothing_fits() -> None:
    answer = max_fitting({"model": "llama-3-8b", "gpu": "8GiB"})
    assert not answer.fits
    assert answer.rows[0].value is None
    assert (answer.rows[0].over or 0) > 0


def test_what_is_asked_must_be_a_key_and_a_gpu_named() -> None:
    with pytest.raises(UsageError, match="did you mean batch_size"):
        max_fitting(LORA, "batchsize")
    with pytest.raises(RunInvalid, match="gpu"):
        max_fitting({"model": "gpt2"})


def test_over_several_gpus() -> None:
    run = {key: value for key, value in LORA.items() if key != "gpu"}
    answer = max_fitting(run, sweep={"gpu": ["8GiB", "16GiB"]})
    small, large = (int(row.value or 0) for row in answer.rows)
    assert [row.others["gpu"] for row in answer.rows] == ["8GiB", "16GiB"]
    assert small < large
    assert large == max_fitting(LORA).rows[0].value


@pytest.mark.parametrize(("model", "keys", "nothing"), [
    ("resnet-50", ("seq_len",), "sequence"), ("yolos-tiny", ("batch_size", "seq_len"), "sequence"),
    ("sd-vae", ("seq_len",), "sequence"), ("gpt2", ("target_len",), "target sequence"),
])  # fmt: skip
def test_a_length_that_the_model_has_not(model: str, keys: tuple[str, ...], nothing: str) -> None:
    with pytest.raises(UsageError, match=f"{model} has no {nothing} to lengthen"):
        max_fitting({"model": model, "gpu": "h100-80gb"}, *keys)
