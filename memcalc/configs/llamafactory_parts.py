"""Parts of LLaMA-Factory's schema that take a rule: storage, adapters, what learns, optimizers, models held beside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs import losses, trainer
from memcalc.configs.lora import ALL_LINEAR
from memcalc.configs.names import known
from memcalc.configs.optim import put_optimizer
from memcalc.configs.packed import packed
from memcalc.configs.words import names, number, text, truth, whole
from memcalc.errors import MemcalcError
from memcalc.models import load_model
from memcalc.presets import find

if TYPE_CHECKING:
    from memcalc.configs.table import Sheet
    from memcalc.model import Model

_ARGS: Final = "llamafactory/hparams/finetuning_args.py"


def targets(value: Any) -> list[str] | str | None:  # noqa: ANN401 - whatever is written
    """`all`, or names with commas between them (hparams/finetuning_args.py, split_arg)."""
    found = names(value)
    return ALL_LINEAR if found in (["all"], [ALL_LINEAR]) else found or None


def storage(sheet: Sheet) -> bool:
    """Set `quantize` from quantization_bit and _method, or from a checkpoint that is packed; whether the base is packed.

    bitsandbytes' 4 bits: NF4, doubly quantised, stored in the compute dtype (model_utils/quantization.py); the rest of
    the model stays in it too, for peft's k-bit preparation is not called.
    """
    bits = sheet.read(whole, "quantization_bit")
    method = sheet.read(text, "quantization_method", default="bnb").lower()
    if packed(sheet, "model_name_or_path"):
        sheet.seen("quantization_bit", "quantization_method", "quantization_type", "double_quantization")
        return True
    if bits is None:
        sheet.seen("quantization_type", "double_quantization")
        return False
    if method in ("hqq", "eetq"):
        sheet.put(
            "quantize",
            {"name": "hqq", "bits": bits} if method == "hqq" else "eetq",
            "quantization_bit",
            "quantization_method",
        )
    elif bits == 4:
        kind = sheet.read(text, "quantization_type", default="nf4")
        double = sheet.read(truth, "double_quantization", default=True)
        sheet.put("quantize", {"name": kind, "double": double, "storage": "bf16", "upcast": False}, "quantization_bit")
    elif bits == 8:
        sheet.put("quantize", {"name": "int8", "upcast": False}, "quantization_bit")
    else:
        sheet.fault("quantization_bit", "bitsandbytes only takes 4-bit or 8-bit quantization")
    return True


def adapters(sheet: Sheet, kind: str, quantized: bool, cast: str) -> None:
    """Set `lora`; adapters are fp32: peft makes them so, and what is trained is cast (model/adapter.py).

    `cast` is the dtype that DeepSpeed casts the whole model to, '' without it.
    """
    target = "oft_target" if kind == "oft" else "lora_target"
    sheet.put("lora.targets", sheet.read(targets, target, default=ALL_LINEAR), target, default=_ARGS)
    _oft(sheet) if kind == "oft" else _lora(sheet)
    saved = sheet.read(names, "additional_target", default=[])
    if saved:
        sheet.put("lora.save_modules", saved, "additional_target")
    sheet.put("lora.dtype", cast or "fp32", "deepspeed" if cast else "finetuning_type",
              default="peft: autocast_adapter_dtype; llamafactory/model/adapter.py")  # fmt: skip
    _no_towers(sheet)
    if quantized and kind == "oft":
        sheet.seen("oft_rank")


def _oft(sheet: Sheet) -> None:
    sheet.put("lora.method", "oft", "finetuning_type")
    size = sheet.read(whole, "oft_block_size", default=32)
    sheet.put("lora.block_size", size or None, "oft_block_size", default=_ARGS)
    rank = sheet.read(whole, "oft_rank", default=0)
    if rank:
        sheet.put("lora.rank", rank, "oft_rank")


def _lora(sheet: Sheet) -> None:
    rank = sheet.read(whole, "lora_rank", default=8)
    sheet.put("lora.rank", rank, "lora_rank", default=_ARGS)
    alpha = sheet.read(number, "lora_alpha", default=2 * rank)
    sheet.put("lora.alpha", alpha, "lora_alpha", default=f"{_ARGS}: twice the rank")
    sheet.put("lora.dropout", sheet.read(number, "lora_dropout", default=0.0), "lora_dropout", default=_ARGS)
    for theirs, ours in (("use_rslora", "rslora"), ("use_dora", "dora")):
        if sheet.read(truth, theirs, default=False):
            sheet.put(f"lora.{ours}", True, theirs)


def _no_towers(sheet: Sheet) -> None:
    """Adapters stay out of projectors, and out of towers while those are frozen (model_utils/misc.py, visual.py)."""
    table = find("frameworks", "llamafactory")
    frozen = sheet.read(truth, "freeze_vision_tower", default=True)
    sheet.seen("freeze_multi_modal_projector", "freeze_language_model")
    parts = [table["projectors"], *([table["towers"]] if frozen else [])]
    if holds(sheet, "|".join(parts)):
        sheet.put("lora.exclude", rf"(?:{'|'.join(parts)}).*", "freeze_vision_tower", default=_ARGS)


def learns(sheet: Sheet, kind: str) -> None:
    """Set `freeze` or `train` where less than all of the model is trained: frozen towers, `freeze`, BAdam."""
    table = find("frameworks", "llamafactory")
    still = [table[part] for part, key, default in (
        ("towers", "freeze_vision_tower", True), ("projectors", "freeze_multi_modal_projector", True),
        ("language", "freeze_language_model", False),
    ) if sheet.read(truth, key, default=default) and holds(sheet, table[part])]  # fmt: skip
    if kind == "full" and still:
        sheet.put("freeze", [f"^{part}" for part in still], "freeze_vision_tower", default=_ARGS)
    if kind == "freeze":
        _last_layers(sheet)
    elif sheet.read(truth, "use_badam", default=False) and kind == "full":
        sheet.put("train", [r"layers\.0\."], "use_badam")
        sheet.assume(
            "train",
            "badam",
            "BAdam trains one layer at a time, with its gradients, fp32 copy and states: one is counted",
        )
    sheet.seen("freeze_trainable_layers", "freeze_extra_modules")


def _last_layers(sheet: Sheet) -> None:
    """freeze_trainable_layers: the last n, or with a minus the first n; freeze_extra_modules beside them."""
    count = sheet.read(whole, "freeze_trainable_layers", default=2)
    model = _model(sheet)
    depth = _depth(model) if model else 0
    if not depth:
        sheet.fault(
            "freeze_trainable_layers", "how many layers the model has is not known; say which learn with --set train"
        )
        return
    chosen = range(max(0, depth - count), depth) if count > 0 else range(min(depth, -count))
    extra = sheet.read(names, "freeze_extra_modules", default=[])
    numbers = "|".join(map(str, chosen))
    sheet.put("train", [rf"layers\.(?:{numbers})\.", *extra], "freeze_trainable_layers", default=f"{_ARGS}: two")


def _depth(model: Model) -> int:
    dimensions = model.dimensions
    return int(dimensions["num_hidden_layers"]) if dimensions is not None and "num_hidden_layers" in dimensions else 0


def _model(sheet: Sheet) -> Model | None:
    spec = sheet.run.get("model", sheet.asked.model)
    try:
        return load_model(spec) if spec is not None else None
    except MemcalcError:
        return None


def holds(sheet: Sheet, pattern: str) -> bool:
    """Whether the model has tensors whose names begin as a regular expression says."""
    import re  # noqa: PLC0415 - for models of several towers only

    model = _model(sheet)
    return model is not None and any(re.match(pattern, tensor.name) for tensor in model.tensors)


def optimizer(sheet: Sheet) -> None:
    """Set `optimizer`: one of LLaMA-Factory's own (train/trainer_utils.py), else the Trainer's."""
    table = find("frameworks", "llamafactory")["optimizers"]
    chosen = next((key for key in table if sheet.read(truth, key, default=False)), None)
    if chosen is None:
        trainer.optimizer(sheet, "optim")
        return
    word = sheet.read(text, "optim", default="adamw_torch")
    named = table[chosen]
    name = next((named[kind] for kind in ("8bit", "adafactor") if kind in word and kind in named), named["plain"])
    prefix = chosen.removeprefix("use_")
    settings: dict[str, Any] = (
        {"rank": sheet.read(whole, f"{prefix}_rank", default=16)} if prefix in ("galore", "apollo") else {}
    )
    layerwise = sheet.read(truth, f"{prefix}_layerwise", default=False)
    put_optimizer(sheet, name, settings, chosen, in_backward=layerwise)


def beside(sheet: Sheet, kind: str) -> None:
    """Pairs of rows, the loss, and the reference, reward and value models of `stage` (train/trainer_utils.py)."""
    stage = sheet.read(text, "stage", default="sft").lower()
    if stage in ("dpo", "rm"):
        sheet.put("batch_size", 2 * sheet.run["batch_size"], "per_device_train_batch_size", "stage")
        sheet.assume(
            "batch_size", "pairs", "a pair is two rows: chosen and rejected are concatenated in one forward pass"
        )
    if stage == "rm":  # AutoModelForCausalLMWithValueHead makes logits in fp32 that nothing reads
        sheet.warn("stage", "not-modelled", "the value head is not counted, whose pass keeps the logits without a loss of theirs: "
                   "cross entropy of them is counted, which takes more")  # fmt: skip
    if stage in ("dpo", "kto"):  # get_batch_logps (train/trainer_utils.py) of logits in fp32
        sheet.put("loss", "log-softmax", "stage")
    elif stage in ("pt", "sft"):
        losses.smoothing(sheet)
    written = str(sheet.run.get("precision"))
    dtype = next((half for half in ("bf16", "fp16") if half in written), None)
    held = _reference(sheet, kind, stage, dtype)
    if stage == "ppo" and sheet.get("reward_model_type", default="lora") == "full":
        reward = known(sheet, str(sheet.get("reward_model") or ""))
        held.append({"role": "reward", "model": reward or "same", "dtype": dtype})
        if reward is None:
            sheet.assume("companions", "reward-model", "the reward model is taken to be of the policy's dimensions")
    sheet.seen("ref_model*", "reward_model*", "label_smoothing_factor")
    if held:
        sheet.put("companions", held, "stage", "ref_model", "use_asft_loss")


def _reference(sheet: Sheet, kind: str, stage: str, dtype: str | None) -> list[dict[str, Any]]:
    """The model again, adapters switched off or as a copy, or the one that is named; PPO's and ASFT's run before the model."""
    compared = sheet.read(text, "pref_loss", default="sigmoid").lower() not in ("orpo", "simpo")
    asked = sheet.read(truth, "use_asft_loss", default=False)
    named = str(sheet.get("ref_model") or "")
    if not (asked or stage in ("kto", "ppo") or (stage == "dpo" and compared)):
        return []
    after = stage in ("dpo", "kto")
    if named or kind != "lora":
        model = (known(sheet, named) if named else None) or "same"
        return [{"role": "reference", "model": model, "dtype": dtype, **({} if after else {"after": False})}]
    return [losses.SHARED] if after else []
