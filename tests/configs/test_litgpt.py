"""litgpt's YAML. Expectations: litgpt/finetune/lora.py, full.py, pretrain.py, utils.py and args.py of 0.5.13."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc.errors import RunInvalid
from tests.configs.reader import codes, parts, reading

if TYPE_CHECKING:
    from pathlib import Path

TRAIN = "train: {global_batch_size: 16, micro_batch_size: 2, max_seq_length: 512}\n"
FULL = "checkpoint_dir: checkpoints/mistralai/Mistral-7B-v0.3\nprecision: bf16-true\ndevices: 1\n" + TRAIN
LORA = FULL + "lora_r: 32\nlora_alpha: 16\nlora_dropout: 0.05\nlora_query: true\nlora_value: true\n"
PRETRAIN = "model_name: tiny-llama-1.1b\n" + TRAIN


def read(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, **flags).run)


def test_full_tuning_on_one_gpu() -> None:
    found = reading(FULL)
    assert found.format == "litgpt"
    assert found.run == {
        "gpus": 1, "model": "mistralai/Mistral-7B-v0.3", "seq_len": 512, "precision": "bf16", "batch_size": 2, "grad_accum": 8,
        "optimizer": "torch.optim.AdamW", "checkpointing": "none", "loss": {"kind": "chunked", "chunks": 8},
    }  # fmt: skip
    assert found.origins["batch_size"].line == 4


RUNS: list[tuple[str, dict[str, Any]]] = [
    # what is trained in; the word left out is bf16-mixed, which keeps frozen weights in fp32, too
    (FULL.replace("precision: bf16-true\n", ""), {"precision": "amp-bf16"}),
    (FULL.replace("bf16-true", "32-true"), {"precision": "fp32"}),
    (FULL.replace("bf16-true", "16-mixed"), {"precision": "amp-fp16"}),
    (LORA, {"precision": "bf16", "lora.dtype": "bf16", "lora.rank": 32, "lora.alpha": 16, "loss.chunks": 4,
            "lora.targets": ["q_proj", "v_proj"]}),
    (LORA.replace("bf16-true", "bf16-mixed"), {"precision": {"recipe": "amp-bf16", "frozen": "fp32"}, "lora.dtype": "fp32"}),
    (LORA + "lora_mlp: true\nlora_head: true\nlora_value: false\n",
     {"lora.targets": ["q_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]}),
    (LORA.replace("mistralai/Mistral-7B-v0.3", "EleutherAI/pythia-1b") + "lora_projection: true\n",
     {"lora.targets": ["query_key_value", "attention.dense"]}),
    # a packed base: every linear layer, the head too, and another AdamW
    (LORA + "quantize: bnb.nf4-dq\n", {"quantize": {"name": "nf4-double", "skip_modules": [], "upcast": False},
                                       "optimizer": "bitsandbytes.optim.PagedAdamW"}),
    # batches
    (FULL.replace("devices: 1", "devices: 4"), {"gpus": 4, "grad_accum": 2}),
    (FULL.replace("devices: 1", "devices: 4\nnum_nodes: 2"), {"gpus": 8, "grad_accum": 1}),
    # several GPUs: FSDP1 and each Block anew in full tuning, FSDP2 with adapters
    (FULL.replace("devices: 1", "devices: 2"),
     {"checkpointing": "full", "sharding": {"strategy": "fsdp", "version": 1, "wrap": "layers"}}),
    (FULL.replace("devices: 1", "devices: 2").replace("-true", "-mixed"),
     {"sharding.param_dtype": "fp32", "sharding.reduce_dtype": "bf16"}),
    (LORA.replace("devices: 1", "devices: 2"), {"checkpointing": "full", "sharding": {"strategy": "fsdp", "version": 2}}),
    # optimizers
    (FULL + "optimizer: {class_path: torch.optim.Adam, init_args: {lr: 1e-4, fused: true}}\n",
     {"optimizer": {"name": "torch.optim.Adam", "implementation": "fused"}}),
    (FULL + "optimizer: SGD\n", {"optimizer": "torch.optim.SGD"}),
    # embeddings are tied in a checkpoint, not in litgpt
    (FULL.replace("mistralai/Mistral-7B-v0.3", "meta-llama/Llama-3.2-1B"),
     {"model": {"preset": "meta-llama/Llama-3.2-1B", "tie_word_embeddings": False}}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNS)
def test_what_a_file_means(text: str, expected: dict[str, Any]) -> None:
    assert parts(read(text), expected) == expected


def test_pretraining_takes_every_gpu_and_never_checkpoints() -> None:
    run = read(PRETRAIN, gpus=8)
    assert parts(run, ("model", "precision", "checkpointing", "sharding.strategy", "loss.chunks")) == {
        "model": "tinyllama-1.1b", "precision": "amp-bf16", "checkpointing": "none", "sharding.strategy": "fsdp", "loss.chunks": 8,
    }  # fmt: skip
    tied = read(
        PRETRAIN.replace("tiny-llama-1.1b", "Llama-3.2-1B").replace("512}", "512, tie_embeddings: true}"), gpus=8
    )
    assert tied["model"] == "llama-3.2-1b"


def test_a_model_by_litgpt_s_own_dimensions(tmp_path: Path) -> None:
    inline = "{name: x, n_layer: 4, n_embd: 256, n_head: 8, vocab_size: 1000, padding_multiple: 64, mlp_class_name: LLaMAMLP, "
    inline += "norm_class_name: RMSNorm, intermediate_size: 688, block_size: 1024}"
    made = read(PRETRAIN.replace("model_name: tiny-llama-1.1b", f"model_config: {inline}"), gpus=1)["model"]
    assert parts(made, ("model_type", "num_hidden_layers", "vocab_size", "num_key_value_heads")) == {
        "model_type": "llama", "num_hidden_layers": 4, "vocab_size": 1024, "num_key_value_heads": 8,
    }  # fmt: skip
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model_config.yaml").write_text(inline)
    beside = dict(reading(FULL.replace("checkpoints/mistralai/Mistral-7B-v0.3", "mine"), folder=tmp_path).run)
    assert beside["model"] == made


def test_what_is_not_said_is_assumed() -> None:
    assert "longest-sample" in codes(reading(FULL.replace(", max_seq_length: 512", "")))
    assert "block-size" in codes(reading(PRETRAIN.replace(", max_seq_length: 512", ""), gpus=1))
    fused = reading(LORA.replace("mistralai/Mistral-7B-v0.3", "EleutherAI/pythia-1b"))
    assert "fused" in codes(fused)
    assert "refused-by-litgpt" in codes(reading(LORA.replace("devices: 1", "devices: 2") + "quantize: bnb.nf4\n"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (FULL.replace("bf16-true", "bf15"), "bf15"),
        (FULL.replace("micro_batch_size: 2", "micro_batch_size: two"), "micro_batch_size"),
        (FULL.replace("mistralai/Mistral-7B-v0.3", "nobody/nothing"), "nobody/nothing"),
        (FULL + "out_dir: out/finetune/adapter\n", "LLaMA-Adapter"),
        (LORA + "quantize: bnb.nf5\n", "nf5"),
        (
            PRETRAIN.replace("model_name: tiny-llama-1.1b", "model_config: {n_layer: many, n_embd: 64}"),
            "model_config.n_layer",
        ),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(RunInvalid, match=told) as caught:
        read(text)
    assert len(caught.value.faults) == 1
