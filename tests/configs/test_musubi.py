"""musubi-tuner's scripts and settings. Expectations: training/trainer_base.py and parser_common.py, networks/lora_*.py,
dataset/config_utils.py and wan/configs of musubi-tuner; commands like those of its docs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run
from tests.configs.reader import codes, document, parts, reading

if TYPE_CHECKING:
    from pathlib import Path

    from memcalc.configs.reading import Reading

WAN = """\
accelerate launch --num_cpu_threads_per_process 1 --mixed_precision bf16 src/musubi_tuner/wan_train_network.py \\
  --task t2v-1.3B --dit wan2.1_t2v_1.3B_bf16.safetensors --dataset_config data.toml --sdpa --mixed_precision bf16 \\
  --fp8_base --optimizer_type adamw8bit --learning_rate 2e-4 --gradient_checkpointing --max_data_loader_n_workers 2 \\
  --network_module networks.lora_wan --network_dim 32 --timestep_sampling shift --max_train_epochs 16 --output_dir out
"""
SETS = """\
[general]
resolution = [832, 480]
batch_size = 1
[[datasets]]
image_directory = "images"
[[datasets]]
video_directory = "videos"
target_frames = [1, 25, 45]
"""
SQUARE = '[general]\nresolution = [512, 512]\n[[datasets]]\nimage_directory = "a"\n'
QWEN = (WAN.replace("wan_train_network", "qwen_image_train_network").replace("--task t2v-1.3B ", "").replace(" --fp8_base", "")
        .replace("lora_wan", "lora_qwen_image"))  # fmt: skip
WHOLE = (QWEN.replace("_train_network", "_train").replace("--network_module networks.lora_qwen_image --network_dim 32 ", "")
         .replace("--output_dir out", "--full_bf16 --fused_backward_pass"))  # fmt: skip
SETTINGS = """\
[model]
task = "t2v-A14B"
dit = "/models/wan2.2_t2v_low_noise_14B_fp16.safetensors"
dit_high_noise = "/models/wan2.2_t2v_high_noise_14B_fp16.safetensors"
vae = "/models/wan_2.1_vae.safetensors"
[dataset]
dataset_config = "data.toml"
[network]
network_module = "networks.lora_wan"
network_dim = 128
network_alpha = 64
network_args = ["loraplus_lr_ratio=4"]
[training]
optimizer_type = "torch.optim.SGD"
optimizer_args = ["momentum=0.9"]
mixed_precision = "fp16"
gradient_accumulation_steps = 2
flash_attn = true
"""
SWAP = {"role": "teacher", "model": "same", "forward": False}


def read_beside(text: str, folder: Path, sets: str = SETS) -> Reading:
    """The reading of a script, or of settings, beside the file of its data sets."""
    (folder / "data.toml").write_text(sets)
    return reading(text, name="go.sh" if "accelerate" in text else "wan.toml", folder=folder)


@pytest.mark.parametrize(("text", "expected"), [
    (WAN, {"model": "wan-2.1-t2v-1.3b", "precision": {"recipe": "amp-bf16", "frozen": "fp8"}, "image_size": [480, 832],
           "frames": 45, "batch_size": 1, "lora.rank": 32, "lora.alpha": 1, "lora.dtype": "fp32", "lora.targets": "all-linear",
           "gpus": 1, "checkpointing": "full", "companions": None, "optimizer": "adamw8bit"}),
    (WAN.replace("t2v-1.3B", "i2v-14B"), {"model": "wan-2.1-i2v-14b"}),
    (WAN.replace("t2v-1.3B", "i2v-A14B"), {"model": "wan-2.2-i2v-14b"}),
    (WAN.replace("--task t2v-1.3B ", ""), {"model": "wan-2.1-t2v-14b"}),  # the parser's default
    (QWEN, {"model": "qwen-image", "precision": {"recipe": "amp-bf16", "frozen": "bf16"}, "frames": None,
            "image_size": [480, 832]}),
    (QWEN.replace("--sdpa", "--sdpa --model_version edit-2511"), {"model": "qwen-image-edit-2511", "image_size": [480, 1664]}),
    (QWEN.replace("--sdpa", "--sdpa --edit"), {"model": "qwen-image", "image_size": [480, 1664]}),
    (WHOLE, {"lora": None, "precision": "bf16-autocast"}),
    (WHOLE.replace("--full_bf16", ""), {"precision": "amp-bf16"}),
    (WAN.replace("lora_wan", "loha"), {"lora.method": "loha"}),
    (WAN.replace(" --gradient_checkpointing", ""), {"checkpointing": "none"}),
    (WAN.replace("--gradient_checkpointing", "--gradient_checkpointing --gradient_checkpointing_cpu_offload"),
     {"checkpointing": {"mode": "full", "offload": True}}),
    (WAN.replace("--network_dim 32", ""), {"lora.rank": 4}),
    (WAN.replace("bf16", "fp16"), {"precision": {"recipe": "amp-fp16", "frozen": "fp8"}}),
    (WAN.replace("--fp8_base", "--full_bf16"), {"lora.dtype": "fp32", "precision.frozen": "bf16"}),
    (WAN.replace("--sdpa", "--sdpa --dit_high_noise high.safetensors"), {"companions": [SWAP]}),
    (WAN.replace("--sdpa", "--sdpa --dit_high_noise high.safetensors --offload_inactive_dit"), {"companions": None}),
    (SETTINGS, {"model": "wan-2.1-t2v-14b", "precision": {"recipe": "amp-fp16", "frozen": "fp16"}, "lora.rank": 128,
                "lora.alpha": 64, "grad_accum": 2, "checkpointing": "none", "companions": [SWAP],
                "optimizer": {"name": "torch.optim.sgd", "momentum": 0.9}}),
])  # fmt: skip
def test_what_a_file_means(text: str, expected: dict[str, Any], tmp_path: Path) -> None:
    found = read_beside(text, tmp_path)
    assert (found.format, parts(found.run, expected)) == ("musubi", expected)
    assert "keys-not-read" not in codes(found)
    parse_run(dict(found.run))


@pytest.mark.parametrize("text", [WAN, WAN.replace("t2v-1.3B", "i2v-14B"), QWEN])
def test_a_page_comes_of_it(text: str, tmp_path: Path) -> None:
    assert estimate_run(parse_run(dict(read_beside(text, tmp_path, SQUARE).run))).memory.peak_allocated > 2**30


def test_settings_in_a_file_of_their_own_lie_under_the_command(tmp_path: Path) -> None:
    (tmp_path / "wan.toml").write_text(SETTINGS)
    text = "accelerate launch src/musubi_tuner/wan_train_network.py --config_file wan --network_dim 8 --gradient_checkpointing\n"
    found = read_beside(text, tmp_path)
    expected = {
        "model": "wan-2.1-t2v-14b",
        "lora.rank": 8,
        "lora.alpha": 64,
        "checkpointing": "full",
        "image_size": [480, 832],
    }
    assert (found.format, parts(found.run, expected)) == ("musubi", expected)


def test_scaled_fp8_is_of_the_blocks_alone(tmp_path: Path) -> None:
    """A byte and a 64th of two for each weight of a block's linear layer; what is outside stays in 16 bits."""
    whole = read_beside(QWEN, tmp_path, SQUARE).run
    scaled = read_beside(QWEN.replace("--sdpa", "--sdpa --fp8_base --fp8_scaled"), tmp_path, SQUARE).run
    assert scaled["quantize"]["name"] == "scaled-fp8"
    weights = [estimate_run(parse_run(dict(run))).memory.components.weights for run in (whole, scaled)]
    held = 60 * (2 * 4 * 3072 * 3072 + 2 * 2 * 3072 * 12288 + 2 * 3072 * 18432)  # attention, feed-forward, modulation
    assert weights[0] - weights[1] == held * 2 - held * (1 + 2 / 64)


def test_qwen_image_adapts_its_modulation_and_z_image_does_not(tmp_path: Path) -> None:
    """`_mod_` is in none of the dotted names of Qwen-Image's modules: lora_qwen_image.py leaves nothing out."""
    run = dict(read_beside(QWEN, tmp_path, SQUARE).run)
    one = 2 * 4 * (3072 + 3072) + 2 * 2 * (3072 + 12288) + 2 * (3072 + 18432)
    assert estimate_run(parse_run(run)).model.trainable == 60 * one * 32
    zimage = QWEN.replace("qwen_image", "zimage")
    run = dict(read_beside(zimage, tmp_path, SQUARE).run)
    every = estimate_run(parse_run({**run, "lora": {**run["lora"], "exclude": None}})).model.trainable
    assert estimate_run(parse_run(run)).model.trainable < every


def test_what_is_said(tmp_path: Path) -> None:
    alone = reading(WAN.rstrip() + " --blocks_to_swap 20\n", name="go.sh")
    assert {"data-sets-elsewhere", "not-modelled"} <= codes(alone)
    assert "bf16-assumed" in codes(reading(WAN.replace("--mixed_precision bf16", ""), name="go.sh"))
    chosen = WAN.replace("--sdpa", "--sdpa --network_args \"exclude_patterns=['.*ffn.*']\"")
    assert "not-modelled" in codes(read_beside(chosen, tmp_path))


@pytest.mark.parametrize(("text", "told"), [
    (WAN.replace("wan_train", "fpack_train"), r"fpack_train_network\.py trains; say which with --model"),
    (WAN.replace("t2v-1.3B", "t2v-2B"), r"'t2v-2B' is none of t2v-14B"),
    (WAN.replace("--fp8_base", "--fp8_scaled"), "fp8_scaled requires fp8_base"),
])  # fmt: skip
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(RunInvalid, match=told):
        reading(text, name="go.sh")


def test_scripts_of_others_are_not_taken() -> None:
    from memcalc.configs import detect  # noqa: PLC0415

    assert (
        detect(document("accelerate launch flux_train_network.py --pretrained_model_name_or_path flux1-dev.sft\n"))
        == "kohya"
    )
