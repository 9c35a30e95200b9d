"""ostris' ai-toolkit: a job's YAML (`python run.py config.yml`), whose `sd_trainer` process is read.

Sources are toolkit/config_modules.py, toolkit/lora_special.py and extensions_built_in/sd_trainer. Its traps:

* `train.dtype` (fp32 where nothing is said) is what the model is held and computed in, without autocast; adapters are fp32;
* without `network` all of the model is trained, in that dtype;
* adapters are put on every linear layer of the transformer's blocks; `gradient_checkpointing` is on;
* `quantize` packs the model in 8 bits (`qtype`), and its encoders of text unless `quantize_te` says otherwise;
* the encoders of text stay on the GPU unless `unload_text_encoder` or `cache_text_embeddings` sends them off.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.denoisers import beside_reference
from memcalc.configs.image_trainers import (
    DTYPES,
    encoders,
    kind,
    largest,
    moving_average,
    optimizer,
    packing,
    resolutions,
    table,
    targets,
)
from memcalc.configs.table import Sheet
from memcalc.configs.words import mapping, names, number, text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "ai-toolkit"
TITLE: Final = "ai-toolkit"

SOURCE: Final = "ai-toolkit, toolkit/config_modules.py"
_TYPES: Final = ("sd_trainer", "diffusion_trainer", "ui_trainer")
_METHODS: Final = {"lora": "", "lierla": "", "c3lier": "", "locon": "", "lokr": "lokr", "dora": "dora"}
_IGNORED: Final = (
    "type", "training_folder", "device", "trigger_word", "performance_log_every", "save*", "sample*", "logging*",
    "datasets*", "sqlite*",
    "slider*", "train.steps", "train.lr*", "train.noise*", "train.timestep*", "train.linear_timesteps*", "train.skip*",
    "train.disable*",
    "train.train_unet", "train.optimizer_params*", "train.content*", "train.loss*", "train.*_lr", "train.ema_config*",
    "train.max_*",
    "train.min_*", "train.weight*", "train.prompt*", "train.force*", "train.start_step", "train.bypass*", "train.*multiplier*",
    "train.switch*", "train.do_cfg", "train.cfg*", "train.xformers", "train.sdp", "train.reg_weight", "train.snr*",
    "train.negative*",
    "model.is_*", "model.low_vram", "model.assistant*", "model.extras*", "model.te_name*", "model.model_kwargs*",
    "model.vae_path",
    "model.accuracy*", "model.inference*", "model.lora_path", "model.attn_masking", "network.network_kwargs*",
    "network.transformer_only",
    "network.dropout", "network.lokr*", "network.old_lokr_format", "network.*alpha", "train.inverted*", "train.*captions*",
    "train.dynamic*", "train.diff_output_preservation_*", "train.blank_prompt_preservation_*",
)  # fmt: skip
_UNMODELLED: Final = {
    "slider": "a slider's passes of several prompts are counted as one",
    "adapter": "an adapter beside the network (IP, ControlNet, T2I) is not counted",
    "embedding": "a trained embedding is not counted",
    "train.train_text_encoder": "an encoder of text that learns, too, is counted as frozen",
    "train.do_paramiter_swapping": "parameters that take turns are counted as all trained, which is more than is used",
    "train.diff_output_preservation": "the second pass of preserved outputs is not counted",
    "train.blank_prompt_preservation": "the second pass of preserved outputs is not counted",
    "train.diffusion_feature_extractor_path": "a feature extractor is not counted",
    "train.latent_feature_extractor_path": "a feature extractor is not counted",
    "train.do_guidance_loss": "the passes of the guidance loss are not counted",
    "train.single_item_batching": "a batch that runs one item at a time is counted whole",
    "train.short_and_long_captions": "the doubled batch of short and long captions is not counted",
    "model.layer_offloading": "layers that are moved to the host are counted on the GPU, which is more than is used",
    "model.split_model_over_gpus": "the model is counted whole on one GPU",
    "model.compile": "torch.compile is not counted: the modules run as they are written",
    "model.refiner_name_or_path": "the refiner is not counted",
    "model.text_encoder_bits": "encoders of text in 4 or 8 bits are counted in the model's dtype",
    "model.unconditional_name_or_path": "a second model is not counted",
}


def recognises(document: Document) -> int:
    """By `config.process` of a job, one of whose types is a trainer's of it."""
    found = _process(document)
    return 94 if found is not None and "job" in document.data else 0


def _process(document: Document) -> tuple[int, dict[str, Any]] | None:
    """The first process that trains a diffusion model, and its place."""
    config = document.data.get("config")
    several = config.get("process") if isinstance(config, dict) else None
    for place, one in enumerate(several if isinstance(several, list) else []):
        if isinstance(one, dict) and (one.get("type") in _TYPES or {"model", "train"} <= one.keys()):
            return place, one
    return None


def read(document: Document, asked: Asked) -> Reading:
    """The run of a job's first process."""
    found = _process(document)
    if found is None:
        raise Sheet(document, asked, NAME, TITLE).refuse(
            "config.process", "no process in it trains a model (type: sd_trainer)"
        )
    sheet = Sheet(document.part(f"config.process.{found[0]}", found[1]), asked, NAME, TITLE)
    word = _arch(sheet)
    family, rules = kind(sheet, word, "aitoolkit", "model.arch", "model.name_or_path")
    sheet.gpus(count=1 if not asked.gpus else None)
    held = _precision(sheet)
    _shape(sheet, video=bool(rules.get("video")))
    if word.startswith(("flux_kontext", "qwen_image_edit")):
        beside_reference(sheet, "datasets", "model.arch")
    sheet.put("attention", "sdpa", default="diffusers, models/attention_processor.py")
    on = sheet.read(truth, "train.gradient_checkpointing", default=True)
    sheet.put("checkpointing", "full" if on else "none", "train.gradient_checkpointing", default=f"{SOURCE}: on")
    name = sheet.read(text, "train.optimizer", default="adamw")
    optimizer(sheet, name, sheet.read(mapping, "train.optimizer_params", default={}), "train.optimizer", default=SOURCE)
    if sheet.has("network"):
        _adapters(sheet, family)
    _company(sheet, rules, held)
    _other_stage(sheet, word)
    _learns(sheet)
    sheet.unmodelled(_UNMODELLED)
    return sheet.reading(_IGNORED)


def _arch(sheet: Sheet) -> str:
    """model.arch, without the tag behind it; the switches of older files; what nothing says is a Stable Diffusion 1."""
    written = sheet.read(text, "model.arch", default="").partition(":")[0]
    flags = table()["flags"]
    ticked = [arch for flag, arch in flags.items() if sheet.read(truth, f"model.{flag}", default=False)]
    return written or (ticked[-1] if ticked else "sd1")


def _precision(sheet: Sheet) -> str:
    """Set `precision` and `quantize`; the dtype of what is frozen."""
    word = sheet.read(text, "train.dtype", default="fp32")
    if word not in DTYPES:
        sheet.fault("train.dtype", f"{word!r} is none of bf16, fp16, fp32")
    held = DTYPES.get(word, "bf16")
    sheet.put("precision", held, "train.dtype", default=f"{SOURCE}: fp32")
    sheet.seen("model.dtype", "model.vae_dtype", "model.te_dtype")
    if sheet.read(truth, "model.quantize", default=False) and (packed := _packing(sheet, "model.qtype")):
        sheet.put("quantize", {"name": packed, "upcast": False}, "model.quantize", "model.qtype", default=SOURCE)
    sheet.seen("model.qtype", "model.quantize_kwargs")
    return held


def _shape(sheet: Sheet, *, video: bool) -> None:
    """Images of the largest resolution of all sets, frames of the longest, and the batch."""
    sets = [one for one in sheet.get("datasets", default=[]) if isinstance(one, dict)]
    try:
        square = largest([each for one in sets for each in resolutions(one.get("resolution", 512))], [512, 512])
    except ValueError as error:
        sheet.fault("datasets", str(error))
        square = [512, 512]
    sheet.put("image_size", square, "datasets", default=f"{SOURCE}: 512")
    frames = [one.get("num_frames", 1) for one in sets if isinstance(one.get("num_frames", 1), int)]
    if max(frames, default=1) > 1 or video:
        sheet.put("frames", max(frames, default=1), "datasets", default=f"{SOURCE}: 1")
    sheet.put(
        "batch_size", sheet.read(whole, "train.batch_size", default=1), "train.batch_size", default=f"{SOURCE}: 1"
    )
    keys = ("train.gradient_accumulation", "train.gradient_accumulation_steps")
    steps = max([1, *(sheet.read(whole, key, default=1) for key in keys)])
    sheet.put("grad_accum", steps, *keys, default=f"{SOURCE}: 1")


def _adapters(sheet: Sheet, family: str) -> None:
    """Set `lora`: fp32 adapters of every linear layer of the blocks; of convolutions where `conv` is written."""
    word = sheet.read(text, "network.type", default="lora").lower()
    if word not in _METHODS:
        sheet.fault("network.type", f"{word} is not modelled: {', '.join(_METHODS)} are")
    rank = sheet.read(whole, "network.rank", "network.linear", default=4)
    if sheet.read(truth, "network.lokr_full_rank", default=False) and word == "lokr":
        sheet.warn(
            "network.lokr_full_rank", "not-modelled", "LoKr of full rank has larger factors than those that are counted"
        )
    if _METHODS.get(word) == "lokr":
        sheet.put("lora.method", "lokr", "network.type")
    if word == "dora":
        sheet.put("lora.dora", True, "network.type")
    sheet.put("lora.rank", rank, "network.rank", "network.linear", default=SOURCE)
    sheet.put("lora.dtype", "fp32", default="ai-toolkit, jobs/process/BaseSDTrainProcess.py: network.force_to(float32)")
    if drop := sheet.read(number, "network.dropout", default=0):
        sheet.put("lora.dropout", drop, "network.dropout")
    blocks = sheet.read(truth, "network.transformer_only", default=True)
    keys = ("network.network_kwargs.only_if_contains", "network.network_kwargs.ignore_if_contains")
    only, never = (sheet.read(names, key, default=[]) for key in keys)
    targets(sheet, family, blocks=blocks, convolutions=bool(sheet.get("network.conv")), keys=keys, never=never,
            only=[word.removeprefix("transformer.") for word in only], default="toolkit/lora_special.py")  # fmt: skip


def _company(sheet: Sheet, rules: Any, held: str) -> None:  # noqa: ANN401 - a family's table
    """Set `companions`: encoders of text unless they are sent off, the autoencoder unless latents are cached."""
    keys = ("train.unload_text_encoder", "train.cache_text_embeddings")
    said = [sheet.read(truth, key, default=False) for key in keys]
    sets = [one for one in sheet.get("datasets", default=[]) if isinstance(one, dict)]
    sent = any(said) or (bool(sets) and all(one.get("cache_text_embeddings") for one in sets))
    cached = bool(sets) and all(one.get("cache_latents") or one.get("cache_latents_to_disk") for one in sets)
    packs = sheet.read(truth, "model.quantize_te", default=sheet.read(truth, "model.quantize", default=False))
    packed = _packing(sheet, "model.qtype_te") if packs else None
    encoders(sheet, rules, held, text=not sent, images=not cached, quantize=packed, keys=(*keys, "datasets"))
    if sheet.read(truth, "train.ema_config.use_ema", default=False):
        moving_average(sheet, "train.ema_config.use_ema", adapted=sheet.has("network"))


def _packing(sheet: Sheet, key: str) -> str | None:
    """The storage of a `qtype`, without the file of an accuracy recovery adapter behind it (`uint3|owner/ara`)."""
    return packing(sheet, sheet.read(text, key, default="qfloat8").partition("|")[0], key)


def _learns(sheet: Sheet) -> None:
    """Set `train` where the model is trained but only in the layers whose names model.only_if_contains lists."""
    key = "model.only_if_contains"
    if sheet.has(key) and not sheet.has("network"):
        parts = [word.removeprefix("transformer.") for word in sheet.read(names, key, default=[])]
        sheet.put("train", [f"^{word}" for word in parts], key)
    sheet.seen(key, "model.ignore_if_contains")


def _other_stage(sheet: Sheet, word: str) -> None:
    """Wan 2.2's other transformer, whose weights stay on the GPU unless low_vram sends off the one that does not learn."""
    moved = sheet.read(truth, "model.low_vram", default=False)
    if not word.startswith("wan22_14b") or moved:
        return
    packed = {"quantize": sheet.run["quantize"]} if "quantize" in sheet.run else {}
    waiting = {"role": "teacher", "model": "same", "forward": False, **packed}
    sheet.put("companions", [*sheet.run.get("companions", []), waiting], "model.arch")
