"""kohya's sd-scripts. Expectations: kohya-ss/sd-scripts (train_network.py, flux_train_network.py, library/train_util.py,
library/config_util.py, networks/lora.py), and what its networks print when they are made ("create LoRA for U-Net: 192 modules")."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.configs.denoisers import family_of_name, shared, side
from memcalc.errors import RunInvalid
from memcalc.models import load_model
from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run
from tests.configs.reader import codes, parts, reading

if TYPE_CHECKING:
    from pathlib import Path

SD1 = """\
accelerate launch --num_cpu_threads_per_process 1 train_network.py \\
    --pretrained_model_name_or_path="/models/mine_v10.safetensors" --train_data_dir=images \\
    --output_dir=out --max_train_steps=1500 --learning_rate=1e-4 --optimizer_type="AdamW8bit" \\
    --mixed_precision="fp16" --cache_latents --gradient_checkpointing --xformers --network_module=networks.lora
"""
FLUX = """\
accelerate launch --mixed_precision bf16 flux_train_network.py --pretrained_model_name_or_path flux1-dev.safetensors \\
  --clip_l clip_l.safetensors --t5xxl t5xxl_fp16.safetensors --ae ae.safetensors --cache_latents_to_disk --sdpa \\
  --gradient_checkpointing --mixed_precision bf16 --network_module networks.lora_flux --network_dim 16 \\
  --network_train_unet_only --cache_text_encoder_outputs --fp8_base --resolution="768,512" --optimizer_type adamw8bit \\
  --train_batch_size=4 --network_args "train_blocks=single"
"""
SDXL = """\
[model]
pretrained_model_name_or_path = "sd_xl_base_1.0.safetensors"
[training]
train_batch_size = 2
mixed_precision = "fp16"
resolution = "1024,1024"
sdpa = true
no_half_vae = true
max_token_length = 225
[network]
network_module = "networks.lora"
network_dim = 32
network_alpha = 16
network_args = ["conv_dim=8", "conv_alpha=4"]
[optimizer]
optimizer_type = "Prodigy"
optimizer_args = ["decouple=True", "weight_decay=0.01"]
"""
GUI = """\
{"LoRA_type": "Standard", "cache_latents": true, "max_resolution": "512,512", "mixed_precision": "bf16", "network_alpha": 1,
 "network_dim": 8, "optimizer": "AdamW8bit", "pretrained_model_name_or_path": "runwayml/stable-diffusion-v1-5", "sdxl": false,
 "text_encoder_lr": 0, "train_batch_size": 3, "v2": false, "xformers": "sdpa", "gradient_accumulation_steps": 2,
 "gradient_checkpointing": false, "max_token_length": "75", "conv_dim": 1, "full_bf16": true, "num_processes": 1}
"""
FULL = """\
accelerate launch sdxl_train.py --pretrained_model_name_or_path=stabilityai/stable-diffusion-xl-base-1.0 --resolution 1024 \\
  --mixed_precision bf16 --full_bf16 --fused_backward_pass --optimizer_type adafactor --cache_latents \\
  --cache_text_encoder_outputs --train_batch_size 1 --gradient_checkpointing --sdpa
"""


def run(text: str, name: str = "train.sh", **flags: Any) -> dict[str, Any]:
    return dict(reading(text, name=name, **flags).run)


def test_a_script_of_the_first_stable_diffusion() -> None:
    found = reading(SD1, name="train.sh")
    assert found.format == "kohya"
    assert found.run == {
        "model": "sd-1.5-unet", "gpus": 1, "precision": "amp-fp16", "image_size": [512, 512], "batch_size": 1, "grad_accum": 1,
        "seq_len": 77, "attention": "sdpa", "checkpointing": "full", "optimizer": "AdamW8bit",
        "lora": {"dtype": "fp32", "rank": 4, "alpha": 1, "dropout": 0, "targets": shared()["adapted"]["unet"]},
        "companions": [{
            "role": "encoder", "model": "clip-text-encoder-l", "dtype": "fp16",
            "lora": {"rank": 4, "targets": shared()["encoders"], "dtype": "fp32"}}],
    }  # fmt: skip
    assert found.origins["precision"].line == 4
    assert "keys-not-read" not in codes(found)


RUNS: list[tuple[str, str, dict[str, Any]]] = [
    (FLUX, "train.sh", {
        "model": "flux.1-dev", "precision": {"recipe": "amp-bf16", "frozen": "fp8"}, "companions": None, "image_size": [512, 768],
        "batch_size": 4, "seq_len": None, "lora.rank": 16, "lora.targets": shared()["adapted"]["single-blocks"]}),
    (FLUX.replace("flux1-dev", "flux1-schnell").replace("--sdpa", "").replace("train_blocks=single", ""), "train.sh", {
        "model": "flux-schnell", "attention": "sdpa", "lora.targets": shared()["adapted"]["transformer"]}),
    (SDXL, "xl.toml", {
        "model": "sdxl-unet", "batch_size": 2, "seq_len": 227, "attention": "sdpa", "checkpointing": "none", "lora.rank": 32,
        "lora.rank_pattern": {r".*\.(conv1|conv2|conv)": 8}, "optimizer": "Prodigy", "companions.0": None}),
    (SDXL.replace("networks.lora", "lycoris.kohya").replace("conv_dim=8", "algo=loha"), "xl.toml",
     {"lora.method": "loha", "lora.rank_pattern": None}),
    (GUI, "gui.json", {
        "model": "runwayml/stable-diffusion-v1-5", "lora.dtype": "bf16", "precision": "amp-bf16", "attention": "sdpa",
        "companions": [{"role": "encoder", "model": "clip-text-encoder-l", "dtype": "bf16"}], "batch_size": 3, "grad_accum": 2,
        "lora.rank_pattern": None, "gpus": 1}),
    (FULL, "full.sh", {
        "model": "stabilityai/stable-diffusion-xl-base-1.0", "precision": "bf16-autocast", "lora": None, "companions": None,
        "optimizer": {"name": "adafactor", "in_backward": True}}),
    (FULL.replace("--full_bf16 ", "").replace("--cache_text_encoder_outputs", "--train_text_encoder"), "full.sh", {
        "precision": "amp-bf16", "companions": [
            {"role": "encoder", "model": "clip-text-encoder-l", "trainable": True},
            {"role": "encoder", "model": "sdxl-text-encoder-2", "trainable": True}]}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name", "expected"), RUNS)
def test_what_a_file_means(text: str, name: str, expected: dict[str, Any]) -> None:
    assert parts(run(text, name), expected) == expected


def test_encoders_and_autoencoder_stay_where_nothing_is_cached() -> None:
    found = run(SDXL, "xl.toml")["companions"]
    assert [one["model"] for one in found] == ["clip-text-encoder-l", "sdxl-text-encoder-2", "sd-vae"]
    assert found[2]["dtype"] == "fp32"  # no_half_vae
    assert all("lora" in one for one in found[:2])
    frozen = run(SDXL + "\n[more]\nnetwork_train_unet_only = true\n", "xl.toml")["companions"]
    assert all("lora" not in one for one in frozen)


def test_settings_below_a_script_and_the_largest_data_set(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(SDXL)
    (tmp_path / "d.toml").write_text(
        "[general]\nresolution = 512\n[[datasets]]\nbatch_size = 4\n[[datasets]]\nresolution = [1024, 768]\nbatch_size = 3\n"
    )
    line = """python sdxl_train_network.py --config_file=c.toml \
      --dataset_config=d.toml --network_dim 8"""
    found = reading(line, name="go.sh", folder=tmp_path)
    expected = {
        "image_size": [768, 1024],
        "batch_size": 3,
        "lora.rank": 8,
        "lora.rank_pattern": None,
        "optimizer": "Prodigy",
    }
    assert parts(found.run, expected) == expected
    assert found.origins["optimizer"].line == 16


# as sd-scripts counts them: "create LoRA for U-Net: 192 modules" of Stable Diffusion 1, 722 of SDXL; of FLUX.1 304 modules,
# 190 in 19 double blocks and 114 in 38 single ones, where diffusers has 14 for 10 and 6 for 3 (q, k, v and what is fused with them)
@pytest.mark.parametrize(("model", "kind", "count"), [
    ("sd-1.5-unet", "unet", 192), ("sdxl-unet", "unet", 722), ("flux.1-dev", "transformer", 19 * 14 + 38 * 6),
    ("flux.1-dev", "double-blocks", 19 * 14), ("flux.1-dev", "single-blocks", 38 * 6),
])  # fmt: skip
def test_modules_that_are_adapted(model: str, kind: str, count: int) -> None:
    pattern = shared()["adapted"][kind]
    names = [
        tensor.name.removesuffix(".weight") for tensor in load_model(model).tensors if tensor.name.endswith(".weight")
    ]
    spans = [(name, [(int(a), int(b)) for a, b in re.findall(r"\{(\d+)\.\.(\d+)\}", name)]) for name in names]
    found = [of for name, of in spans if re.fullmatch(pattern, re.sub(r"\{(\d+)\.\.\d+\}", r"\1", name))]
    assert sum(_times(of) for of in found) == count


def _times(spans: list[tuple[int, int]]) -> int:
    product = 1
    for first, last in spans:
        product *= last - first + 1
    return product


FAULTS = [
    (SD1.replace('"fp16"', '"fp8"'), "fp8 is none of no, fp16, bf16"),
    (SD1.rstrip() + " --full_bf16", 'full_bf16 requires mixed_precision = "bf16"'),
    (SD1.rstrip() + ' --network_args "algo=full"', "full is an algorithm that is not modelled"),
    (SD1.rstrip() + " --resolution=big", "'big' is not a number"),
    (SD1.rstrip() + ' --network_args "conv_dim=x"', "network_args: conv_dim: 'x' is not a number"),
    (SD1.rstrip() + " --text_encoder_lr x", "text_encoder_lr: 'x' is not a number"),
    (SD1.replace("AdamW8bit", "AdaWarp8bit"), "unknown optimizer 'adawarp8bit'"),
]


@pytest.mark.parametrize(("text", "message"), FAULTS)
def test_what_can_not_be_right(text: str, message: str) -> None:
    with pytest.raises(RunInvalid, match=re.escape(message)):
        run(text)


def test_what_is_left_out_is_said() -> None:
    assert "not-modelled" in codes(reading(FLUX.rstrip() + " --blocks_to_swap 18\n", name="train.sh"))
    unknown = reading('{"pretrained_model_name_or_path": "mine.safetensors", "LoRA_type": "Standard", "network_dim": 4, '
                      '"cache_latents": true, "clip_skip": 1, "fp4_base": true}', name="gui.json")  # fmt: skip
    assert {"family-assumed", "keys-not-read"} <= codes(unknown)


NAMES = [
    ("flux1-schnell.safetensors", "flux-schnell"), ("FLUX.1-Kontext-dev", "flux-kontext"), ("ponyV6XL.safetensors", "sdxl"),
    ("sd3.5_large.safetensors", "sd35-large"), ("stable-diffusion-3.5-medium", "sd35-medium"), ("v2-1_768-ema-pruned.ckpt", "sd2"),
    ("v1-5-pruned-emaonly.safetensors", "sd1"), ("sd3_medium_incl_clips.safetensors", "sd3"), ("dreamshaper_8.safetensors", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "family"), NAMES)
def test_what_a_checkpoints_name_speaks_of(name: str, family: str) -> None:
    assert family_of_name(name) == family


def test_a_program_trains_its_own_kin_alone() -> None:
    named = SD1.replace("mine_v10", "flux-like-v1-5")  # train_network.py has no FLUX
    assert run(named)["model"] == "sd-1.5-unet"
    assert run(SD1.replace("mine_v10", "v2-1_768-ema"))["model"] == "sd-2.1-unet"
    assert run(FLUX.replace("flux1-dev", "sd_xl_base"))["model"] == "flux.1-dev"


def test_sides() -> None:
    assert (side(512), side("1024,768"), side([640, 480]), side("768x512")) == (
        [512, 512],
        [768, 1024],
        [480, 640],
        [512, 768],
    )
    with pytest.raises(ValueError, match="in pixels"):
        side("1,2,3")


@pytest.mark.parametrize(
    ("text", "name"), [(SD1, "train.sh"), (FLUX, "train.sh"), (SDXL, "xl.toml"), (GUI, "gui.json")]
)
def test_every_example_is_estimated(text: str, name: str) -> None:
    report = estimate_run(parse_run(run(text, name)))
    assert report.memory.peak_allocated > 2**30
