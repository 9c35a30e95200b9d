"""What the end of a name says of packed weights; optimizers by name or class path."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.errors import RunInvalid
from tests.configs.reader import codes, parts, reading

LORA = "model_name_or_path: {}\nfinetuning_type: lora\ntemplate: x\n"
STEP = """\
model: {{_component_: torchtune.models.llama3_2.llama3_2_1b}}
tokenizer: {{max_seq_len: 64}}
batch_size: 1
optimizer_in_bwd: {}
optimizer: {{_component_: {}}}
"""


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("someone/Llama-2-7b-GPTQ", "gptq"), ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8", {"name": "gptq", "bits": 8}),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "awq"), ("unsloth/Qwen2.5-7B-bnb-4bit", "nf4-double"),
        ("hugging-quants/Llama-2-7b-bnb-nf4-bf16", "nf4-double"), ("Qwen/Qwen2.5-7B-Instruct", None),
    ],
)  # fmt: skip
def test_names_of_packed_checkpoints(name: str, stored: Any) -> None:
    found = reading(LORA.format(name), gpus=1, model="qwen2.5-7b")
    assert found.run.get("quantize") == stored
    assert ("by-name" in codes(found)) == (stored is not None)


def test_storage_that_is_not_known_is_said() -> None:
    found = reading(LORA.format("ISTA-DASLab/Meta-Llama-3-8B-Instruct-AQLM-2Bit-1x16"), gpus=1, model="llama-3-8b")
    assert "quantize" not in found.run
    assert "not-modelled" in codes(found)


OPTIMIZERS: list[tuple[str, str, Any]] = [
    ("torch.optim.AdamW", "false", "torch.optim.AdamW"),
    ("torch.optim.AdamW, lr: 1e-4, betas: [0.9, 0.95]", "false", "torch.optim.AdamW"),
    ("torch.optim.AdamW, foreach: true", "false", {"name": "torch.optim.AdamW", "implementation": "foreach"}),
    ("torch.optim.SGD, momentum: 0.9", "true", {"name": "torch.optim.SGD", "momentum": 0.9, "in_backward": True}),
    ("bitsandbytes.optim.AdamW8bit", "false", "bitsandbytes.optim.AdamW8bit"),
    ("torchao.optim.AdamW8bit", "false", "torchao.optim.AdamW8bit"),
]


@pytest.mark.parametrize(("written", "in_backward", "expected"), OPTIMIZERS)
def test_class_paths_and_the_arguments_that_change_what_is_kept(written: str, in_backward: str, expected: Any) -> None:
    run = reading(STEP.format(in_backward, written), gpus=1).run
    assert parts(run, ["optimizer"]) == {"optimizer": expected}


def test_a_class_that_nobody_has() -> None:
    with pytest.raises(RunInvalid, match=r"train.yaml:5 optimizer._component_: unknown optimizer"):
        reading(STEP.format("false", "my.own.Optimizer"), gpus=1)
