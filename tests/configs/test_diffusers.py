"""diffusers' example scripts. Expectations: huggingface/diffusers, examples/text_to_image and examples/dreambooth, whose READMEs
give the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.pipeline import estimate_run
from memcalc.presets import find, has
from memcalc.run.validation import parse_run
from tests.configs.reader import codes, parts, reading

if TYPE_CHECKING:
    from pathlib import Path

FULL = """\
export MODEL_NAME="CompVis/stable-diffusion-v1-4"
accelerate launch --mixed_precision="fp16"  train_text_to_image.py \\
  --pretrained_model_name_or_path=$MODEL_NAME --dataset_name=some/captions \\
  --use_ema --resolution=512 --center_crop --random_flip --train_batch_size=1 \\
  --gradient_accumulation_steps=4 --gradient_checkpointing --max_train_steps=15000 --learning_rate=1e-05
"""
FLUX = """\
accelerate launch train_dreambooth_lora_flux.py --pretrained_model_name_or_path=black-forest-labs/FLUX.1-dev \\
  --instance_data_dir=dog --mixed_precision="bf16" --instance_prompt="a photo of sks dog" \\
  --train_batch_size=1 --optimizer="prodigy" --learning_rate=1. --rank 16
"""
SDXL = """\
accelerate launch train_text_to_image_lora_sdxl.py --pretrained_model_name_or_path=stabilityai/stable-diffusion-xl-base-1.0 \\
  --dataset_name=some/captions --caption_column="text" --mixed_precision="fp16" --use_8bit_adam --train_text_encoder
"""
ENCODERS = ["clip-text-encoder-l", "sdxl-text-encoder-2"]


def run(text: str, **flags: Any) -> dict[str, Any]:
    return dict(reading(text, name="train.sh", **flags).run)


def test_a_whole_script() -> None:
    found = reading(FULL, name="train.sh")
    assert found.format == "diffusers"
    assert found.run == {
        "model": "CompVis/stable-diffusion-v1-4", "gpus": 1, "precision": "amp-fp16",
        "image_size": [512, 512], "batch_size": 1, "grad_accum": 4,
        "attention": "sdpa", "checkpointing": "full", "optimizer": "torch.optim.AdamW",
        "companions": [
            {"role": "encoder", "model": "clip-text-encoder-l", "dtype": "fp16"},
            {"role": "encoder", "model": "sd-vae", "dtype": "fp16"}, {"role": "ema"}],
    }  # fmt: skip
    assert found.origins["batch_size"].line == 4
    assert "keys-not-read" not in codes(found)


RUNS: list[tuple[str, dict[str, Any]]] = [
    (FLUX, {
        "image_size": [512, 512], "seq_len": 512, "lora.rank": 16, "lora.alpha": 16, "lora.dtype": "bf16", "lora.targets": None,
        "optimizer": "Prodigy", "checkpointing": "none",
        "companions": [{"role": "encoder", "model": "flux-vae", "dtype": "bf16"}]}),
    (FLUX.rstrip() + " --with_prior_preservation --cache_latents --max_sequence_length 256 --lora_layers attn.to_k,attn.to_q\n", {
        "batch_size": 2, "companions": None, "seq_len": 256, "lora.targets": ["attn.to_k", "attn.to_q"]}),
    (FLUX.rstrip() + " --train_text_encoder\n", {"companions": [
        {"role": "encoder", "model": "clip-text-encoder-l", "dtype": "bf16",
         "lora": {"rank": 16, "targets": ["q_proj", "k_proj", "v_proj", "out_proj"], "dtype": "bf16"}},
        {"role": "encoder", "model": "t5-v1.1-xxl-encoder", "dtype": "bf16"},
        {"role": "encoder", "model": "flux-vae", "dtype": "bf16"}]}),
    (SDXL, {"lora.dtype": "fp32", "batch_size": 16, "image_size": [1024, 1024], "optimizer": "bitsandbytes.optim.AdamW8bit",
            "seq_len": None, "precision": "amp-fp16"}),
    (SDXL.replace("lora_sdxl", "sdxl"), {"lora": None, "companions": [
        {"role": "encoder", "model": name, "trainable": True} for name in ENCODERS]}),
    (FULL.replace("train_text_to_image", "train_dreambooth").replace("--use_ema", "--offload_ema --use_ema"), {
        "companions": [{"role": "encoder", "model": "clip-text-encoder-l", "dtype": "fp16"},
                       {"role": "encoder", "model": "sd-vae", "dtype": "fp16"}]}),
    (FULL.replace("CompVis/stable-diffusion-v1-4", "stabilityai/stable-diffusion-2-1"),
     {"model": "stabilityai/stable-diffusion-2-1", "companions.0.model": None}),
    (FLUX.replace("lora_flux", "lora_sd3").replace("black-forest-labs/FLUX.1-dev", "stabilityai/stable-diffusion-3.5-large"),
     {"model": "stabilityai/stable-diffusion-3.5-large", "seq_len": 154}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNS)
def test_what_a_script_means(text: str, expected: dict[str, Any]) -> None:
    assert parts(run(text), expected) == expected


def test_sdxls_autoencoder_is_in_fp32_unless_another_is_named() -> None:
    assert run(SDXL)["companions"][2] == {"role": "encoder", "model": "sd-vae", "dtype": "fp32"}
    named = SDXL.rstrip() + " --pretrained_vae_model_name_or_path=madebyollin/sdxl-vae-fp16-fix\n"
    assert run(named)["companions"][2]["dtype"] == "fp16"


def test_a_packed_base(tmp_path: Path) -> None:
    (tmp_path / "four.json").write_text('{"load_in_4bit": true, "bnb_4bit_quant_type": "nf4"}')
    line = FLUX.rstrip() + " --bnb_quantization_config_path four.json\n"
    assert reading(line, name="train.sh", folder=tmp_path).run["quantize"] == "nf4"
    with pytest.raises(RunInvalid, match=r"five.json is not there: say what it holds with --quantize nf4"):
        reading(line.replace("four", "five"), name="train.sh", folder=tmp_path)


def test_what_can_not_be_right() -> None:
    with pytest.raises(RunInvalid, match="fp8 is none of no, fp16, bf16"):
        run(FLUX.replace('"bf16"', '"fp8"'))
    with pytest.raises(RunInvalid, match="no script of diffusers that is known is started"):
        reading("python train.py --pretrained_model_name_or_path x", form="diffusers", name="train.sh")


@pytest.mark.parametrize("script", find("frameworks", "diffusers")["scripts"])
def test_every_script_is_estimated(script: str) -> None:
    text = f"accelerate launch {script}.py --pretrained_model_name_or_path=no/such --mixed_precision=bf16 --train_batch_size=1"
    found = run(text)
    assert has("models", found["model"])
    assert estimate_run(parse_run(found)).memory.peak_allocated > 2**30
