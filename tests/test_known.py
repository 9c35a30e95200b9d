"""What has been found already is found again, and never in the place of something else."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc import estimate
from memcalc.known import MOST, Known, forget

RUN: dict[str, Any] = {"model": "gpt2", "precision": "bf16", "seq_len": 512}
OTHERS: list[dict[str, Any]] = [
    {}, {"gpu": "h100"}, {"optimizer": "sgd"}, {"precision": "amp-bf16"}, {"batch_size": 2}, {"seq_len": 256},
    {"checkpointing": "full"}, {"attention": "eager"}, {"lora": {"rank": 8}}, {"lora": {"rank": 16}},
    {"grad_accum": 4}, {"keep_outputs": True}, {"gpus": 4, "sharding": "fsdp"}, {"gpus": 8, "sharding": "fsdp"},
    {"gpus": 8, "sharding": "zero2"}, {"model": "gpt2-medium"}, {"optimizer": {"name": "adamw", "implementation": "for-loop"}},
]  # fmt: skip


def test_what_is_found_again_is_what_would_be_found_anew() -> None:
    forget()
    first = [estimate({**RUN, **other}) for other in OTHERS]
    again = [estimate({**RUN, **other}) for other in OTHERS]
    assert again == first
    for other, report in zip(OTHERS, first, strict=True):
        forget()
        assert estimate({**RUN, **other}) == report


def test_a_step_is_recorded_once_for_all_optimizers_and_gpus() -> None:
    forget()
    steps = Known.every[:]
    for optimizer in ("adamw", "sgd", "lion"):
        for gpu in ("h100", "a100"):
            estimate({**RUN, "optimizer": optimizer, "gpu": gpu})

    assert 1 in [len(known) for known in steps]


def test_those_asked_for_last_are_kept() -> None:
    known: Known[int] = Known()
    for number in range(MOST + 10):
        known.get(number, None, lambda: 7)
        known.get(0, None, lambda: 8)
    assert len(known) == MOST
    assert known.get(0, None, lambda: 9) == 7
    assert known.get(5, None, lambda: 9) == 9


@pytest.mark.parametrize("key", [[1], ({},)])
def test_what_can_not_be_told_apart_is_made_anew(key: Any) -> None:
    known: Known[int] = Known()
    assert known.get(key, None, lambda: 1) == 1
    assert known.get(key, None, lambda: 2) == 2
    assert not len(known)


def test_a_key_is_hashed_once() -> None:
    class Counted:
        hashes = 0

        def __hash__(self) -> int:
            self.hashes += 1
            return 7

    key, known = Counted(), Known[int]()
    assert known.get(key, key, lambda: 1) == 1
    assert key.hashes == 1
    assert known.get(key, key, lambda: 2) == 1
    assert known.get([], None, lambda: 3) == 3  # type: ignore[arg-type]  # it can't be hashed
