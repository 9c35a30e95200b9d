"""Launch scripts of diffusers' training examples: train_text_to_image*.py and train_dreambooth*.py.

Sources are those scripts (huggingface/diffusers, examples/). Their traps:

* mixed_precision is none where neither the script nor accelerate's own flag says one; what is frozen is kept in it;
* adapters are made in the dtype of the frozen weights; only beside fp16 are they cast to fp32 (cast_training_params);
* a model that is trained whole stays in fp32, under autocast;
* DreamBooth's encoders of text encode one prompt and go, unless there are captions or they learn; prior preservation
  doubles the batch.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.denoisers import beside_reference, kin_of, mixed_precision, put_model, shared, side
from memcalc.configs.documents import open_document
from memcalc.configs.follow import find
from memcalc.configs.lora import bitsandbytes
from memcalc.configs.lora import targets as layers
from memcalc.configs.megatron_script import arguments_of
from memcalc.configs.optim import put_optimizer
from memcalc.configs.table import Sheet
from memcalc.configs.words import number, text, truth, whole
from memcalc.presets import find as preset

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "diffusers"
TITLE: Final = "diffusers' scripts"
TEXT: Final = True  # it reads scripts

PRETRAINED: Final = "pretrained_model_name_or_path"
_PROGRAM: Final = re.compile(r"\b(train_(?:text_to_image|dreambooth)(?:_[a-z0-9_]{1,40})?)\.py\b")
_UNMODELLED: Final = {
    "do_fp8_training": "torchao's float8 training is not counted: products run in the mixed precision",
    "use_deepspeed": "sharding is not read from here: say it with --sharding",
    "fsdp_text_encoder": "sharding is not read from here: say it with --sharding",
}  # fmt: skip
# words that speak of what is held; all others are of no account
_MATTER: Final = re.compile(r"offload|dtype|fp8|quant|compile|optimizer$|lora_|rank|freeze|cache_latents|train_text")


def recognises(document: Document) -> int:
    """By the program that a script starts."""
    shown = document.text[:100_000]
    found = None if document.data else _PROGRAM.search(shown)
    return 90 if found and PRETRAINED in shown and found[1] in preset("frameworks", "diffusers")["scripts"] else 0


def read(document: Document, asked: Asked) -> Reading:
    """The run of one script."""
    made, program = _arguments(document)
    sheet = Sheet(made, asked, NAME, TITLE)
    scripts = preset("frameworks", "diffusers")["scripts"]
    if program not in scripts:
        raise sheet.refuse("", f"no script of diffusers that is known is started: {', '.join(scripts)}")
    script = {"source": f"examples, {program}.py", **scripts[program]}
    family = kin_of(str(sheet.get(PRETRAINED, default="")), script["family"])  # its sister, where the name says so
    put_model(sheet, family, PRETRAINED)
    sheet.gpus("num_processes")
    _, recipe, held = mixed_precision(sheet)
    sheet.put("precision", recipe, "mixed_precision", default=f"{script['source']}: none")
    _shape(sheet, script)
    if family == "flux-kontext" and sheet.get("cond_image_column"):
        beside_reference(sheet, "resolution", "cond_image_column")
    sheet.seen("enable_xformers_memory_efficient_attention")  # neither kernel holds a matrix of scores
    sheet.put("attention", "sdpa", default="diffusers, models/attention_processor.py: AttnProcessor2_0")
    on = sheet.read(truth, "gradient_checkpointing", default=False)
    sheet.put("checkpointing", "full" if on else "none", "gradient_checkpointing", default=f"{script['source']}: off")
    _optimizer(sheet, script)
    if script.get("adapters"):
        _adapters(sheet, script, held)
    _company(sheet, script, shared()["families"][family], held)
    sheet.unmodelled(_UNMODELLED)
    return sheet.reading(key for key in sheet.document.data if not _MATTER.search(key))


def _arguments(document: Document) -> tuple[Document, str]:
    """The arguments, and the script that is started with them."""
    found = _PROGRAM.search(document.text[:100_000])
    return (document if document.data else arguments_of(document)), found[1] if found else ""


def _shape(sheet: Sheet, script: Mapping[str, Any]) -> None:
    """Images and tokens of a micro batch, and how many of them make up a step."""
    source = script["source"]
    square = [script["side"]] * 2
    sheet.put(
        "image_size", sheet.read(side, "resolution", default=square), "resolution", default=f"{source}: {square[0]}"
    )
    both = 2 if sheet.read(truth, "with_prior_preservation", default=False) else 1
    batch = sheet.read(whole, "train_batch_size", default=script["batch"])
    sheet.put(
        "batch_size",
        batch * both,
        "train_batch_size",
        "with_prior_preservation",
        default=f"{source}: {script['batch']}",
    )
    count = sheet.read(whole, "gradient_accumulation_steps", default=1)
    sheet.put("grad_accum", count, "gradient_accumulation_steps", default=f"{source}: 1")
    if tokens := script.get("tokens"):
        length = sheet.read(whole, "max_sequence_length", default=tokens["length"])
        sheet.put("seq_len", tokens["first"] + length, "max_sequence_length", default=f"{source}: {tokens['length']}")


def _optimizer(sheet: Sheet, script: Mapping[str, Any]) -> None:
    name = sheet.read(text, "optimizer", default="AdamW")
    eight = sheet.read(truth, "use_8bit_adam", default=False)
    name = "Prodigy" if name.lower() == "prodigy" else "bitsandbytes.optim.AdamW8bit" if eight else "torch.optim.AdamW"
    put_optimizer(sheet, name, {}, "optimizer", "use_8bit_adam", default=f"{script['source']}: AdamW")


def _adapters(sheet: Sheet, script: Mapping[str, Any], held: str) -> None:
    """Set `lora` and `quantize`."""
    rank = sheet.read(whole, "rank", default=4)
    sheet.put("lora.rank", rank, "rank", default=f"{script['source']}: 4")
    sheet.put(
        "lora.alpha", sheet.read(number, "lora_alpha", default=rank), "lora_alpha", "rank", default=script["source"]
    )
    if drop := sheet.read(number, "lora_dropout", default=0):
        sheet.put("lora.dropout", drop, "lora_dropout")
    sheet.put(
        "lora.dtype", "fp32" if held == "fp16" else held, "mixed_precision", default=f"{script['source']}: add_adapter"
    )
    if chosen := sheet.read(layers, "lora_layers", "lora_blocks"):
        sheet.put("lora.targets", chosen, "lora_layers", "lora_blocks")
    if named := sheet.read(text, "bnb_quantization_config_path"):
        _packed(sheet, named)


def _packed(sheet: Sheet, named: str) -> None:
    """Set `quantize` from the file that bitsandbytes' settings are in."""
    path = find(sheet.document, named)
    if path is None:
        sheet.fault("bnb_quantization_config_path", f"{named} is not there: say what it holds with --quantize nf4")
        return
    inner = Sheet(replace(open_document(path), within=""), sheet.asked, NAME, TITLE)
    if bitsandbytes(inner):
        sheet.put("quantize", inner.run["quantize"], "bnb_quantization_config_path")


def _company(sheet: Sheet, script: Mapping[str, Any], family: Mapping[str, Any], held: str) -> None:
    """Set `companions`: encoders of text, the autoencoder, a moving average."""
    learn = sheet.read(truth, "train_text_encoder", default=False)
    stay = set(script["stay"]) | ({"text"} if learn or sheet.has("caption_column") else set())
    gone = {"pre_compute_text_embeddings": "text", "offload": "text", "cache_latents": "images"}
    stay -= {
        what for key, what in gone.items() if sheet.read(truth, key, default=False) and not (learn and what == "text")
    }
    sheet.get("caption_column")
    found = [_encoder(sheet, name, held, learns=learn) for name in family["encoders"]] if "text" in stay else []
    if "images" in stay and "vae" in family:
        kept = held if sheet.get("pretrained_vae_model_name_or_path") else script.get("vae", held)
        found.append({"role": "encoder", "model": family["vae"], "dtype": kept})
    if sheet.read(truth, "use_ema", default=False) and not sheet.read(truth, "offload_ema", default=False):
        found.append({"role": "ema"})
    if found:
        sheet.put("companions", found, "train_text_encoder", "cache_latents", "use_ema", default=script["source"])
    if "vae" not in family and "images" in stay:
        sheet.assume("companions", "autoencoder-left-out", "the autoencoder stays on the GPU, where there is no preset of it: it "
                     "is not counted")  # fmt: skip


def _encoder(sheet: Sheet, name: str, held: str, *, learns: bool) -> dict[str, Any]:
    """One encoder of text; of those that learn CLIP's alone do."""
    if not learns or name in shared()["seldom_learn"]:
        return {"role": "encoder", "model": name, "dtype": held}
    if "lora" not in sheet.run:
        return {"role": "encoder", "model": name, "trainable": True}
    own = {"rank": sheet.run["lora"]["rank"], "targets": preset("frameworks", "diffusers")["encoders"],
           "dtype": sheet.run["lora"]["dtype"]}  # fmt: skip
    return {"role": "encoder", "model": name, "dtype": held, "lora": own}
