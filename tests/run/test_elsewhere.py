"""Other tools' words: the message for a key or a flag that memcalc does not have names the one it has."""

from __future__ import annotations

from dataclasses import fields

import pytest

from memcalc.errors import RunInvalid
from memcalc.run import Parallel, Run
from memcalc.run.elsewhere import WORDS, own_word
from memcalc.run.validation import parse_run

# as written in: torchtitan, Transformers, Axolotl, Megatron-LM, accelerate
ASKED = [
    ({"strategy": "fsdp2"}, "did you mean sharding?"),
    ({"gradient_checkpointing": True}, "did you mean checkpointing?"),
    ({"micro_batch": 2}, "did you mean batch_size?"),
    ({"micro_batch_size": 2}, "did you mean batch_size?"),
    ({"tensor_model_parallel_size": 8}, "did you mean parallel.tensor?"),
    ({"parallel": {"pp": 2}}, "did you mean pipeline?"),
    ({"num_processes": 8}, "did you mean gpus?"),
]


@pytest.mark.parametrize(("asked", "hint"), ASKED)
def test_a_key_of_another_tool_names_ours(asked: dict[str, object], hint: str) -> None:
    with pytest.raises(RunInvalid) as found:
        parse_run({"model": "gpt2", **asked})
    assert hint in str(found.value)


def test_every_word_stands_for_a_key_and_for_one_alone() -> None:
    runs, degrees = {f.name for f in fields(Run)}, {f"parallel.{f.name}" for f in fields(Parallel)}
    assert set(WORDS) <= runs | degrees
    words = [word for listed in WORDS.values() for word in listed.split()]
    assert len(words) == len(set(words))
    assert not set(words) & runs


def test_a_flag_reads_like_a_key() -> None:
    assert own_word("--max-length") == own_word("max_length") == "seq_len"
    assert own_word("--gpuz") is None
