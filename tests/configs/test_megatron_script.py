"""Scripts of Megatron-LM: branches by their own variables, and text that is no script. Nothing is run."""

from __future__ import annotations

import pytest

from memcalc.errors import RunInvalid
from tests.configs.reader import parts, reading

BRANCHED = """\
MODEL_SIZE=16B
PR=bf16
TP=1
EP=8
if [ -z ${MP_VP} ]; then
    EXTRA=2400
fi
if [ $MODEL_SIZE = 236B ]; then
NUM_LAYERS=60
moe=" --q-lora-rank 1536 --num-experts 160"
elif [ $MODEL_SIZE = 16B ]; then
NUM_LAYERS=27
moe=" \\
    --kv-lora-rank 512 --qk-nope-head-dim 128 --qk-rope-head-dim 64 --v-head-dim 128 \\
    --num-experts 64 --num-shared-experts 2 --moe-ffn-hidden-size 1408 --expert-model-parallel-size ${EP}"
else
NUM_LAYERS=1
fi
if [ "$PR" == "fp16" ]; then
    precision="--fp16"
else
    precision="--bf16"
fi
if [ $TP -gt 1 ]; then sp="--sequence-parallel"; fi
OPTIONS=" --num-layers ${NUM_LAYERS} --hidden-size 2048 --num-attention-heads 16 --seq-length 2048 --swiglu \\
    --micro-batch-size 1 --extra-vocab-size ${EXTRA} --tokenizer-type DeepSeekV2Tokenizer"
"""


def test_branches_of_a_script_are_decided_by_its_own_variables() -> None:
    assert parts(reading(BRANCHED).run, (
        "precision", "gpus", "model.num_hidden_layers", "model.num_experts", "model.q_lora_rank", "model.vocab_size",
        "model.shared_expert_intermediate_size", "model.kv_lora_rank",
    )) == {
        "precision": "megatron-bf16", "gpus": 8, "model.num_hidden_layers": 27, "model.num_experts": 64, "model.q_lora_rank": None,
        "model.vocab_size": 102400, "model.shared_expert_intermediate_size": 2816, "model.kv_lora_rank": 512,
    }  # fmt: skip
    larger = reading(
        BRANCHED.replace("SIZE=16B", "SIZE=236B").replace("--num-experts 160", "--num-experts 160 --kv-lora-rank 512")
    ).run
    assert parts(larger, ["model.num_hidden_layers", "model.num_experts"]) == {
        "model.num_hidden_layers": 60, "model.num_experts": 160,
    }  # fmt: skip


HOSTILE = ["--num-layers " * 50_000, "((" * 10_000, "A=$A\nB=${B}${B}\n--num-layers $B --hidden-size $A --seq-length $((9**9**9))",
           "if [ x = x ]\n" * 5_000, "fi\nelse\nelif [ $A = \n", '"' * 9_999]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_no_script_is_run_or_hangs(text: str) -> None:
    told = "--hidden-size 2 --num-layers 2 --micro-batch-size 1\n"
    with pytest.raises(RunInvalid):
        reading(told + text)
