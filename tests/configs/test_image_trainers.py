"""ai-toolkit, OneTrainer and SimpleTuner. Expectations: their config classes and model set-ups (presets/frameworks/
image-trainers.yaml names the files), on files like those that they ship."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.configs.denoisers import shared
from memcalc.configs.image_trainers import table
from memcalc.errors import RunInvalid
from memcalc.optimizers import resolve
from memcalc.pipeline import estimate_run
from memcalc.presets import has
from memcalc.quantization import scheme
from memcalc.run.validation import parse_run
from tests.configs.reader import codes, parts, reading

if TYPE_CHECKING:
    from pathlib import Path

TOOLKIT = """\
job: extension
config:
  name: mine
  process:
    - type: sd_trainer
      training_folder: output
      device: cuda:0
      network: {type: lora, linear: 16, linear_alpha: 16}
      save: {dtype: float16, save_every: 250}
      datasets:
        - folder_path: /data/images
          caption_ext: txt
          cache_latents_to_disk: true
          resolution: [512, 768, 1024]
      train:
        batch_size: 1
        steps: 2000
        gradient_accumulation: 2
        train_unet: true
        train_text_encoder: false
        gradient_checkpointing: true
        noise_scheduler: flowmatch
        optimizer: adamw8bit
        lr: 1e-4
        ema_config: {use_ema: true, ema_decay: 0.99}
        dtype: bf16
      model:
        name_or_path: black-forest-labs/FLUX.1-dev
        is_flux: true
        quantize: true
      sample: {sampler: flowmatch, width: 1024, height: 1024}
meta: {name: mine}
"""
TRAINER: dict[str, Any] = {
    "base_model_name": "lodestones/Chroma1-HD", "batch_size": 2, "model_type": "CHROMA_1", "resolution": "512",
    "transformer": {"train": True, "weight_dtype": "BFLOAT_16"}, "text_encoder": {"train": False, "weight_dtype": "BFLOAT_16"},
    "training_method": "LORA", "vae": {"weight_dtype": "FLOAT_32"}, "train_dtype": "BFLOAT_16", "weight_dtype": "BFLOAT_16",
    "output_dtype": "BFLOAT_16", "timestep_distribution": "INVERTED_PARABOLA", "layer_filter": "attn,ff.net",
    "layer_filter_preset": "attn-mlp",
}  # fmt: skip
TUNER: dict[str, Any] = {
    "base_model_precision": "int8-quanto", "checkpoint_step_interval": 10, "data_backend_config": "sets.json",
    "gradient_checkpointing": True, "lora_alpha": 16, "lora_rank": 16, "lora_type": "standard", "mixed_precision": "bf16",
    "model_family": "flux",
    "model_type": "lora", "optimizer": "adamw_bf16", "output_dir": "out", "train_batch_size": 1,
    "quantize_via": "cpu", "validation_resolution": "1024x1024", "resolution": 1024,
}  # fmt: skip
VARIABLES = """\
export MODEL_TYPE='lora'
export MODEL_FAMILY="sdxl"
export MODEL_NAME="stabilityai/stable-diffusion-xl-base-1.0"
export TRAIN_BATCH_SIZE=3  # of each GPU
export RESOLUTION=1
export RESOLUTION_TYPE="area"
export USE_GRADIENT_CHECKPOINTING=false
export LORA_TYPE="standard"
export LORA_RANK=8
export OPTIMIZER="optimi-lion"
export TRAINING_NUM_PROCESSES=2
"""
ATTENTION = ["to_k", "to_q", "to_v", "to_out.0"]


def without(text: str, *lines: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not any(word in line for word in lines))


def toolkit(old: str = "", new: str = "") -> str:
    assert old in TOOLKIT
    return TOOLKIT.replace(old, new) if old else TOOLKIT


def trainer(**changes: Any) -> str:
    return json.dumps({**TRAINER, **changes})


def tuner(**changes: Any) -> str:
    return json.dumps({key: value for key, value in {**TUNER, **changes}.items() if value is not None}, indent=1)


PACKED = {"name": "quanto-int8", "upcast": False}
RUNS: list[tuple[str, str, str, dict[str, Any]]] = [
    (toolkit(), "job.yaml", "ai-toolkit", {
        "model": "black-forest-labs/FLUX.1-dev", "precision": "bf16", "quantize": PACKED, "image_size": [1024, 1024],
        "batch_size": 1, "grad_accum": 2, "lora.rank": 16, "lora.dtype": "fp32", "lora.targets": "all-linear",
        "checkpointing": "full", "gpus": 1,
        "companions": [{"role": "encoder", "model": name, "dtype": "bf16", "quantize": "quanto-int8"}
                       for name in ("clip-text-encoder-l", "t5-v1.1-xxl-encoder")]}),
    (toolkit("        dtype: bf16\n", "        dtype: bf16\n        cache_text_embeddings: true\n"), "job.yaml", "ai-toolkit", {
        "companions": None}),
    (toolkit("cache_latents_to_disk: true", "caption_dropout_rate: 0.1").replace("quantize: true", "quantize_te: true"), "job.yaml",
     "ai-toolkit", {"quantize": None, "companions.2": None}),
    (toolkit("is_flux: true", "arch: flux_kontext"), "job.yaml", "ai-toolkit", {"image_size": [1024, 2048]}),
    (without(toolkit("quantize: true", "only_if_contains: [transformer.transformer_blocks.]"), "network:"), "job.yaml",
     "ai-toolkit", {
        "lora": None, "train": ["^transformer_blocks."], "quantize": None}),
    (toolkit("is_flux: true", "arch: 'wan21:14b'").replace("black-forest-labs/FLUX.1-dev", "Wan-AI/Wan2.1-T2V-14B-Diffusers")
     .replace("caption_ext: txt", "num_frames: 41"), "job.yaml", "ai-toolkit", {"model": "wan-2.1-t2v-14b", "frames": 41}),
    (toolkit("is_flux: true", "is_xl: true").replace("black-forest-labs/FLUX.1-dev", "stabilityai/stable-diffusion-xl-base-1.0")
     .replace("quantize: true", "x: 1"), "job.yaml", "ai-toolkit", {"lora.targets": shared()["adapted"]["unet"]}),
    (toolkit("type: lora", "type: lokr"), "job.yaml", "ai-toolkit", {"lora.method": "lokr"}),
    (trainer(), "ot.json", "onetrainer", {
        "model": "lodestones/Chroma1-HD", "precision": "bf16-autocast", "batch_size": 2, "image_size": [512, 512], "lora.rank": 16,
        "lora.alpha": 1, "lora.dtype": "fp32", "lora.exclude": r"(?:(?!.*(attn|ff\.net)).*)", "checkpointing": "full",
        "optimizer": "adamw", "companions": None, "gpus": 1}),
    (trainer(transformer={"weight_dtype": "NFLOAT_4"}, gradient_checkpointing="CPU_OFFLOADED"), "ot.json", "onetrainer", {
        "quantize": {"name": "nf4", "upcast": False}, "checkpointing": {"mode": "full", "offload": True}}),
    (trainer(training_method="FINE_TUNE", optimizer={"optimizer": "ADAFACTOR", "fused_back_pass": True}, ema="GPU"), "ot.json",
     "onetrainer", {"lora": None, "optimizer": {"name": "adafactor", "in_backward": True}, "companions": [{"role": "ema"}]}),
    (trainer(latent_caching=False), "ot.json", "onetrainer", {
        "companions": [{"role": "encoder", "model": "t5-v1.1-xxl-encoder", "dtype": "bf16"},
                       {"role": "encoder", "model": "flux-vae", "dtype": "bf16"}]}),
    (trainer(model_type="STABLE_DIFFUSION_XL_10_BASE", base_model_name="mine.safetensors", unet={"weight_dtype": "FLOAT_32"},
             layer_filter="", train_dtype="FLOAT_16", peft_type="LOHA"), "ot.json", "onetrainer", {
        "model": "sdxl-unet", "precision": {"recipe": "amp-fp16", "frozen": "fp32"}, "lora.method": "loha"}),
    (tuner(), "config.json", "simpletuner", {
        "model": "flux.1-dev", "precision": "bf16-autocast", "quantize": PACKED, "image_size": [1024, 1024], "batch_size": 1,
        "lora.rank": 16, "lora.dtype": "bf16", "lora.targets": ATTENTION, "optimizer": "adamw-bf16", "gpus": 1,
        "companions": None}),
    (tuner(model_type="full", base_model_precision="no_change", train_batch_size=None, gradient_checkpointing=False), "config.json",
     "simpletuner", {"lora": None, "quantize": None, "batch_size": 4, "checkpointing": "none"}),
    (json.dumps({f"--{key}": value for key, value in TUNER.items()}), "config.json", "simpletuner", {"lora.rank": 16}),
    (VARIABLES, "config.env", "simpletuner", {
        "model": "stabilityai/stable-diffusion-xl-base-1.0", "batch_size": 3, "image_size": [1024, 1024], "checkpointing": "none",
        "optimizer": "lion", "gpus": 2, "lora.rank": 8, "lora.targets": ATTENTION}),
    (tuner(model_family="wan", model_flavour="i2v-14b-2.2-high"), "config.json", "simpletuner", {"model": "wan-2.1-t2v-14b"}),
    (tuner(model_family="flux", model_flavour="kontext"), "config.json", "simpletuner", {"image_size": [1024, 2048]}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name", "form", "expected"), RUNS)
def test_what_a_file_means(text: str, name: str, form: str, expected: dict[str, Any]) -> None:
    found = reading(text, name=name)
    assert (found.format, parts(found.run, expected)) == (form, expected)
    assert estimate_run(parse_run(dict(found.run))).memory.peak_allocated > 2**30


def test_the_example_for_24_gb_fits_there() -> None:
    peak = estimate_run(parse_run(dict(reading(TOOLKIT, name="job.yaml").run))).memory.peak_allocated
    assert 16 * 2**30 < peak < 24 * 2**30  # train_lora_flux_24gb.yaml, the file this one is like


def test_hidream_s_example_takes_what_its_comment_says() -> None:
    """train_lora_hidream_48.yaml: "will take ~35.2GB of vram"; its four encoders stay on the GPU, packed like the model."""
    text = without(toolkit("is_flux: true", "arch: hidream"), "cache_latents").replace("black-forest-labs/FLUX.1-dev", "HiDream-ai/"
                   "HiDream-I1-Full").replace("linear: 16, linear_alpha: 16", "linear: 32, linear_alpha: 32, network_kwargs: "
                   "{ignore_if_contains: [ff_i.experts, ff_i.gate]}")  # fmt: skip
    run = dict(reading(text, name="job.yaml").run)
    assert [one["model"] for one in run["companions"]] == [
        "clip-text-encoder-l", "sdxl-text-encoder-2", "t5-v1.1-xxl-encoder", "llama-3.1-8b", "flux-vae"]  # fmt: skip
    total = estimate_run(parse_run(run)).memory.total
    assert total == pytest.approx(35.2 * 2**30, rel=0.05)


def test_both_stages_of_wan_stay_unless_one_is_sent_off() -> None:
    text = toolkit("is_flux: true", "arch: wan22_14b\n        qtype: uint4|some/adapter").replace(
        "black-forest-labs/FLUX.1-dev", "ai-toolkit/Wan2.2-T2V-A14B-Diffusers-bf16"
    )
    run = reading(text, name="job.yaml").run
    packed = {"name": "torchao-int4", "upcast": False}
    assert (run["model"], run["frames"], run["quantize"]) == ("wan-2.1-t2v-14b", 1, packed)
    assert run["companions"] == [
        {"role": "encoder", "model": "umt5-xxl-encoder", "dtype": "bf16", "quantize": "quanto-int8"},
        {"role": "teacher", "model": "same", "forward": False, "quantize": packed},
    ]
    moved = reading(text.replace("quantize: true", "quantize: true\n        low_vram: true"), name="job.yaml").run
    assert [one["role"] for one in moved["companions"]] == ["encoder"]


@pytest.mark.parametrize(("name", "model"), [
    ("black-forest-labs/FLUX.2-klein-base-9B", "flux.2-klein-9b"), ("mine/flux2-klein-4b-tuned", "flux.2-klein-4b"),
    ("black-forest-labs/FLUX.2-dev", "flux.2-dev"),
])  # fmt: skip
def test_a_member_of_flux_2_is_told_by_its_name(name: str, model: str) -> None:
    run = reading(trainer(model_type="FLUX_2", base_model_name=name), name="ot.json").run
    assert estimate_run(parse_run(dict(run))).model.name == model


def test_places_are_those_of_the_file() -> None:
    found = reading(TOOLKIT, name="job.yaml")
    assert {path: found.origins[path].line for path in ("batch_size", "lora.rank", "precision", "quantize")} == {
        "batch_size": 16, "lora.rank": 8, "precision": 26, "quantize": 30}  # fmt: skip
    assert reading(VARIABLES, name="config.env").origins["lora.rank"].line == 9
    assert reading(tuner(), name="config.json").origins["lora.rank"].line == 7


def test_data_sets_and_lycoris_are_followed(tmp_path: Path) -> None:
    (tmp_path / "sets.json").write_text(
        '[{"id": "a", "resolution": 768}, {"id": "b", "resolution": 1, "resolution_type": "area"}]'
    )
    (tmp_path / "lycoris.json").write_text('{"algo": "loha", "linear_dim": 32}')
    changed = tuner(resolution=512, lora_type="lycoris", lycoris_config="lycoris.json")
    found = reading(changed, name="config.json", folder=tmp_path)
    assert parts(found.run, ("image_size", "lora.method", "lora.rank")) == {
        "image_size": [1024, 1024], "lora.method": "loha", "lora.rank": 32}  # fmt: skip
    assert "data-sets-elsewhere" not in codes(found)
    alone = reading(tuner(lora_type="lycoris"), name="config.json")
    assert {"not-found", "data-sets-elsewhere"} <= codes(alone)


FAULTS = [
    (toolkit("is_flux: true", "arch: omnigen2"), "job.yaml", "no preset has the kind of model 'omnigen2'"),
    (toolkit("dtype: bf16\n", "dtype: fp4\n"), "job.yaml", "'fp4' is none of bf16, fp16, fp32"),
    (toolkit("type: lora", "type: lorm"), "job.yaml", "lorm is not modelled"),
    (toolkit("optimizer: adamw8bit", "optimizer: adawarp"), "job.yaml", "unknown optimizer 'adawarp'"),
    (toolkit("[512, 768, 1024]", "[big]"), "job.yaml", "'big' is not a number"),
    (trainer(training_method="EMBEDDING"), "ot.json", "EMBEDDING is not modelled"),
    (trainer(model_type="WUERSTCHEN_2"), "ot.json", "no preset has the kind of model 'WUERSTCHEN_2'"),
    (
        trainer(training_method="FINE_TUNE", transformer={"weight_dtype": "INT_8"}),
        "ot.json",
        "INT_8 is for frozen weights",
    ),
    (tuner(model_family="omnigen"), "config.json", "no preset has the kind of model 'omnigen'"),
    (tuner(model_type="full"), "config.json", "int8-quanto is for frozen weights"),
    (tuner(train_batch_size="many"), "config.json", "'many' is not a number"),
]


@pytest.mark.parametrize(("text", "name", "message"), FAULTS)
def test_what_can_not_be_right(text: str, name: str, message: str) -> None:
    with pytest.raises(RunInvalid, match=re.escape(message)):
        reading(text, name=name)


def test_what_is_left_out_is_said() -> None:
    moved = toolkit(
        "quantize: true", "quantize: true\n        layer_offloading: true\n        qtype: uint3|some/adapter"
    )
    found = reading(moved, name="job.yaml")
    assert sum(note.code == "not-modelled" for note in found.warnings) == 2
    assert found.run["quantize"]["name"] == "torchao-int4"
    assert "not-modelled" in codes(reading(toolkit("is_flux: true", "arch: auraflow"), name="job.yaml"))  # its encoder
    assert "not-modelled" in codes(reading(trainer(text_encoder={"train": True}), name="ot.json"))
    assert "not-modelled" in codes(reading(tuner(ramtorch=True), name="config.json"))
    for text, name in (
        (TOOLKIT, "job.yaml"),
        (trainer(), "ot.json"),
        (tuner(), "config.json"),
        (VARIABLES, "config.env"),
    ):
        assert "keys-not-read" not in codes(reading(text, name=name))


def test_every_name_of_the_table_is_known() -> None:
    rules, families = table(), {**shared()["families"], **table()["more"]}
    named = [
        *rules["aitoolkit"].values(),
        *rules["onetrainer"].values(),
        *rules["simpletuner"].values(),
        *rules["flavours"].values(),
    ]
    assert set(named) <= families.keys()
    assert all(has("models", family["model"]) for family in rules["more"].values())
    assert all(resolve(name).name for name in rules["optimizers"].values())
    assert all(scheme(name).name for name in rules["packings"].values() if name)
