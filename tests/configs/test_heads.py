"""The heads that trainers of rewards put on a model. Expectations: trl/trainer/reward_trainer.py, swift's and OpenRLHF's rm."""

from __future__ import annotations

from typing import Any

import pytest

from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run
from tests.configs.reader import codes, reading

SCORED = {"preset": "llama-2-7b", "architectures": ["LlamaForSequenceClassification"], "num_labels": 1}
TRL = (
    "model_name_or_path: llama-2-7b\noutput_dir: x\ncenter_rewards_coefficient: 0.01\nper_device_train_batch_size: 2\n"
)
AXOLOTL = (
    "base_model: llama-2-7b\nreward_model: true\nmicro_batch_size: 2\nsequence_len: 512\nbf16: true\ndatasets: []\n"
)
SWIFT = (
    "swift rlhf --rlhf_type rm --train_type full --model llama-2-7b --per_device_train_batch_size 2 --max_length 512\n"
)
OPENRLHF = "deepspeed --module openrlhf.cli.train_rm --pretrain llama-2-7b --micro_train_batch_size 2 --bf16\n"


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        (TRL, {}),
        (AXOLOTL, {}),
        (SWIFT, {"name": "run.sh"}),
        (OPENRLHF, {"name": "run.sh"}),
    ],
)
def test_a_reward_model_has_one_score(text: str, flags: dict[str, Any]) -> None:
    """Pairs of rows, through a head of one output: of 32,000 logits a token none are made."""
    found = reading(text, gpus=1, **flags)
    assert (found.run["model"], found.run["batch_size"]) == (SCORED, 4)
    assert "keys-not-read" not in codes(found)
    report = estimate_run(parse_run(dict(found.run)))
    assert report.model.parameters == 6_738_415_616 - 32_000 * 4096 + 4096


def test_a_model_of_the_command_line_keeps_its_own_head() -> None:
    found = reading(TRL, model="mistral-7b-v0.1")
    assert "llama-2-7b" not in str(found.run.get("model"))
    assert any("ForSequenceClassification" in str(remark) for remark in found.warnings)
