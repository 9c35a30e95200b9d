"""musubi-tuner's scripts. Expectations: hv_train_network.py, networks/lora_*.py and dataset/config_utils.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc.errors import RunInvalid
from memcalc.pipeline import estimate_run
from memcalc.run.validation import parse_run
from tests.configs.reader import codes, parts, reading

if TYPE_CHECKING:
    from pathlib import Path

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
QWEN = (WAN.replace("wan_train_network", "qwen_image_train_network").replace("--task t2v-1.3B ", "").replace(" --fp8_base", "")
        .replace("lora_wan", "lora_qwen_image"))  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [
    (WAN, {"model": "wan-2.1-t2v-1.3b", "precision": {"recipe": "amp-bf16", "frozen": "fp8"}, "image_size": [480, 832],
           "frames": 45, "batch_size": 1, "lora.rank": 32, "lora.alpha": 1, "lora.dtype": "fp32", "lora.targets": "all-linear",
           "gpus": 1, "checkpointing": "full", "companions": None}),
    (WAN.replace("t2v-1.3B", "i2v-14B"), {"model": "wan-2.1-t2v-14b"}),
    (QWEN, {"model": "qwen-image", "precision": {"recipe": "amp-bf16", "frozen": "bf16"}, "frames": None}),
    (QWEN.replace("_train_network", "_train").replace("--network_module networks.lora_qwen_image --network_dim 32", "")
     + " --full_bf16 --fused_backward_pass", {"lora": None, "precision": "bf16-autocast"}),
    (WAN.replace("lora_wan", "loha"), {"lora.method": "loha"}),
    (WAN.replace(" --gradient_checkpointing", ""), {"checkpointing": "none"}),
])  # fmt: skip
def test_what_a_script_means(text: str, expected: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data.toml").write_text(SETS)
    found = reading(text.replace("out\n --full", "out --full"), name="go.sh", folder=tmp_path)
    assert (found.format, parts(found.run, expected)) == ("musubi", expected)
    assert "keys-not-read" not in codes(found)
    if "qwen" not in text:
        assert estimate_run(parse_run(dict(found.run))).memory.peak_allocated > 2**30


def test_modulation_has_no_adapters(tmp_path: Path) -> None:
    (tmp_path / "data.toml").write_text('[general]\nresolution = [512, 512]\n[[datasets]]\nimage_directory = "a"\n')
    run = dict(reading(QWEN, name="go.sh", folder=tmp_path).run)
    every = estimate_run(parse_run({**run, "lora": {**run["lora"], "exclude": None}})).model.trainable
    assert estimate_run(parse_run(run)).model.trainable < every


def test_what_is_said() -> None:
    alone = reading(WAN.rstrip() + " --blocks_to_swap 20 --dit_high_noise other.safetensors\n", name="go.sh")
    assert {"data-sets-elsewhere", "not-modelled"} <= codes(alone)
    with pytest.raises(RunInvalid, match=r"fpack_train_network\.py trains; say which with --model"):
        reading(WAN.replace("wan_train", "fpack_train"), name="go.sh")
