"""Other tools' words: the message for a key or a flag that memcalc does not have names the one it has."""

from __future__ import annotations

from dataclasses import fields

import pytest

from memcalc.adapters.spec import Lora
from memcalc.errors import RunInvalid
from memcalc.resolve import resolve
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
    ({"lora_r": 8}, "did you mean lora.rank?"),
    ({"lora": {"r": 8}}, "lora.r: unknown key; did you mean rank?"),
    ({"lora": {"target_modules": "all-linear"}}, "did you mean targets?"),
    ({"lora": {"learning_rate": 1e-4}}, "known: method"),
    ({"epochs": 3}, "epochs: unknown key; it takes no memory of the GPU: leave it out"),
    ({"lora": "r=16"}, "write the rank alone, or a mapping: '{rank: 16"),
    ({"margin": 0.1}, 'write "10%"'),
    ({"margin": 10}, "write a unit"),
]


@pytest.mark.parametrize(("asked", "hint"), ASKED)
def test_a_key_of_another_tool_names_ours(asked: dict[str, object], hint: str) -> None:
    with pytest.raises(RunInvalid) as found:
        resolve(parse_run({"model": "gpt2", **asked}))
    assert hint in str(found.value)


def test_every_word_stands_for_a_key_and_for_one_alone() -> None:
    runs, degrees = {f.name for f in fields(Run)}, {f"parallel.{f.name}" for f in fields(Parallel)}
    adapters = {f"lora.{f.name}" for f in fields(Lora)}
    assert set(WORDS) <= runs | degrees | adapters
    words = [word for listed in WORDS.values() for word in listed.split()]
    assert len(words) == len(set(words))
    assert not set(words) & runs


def test_a_flag_reads_like_a_key() -> None:
    assert own_word("--max-length") == own_word("max_length") == "seq_len"
    assert own_word("--gpuz") is None
