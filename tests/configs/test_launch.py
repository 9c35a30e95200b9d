"""Launch scripts and job files: what a command line means for the trainer that it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc.errors import MemcalcError, RunInvalid, UnreadableInput
from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run
from tests.configs.reader import codes, parts, reading

if TYPE_CHECKING:
    from pathlib import Path

FILES = {
    "fsdp.yaml": "distributed_type: FSDP\nmixed_precision: bf16\nnum_processes: 8\nfsdp_config:\n"
                 "  fsdp_version: 2\n  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP\n",
    "ds.json": '{"zero_optimization": {"stage": 3}, "bf16": {"enabled": "auto"}, "train_micro_batch_size_per_gpu": "auto"}',
    "lf.yaml": "model_name_or_path: Qwen/Qwen2.5-7B\nstage: sft\nfinetuning_type: lora\ntemplate: qwen\ncutoff_len: 2048\n"
               "per_device_train_batch_size: 2\nbf16: true\n",
    "ax.yml": "base_model: NousResearch/Llama-3.2-1B\nsequence_len: 2048\nmicro_batch_size: 4\nadapter: lora\nlora_r: 16\n"
              "lora_target_linear: true\ndatasets: []\n",
    "t.toml": '[job]\n[model]\nname = "llama3"\nflavor = "8B"\n[training]\nlocal_batch_size = 1\nseq_len = 4096\n',
    "sft.yaml": "model_name_or_path: Qwen/Qwen2.5-1.5B\nmax_length: 4096\npacking: true\nper_device_train_batch_size: 2\n",
}  # fmt: skip
TRL = """#!/bin/bash
# the recipe
MODEL=${MODEL:-Qwen/Qwen2.5-7B}
accelerate launch --config_file fsdp.yaml trl/scripts/sft.py \\
  --model_name_or_path $MODEL --per_device_train_batch_size 2 --gradient_accumulation_steps 8 \\
  --bf16 True --max_length 2048 --use_peft --lora_r 32 --output_dir out
"""
ALPACA = """torchrun --nproc_per_node=4 --master_port=20001 train.py --model_name_or_path huggyllama/llama-7b --bf16 True \\
  --output_dir out --per_device_train_batch_size 4 --gradient_accumulation_steps 8 --fsdp "full_shard auto_wrap" \\
  --fsdp_transformer_layer_cls_to_wrap 'LlamaDecoderLayer' --model_max_length 2048 --gradient_checkpointing True
"""
SKY = """name: tune
resources:
  accelerators: H100:8
num_nodes: 2
envs:
  MODEL: meta-llama/Llama-3.1-8B
setup: |
  pip install accelerate trl
run: |
  echo begin
  torchrun --nproc_per_node $SKYPILOT_NUM_GPUS_PER_NODE --nnodes $SKYPILOT_NUM_NODES train.py \\
    --model_name_or_path $MODEL --per_device_train_batch_size 1 --bf16 True --output_dir o --deepspeed ds.json
"""
KUBE = """apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: tune}
spec:
  pytorchReplicaSpecs:
    Worker:
      replicas: 2
      template:
        spec:
          containers:
            - name: pytorch
              command:
                - bash
                - -c
                - |
                  llamafactory-cli train lf.yaml \\
                    cutoff_len=1024
              resources:
                limits:
                  nvidia.com/gpu: 8
"""
SLURM = """#!/bin/bash
#SBATCH --nodes=2
#SBATCH --gres=gpu:a100:4
srun torchrun --nnodes=$SLURM_NNODES --nproc_per_node=$SLURM_GPUS run_clm.py --model_name_or_path gpt2 --block_size 512 \\
  --per_device_train_batch_size 8 --do_train --output_dir o
"""
DSTACK = """type: task
name: tune
commands:
  - pip install trl
  - accelerate launch --mixed_precision bf16 train_sft.py --model_name_or_path Qwen/Qwen2.5-7B --output_dir o --packing True
resources:
  gpu: H100:8
"""
KOHYA = """name: x
resources: {accelerators: {L40S: 1}}
setup: pip install x
run: |
  accelerate launch train_network.py --pretrained_model_name_or_path=v1-5.safetensors --network_module=networks.lora
"""
RUNS: list[tuple[str, str, str, dict[str, Any]]] = [
    (TRL, "go.sh", "trl", {
        "gpus": 8, "model": "Qwen/Qwen2.5-7B", "batch_size": 2, "grad_accum": 8, "seq_len": 2048, "lora.rank": 32,
        "precision": {"recipe": "mixed-bf16", "frozen": "fp32"}, "sharding.strategy": "fsdp", "sharding.version": 2}),
    (TRL.replace("fsdp.yaml", "fsdp.yaml --num_processes 2"), "go.sh", "trl", {"gpus": 2}),
    (TRL.replace("--config_file fsdp.yaml", "--use_deepspeed --zero_stage 3 --offload_optimizer_device cpu --num_processes 4"),
     "go.sh", "trl", {"gpus": 4, "sharding.strategy": "zero3", "sharding.offload_optimizer": {"device": "cpu"}}),
    (TRL.replace("--config_file fsdp.yaml", "--multi_gpu --num_processes 4"), "go.sh", "trl", {"gpus": 4, "sharding": None}),
    (ALPACA, "alpaca.sh", "training-arguments", {
        "gpus": 4, "batch_size": 4, "seq_len": 2048, "precision": "mixed-bf16", "sharding.strategy": "fsdp",
        "checkpointing": {"mode": "full"}, "lora": None}),
    (ALPACA.replace("torchrun --nproc_per_node=4", "deepspeed --num_gpus 2 --num_nodes 2")
     .replace("--fsdp ", "--deepspeed ds.json --x "), "alpaca.sh", "training-arguments", {"gpus": 4, "sharding.strategy": "zero3"}),
    (ALPACA.replace("torchrun --nproc_per_node=4", "deepspeed --include localhost:0,1,2"), "a.sh", "training-arguments",
     {"gpus": 3}),
    (ALPACA.replace("torchrun --", "python -m torch.distributed.run --"), "a.sh", "training-arguments", {"gpus": 4}),
    ("CUDA_VISIBLE_DEVICES=0,1,2,3 llamafactory-cli train lf.yaml cutoff_len=4096", "lf.sh", "llamafactory", {
        "gpus": 4, "seq_len": 4096, "batch_size": 2, "lora.rank": 8}),
    ("accelerate launch -m axolotl.cli.train ax.yml --num-epochs 2", "ax.sh", "axolotl", {"seq_len": 2048, "gpus": 1}),
    ("axolotl train ax.yml --num-processes 4 --micro-batch-size 1", "ax.sh", "axolotl", {"gpus": 4, "batch_size": 1}),
    ("trl dpo --model_name_or_path Qwen/Qwen2.5-0.5B --output_dir o --accelerate_config zero2 --num_processes 4", "d.sh", "trl", {
        "gpus": 4, "batch_size": 16, "sharding.strategy": "zero2", "companions.role": None}),
    ("accelerate launch --num_processes 2 sft.py --config sft.yaml --max_length 512", "c.sh", "trl", {
        "seq_len": 512, "packing": True, "batch_size": 2, "model": "Qwen/Qwen2.5-1.5B"}),
    ("NGPU=4 CONFIG_FILE=./t.toml ./run_train.sh --training.local_batch_size 2", "t.sh", "torchtitan", {
        "gpus": 4, "batch_size": 2, "seq_len": 4096}),
    ("litgpt finetune_lora checkpoints/meta-llama/Llama-3.2-1B --precision bf16-true --train.micro_batch_size 2 --devices 2",
     "l.sh", "litgpt", {"gpus": 2, "lora.rank": 8, "precision": "bf16", "batch_size": 2}),
    ("litgpt finetune_full checkpoints/meta-llama/Llama-3.2-1B --devices 2", "l.sh", "litgpt", {"gpus": 2, "lora": None}),
    ("python3 -m MaxText.train MaxText/configs/base.yml model_name=llama2-7b per_device_batch_size=4", "m.sh", "maxtext", {
        "batch_size": 4, "seq_len": 2048}),
    (SKY, "sky.yaml", "training-arguments", {
        "gpus": 16, "gpu": "h100", "model": "meta-llama/Llama-3.1-8B", "sharding.strategy": "zero3"}),
    (KUBE, "job.yaml", "llamafactory", {"gpus": 16, "seq_len": 1024}),
    (SLURM, "s.sh", "training-arguments", {"gpus": 8, "seq_len": 512, "precision": "fp32"}),
    (DSTACK, "d.yaml", "trl", {"gpus": 8, "gpu": "h100", "packing": True, "precision": "amp-bf16"}),
    (KOHYA, "k.yaml", "kohya", {"gpus": 1, "lora.rank": 4}),
]  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(("text", "name", "form", "expected"), RUNS)
def test_what_a_command_means(text: str, name: str, form: str, expected: dict[str, Any], folder: Path) -> None:
    found = reading(text, name=name, folder=folder)
    assert (found.format, parts(found.run, expected)) == (form, expected)
    assert estimate_run(parse_run(dict(found.run))).memory.peak_allocated > 2**28


def test_places_are_those_of_the_file(folder: Path) -> None:
    found = reading(TRL, name="go.sh", folder=folder)
    assert {path: found.origins[path].line for path in ("model", "batch_size", "seq_len", "lora.rank", "gpus")} == {
        "model": 5, "batch_size": 5, "seq_len": 6, "lora.rank": 6, "gpus": 3}  # fmt: skip
    assert all(found.origins[path].file.endswith("fsdp.yaml") for path in ("gpus", "sharding.version"))
    assert found.origins["sharding.version"].line == 5
    job = reading(KUBE, name="job.yaml", folder=folder)
    assert (job.origins["seq_len"].line, job.origins["gpus"].line) == (17, 20)
    assert job.origins["batch_size"].file.endswith("lf.yaml")
    sky = reading(SKY, name="sky.yaml", folder=folder)
    assert (sky.origins["gpus"].line, sky.origins["model"].line, sky.origins["gpu"].line) == (11, 12, 3)


def test_what_is_said_of_commands(folder: Path) -> None:
    two = reading(f"{ALPACA}\n{TRL}", name="two.sh", folder=folder)
    assert {"several-commands", "command"} <= codes(two)
    assert two.format == "training-arguments"
    guessed = reading(TRL.replace("fsdp.yaml", "configs/zero3.yaml"), name="go.sh", folder=folder)
    assert "not-found" in codes(guessed)
    assert guessed.run["sharding"]["strategy"] == "zero3"


def test_flags_win(folder: Path) -> None:
    found = reading(TRL, name="go.sh", folder=folder, gpus=2)
    assert "gpus" not in found.run  # the flag says it


FAULTS = [
    ("tune run --nproc_per_node 4 full_finetune --config llama3/8B_full batch_size=4", "t.sh", RunInvalid, "tune cp llama3/8B"),
    ("axolotl train nowhere.yml", "a.sh", UnreadableInput, "nowhere.yml, which is neither beside it"),
    ("accelerate launch --config_file mine.yaml sft.py --model_name_or_path gpt2", "a.sh", UnreadableInput, "with mine.yaml"),
    ("torchrun --nproc_per_node 8 own.py --lr 1e-4", "o.sh", RunInvalid, "own.py: no trainer that is known"),
    (ALPACA.replace("batch_size 4", "batch_size $1"), "a.sh", RunInvalid, "'$1' is not a number"),
    (SKY.replace("torchrun", "mytool"), "sky.yaml", RunInvalid, "no command that trains was found"),
    ("from nemo.collections import llm\nrecipe = llm.llama3_8b.pretrain_recipe()\n", "r.py", RunInvalid, "a NeMo 2 recipe"),
    ("from megatron.bridge.recipes.llama import pretrain_config\n", "r.py", RunInvalid, "a Megatron-Bridge recipe"),
    ("import colossalai\n", "c.py", RunInvalid, "Colossal-AI"),
    ("from trl import SFTTrainer\nSFTTrainer()\n", "train.py", RunInvalid, "settings are code"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name", "kind", "message"), FAULTS)
def test_what_can_not_be_read(text: str, name: str, kind: type[MemcalcError], message: str, folder: Path) -> None:
    with pytest.raises(kind) as caught:
        reading(text, name=name, folder=folder)
    assert message in str(caught.value)
