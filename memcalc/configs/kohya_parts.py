"""Parts of an sd-scripts run: number formats, the optimizer, adapters, and the models beside the one that learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.denoisers import mixed_precision, shared
from memcalc.configs.optim import put_optimizer
from memcalc.configs.words import names, number, text, truth, whole

if TYPE_CHECKING:
    from memcalc.configs.table import Sheet

SOURCE: Final = "kohya-ss/sd-scripts, train_network.py"
UNMODELLED: Final = {
    "blocks_to_swap": "blocks are not swapped to the host: all of them are counted on the GPU, which is more than is used",
    "cpu_offload_checkpointing": "checkpoints are counted on the GPU, which is more than is used",
    "split_mode": "the model is counted whole on the GPU, which is more than is used",
    "deepspeed": "sharding by DeepSpeed is not read from here: say it with --sharding",
    "torch_compile": "torch.compile is not counted: the modules run as they are written",
    "block_dims": "adapters of other ranks by block are counted at network_dim",
    "network_train_text_encoder_only": "the denoiser is counted as learning, too, which is more than is used",
    "scale_weight_norms": "the temporaries of scaling the adapters' norms are not counted",
}
# sd-scripts' names -> memcalc's where they differ
_OPTIMIZERS: Final = {
    "": "AdamW", "sgdnesterov": "sgd", "sgdnesterov8bit": "sgd-8bit", "dadaptation": "dadapt-adam", "dadaptadam": "dadapt-adam",
    "dadaptadampreprint": "dadapt-adam", "dadaptadagrad": "dadapt-adagrad", "dadaptadan": "dadapt-adan",
    "dadaptlion": "dadapt-lion", "dadaptsgd": "dadapt-sgd",
}  # fmt: skip
_LYCORIS: Final = {"loha": "loha", "lokr": "lokr", "locon": "lora", "lora": "lora", "dylora": "lora"}


def precision(sheet: Sheet, *, adapted: bool) -> str:
    """Set `precision`; the dtype of what is frozen."""
    kind, recipe, held = mixed_precision(sheet)
    whole_16 = next((key for key in ("full_bf16", "full_fp16") if sheet.read(truth, key, default=False)), "")
    if whole_16 and not whole_16.endswith(kind):
        sheet.fault(whole_16, f'{whole_16} requires mixed_precision = "{whole_16[5:]}"')
    if whole_16 and not adapted:
        recipe = "bf16-autocast" if kind == "bf16" else "fp16"
    eight = [key for key in ("fp8_base", "fp8_base_unet") if sheet.read(truth, key, default=False)]
    spec = {"recipe": recipe, "frozen": "fp8"} if adapted and eight else recipe
    sheet.put(
        "precision", spec, "mixed_precision", whole_16 or "full_bf16", *eight, default="library/train_util.py: no"
    )
    if adapted:
        sheet.put("lora.dtype", held if whole_16 else "fp32", whole_16 or "full_bf16", default=f"{SOURCE}: fp32")
    return held


def optimizer(sheet: Sheet) -> None:
    """Set `optimizer`: optimizer_type (the GUI's `optimizer`), or the switches of old."""
    keys = ("optimizer_type", "optimizer")
    named = sheet.read(text, *keys, default="")
    old = {"use_8bit_adam": "AdamW8bit", "use_lion_optimizer": "Lion"}
    named = named or next((name for key, name in old.items() if sheet.read(truth, key, default=False)), "")
    name = _OPTIMIZERS.get(named.lower(), named.rpartition(".")[2])
    fused = sheet.read(truth, "fused_backward_pass", default=False)
    put_optimizer(sheet, name, pairs(sheet), *keys, *old, default="library/train_util.py: AdamW", in_backward=fused)


def pairs(sheet: Sheet, key: str = "optimizer_args") -> dict[str, Any]:
    """`["weight_decay=0.1", "use_bias_correction=True"]`, or one text of them, as a mapping."""
    written = sheet.get(key, default=[])
    found = (str(pair).partition("=") for pair in (written if isinstance(written, list) else str(written).split()))
    return {name.strip(): _plain(value.strip()) for name, sign, value in found if sign}


def _plain(value: str) -> Any:  # noqa: ANN401
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return number(value)
    except ValueError:
        return value


def adapters(sheet: Sheet, family: str) -> None:
    """Set `lora` as networks.lora and its kin, or LyCORIS, put their modules on the model."""
    more = pairs(sheet, "network_args")
    algo = str(more.get("algo", "")) or _of_gui(sheet)
    kind = _LYCORIS.get(algo.lower(), "")
    if not kind:
        sheet.fault("network_args" if "algo" in more else "LoRA_type", f"{algo} is an algorithm that is not modelled: "
                    f"{', '.join(_LYCORIS)} are")  # fmt: skip
        return
    rank = sheet.read(whole, "network_dim", default=4) or 4
    if kind != "lora":
        sheet.put("lora.method", kind, "network_args", "LoRA_type")
    sheet.put("lora.rank", rank, "network_dim", default=f"{SOURCE}: 4")
    sheet.put("lora.alpha", sheet.read(number, "network_alpha", default=1), "network_alpha", default=f"{SOURCE}: 1")
    sheet.put("lora.dropout", sheet.read(number, "network_dropout", default=0) or 0, "network_dropout", default=SOURCE)
    _targets(sheet, family, rank, more)


def _of_gui(sheet: Sheet) -> str:
    """The algorithm that kohya's GUI names: `Standard`, `Kohya LoCon`, `LyCORIS/LoHa`."""
    word = str(sheet.get("LoRA_type", default="Standard")).rpartition("/")[2].lower()
    return "lora" if word in ("standard", "flux1", "sd3", "kohya locon", "lora-fa", "kohya dylora") else word


def _targets(sheet: Sheet, family: str, rank: int, more: dict[str, Any]) -> None:
    """The modules that are adapted, and the rank of convolutions where conv_dim asks for them."""
    table = shared()
    fused = table["families"][family].get("fused")
    adapted = table["adapted"]
    chosen = adapted.get(f"{more.get('train_blocks')}-blocks", adapted["transformer"]) if fused else adapted["unet"]
    wide = 0 if fused else _of_convolutions(sheet, rank, more)
    if wide:
        chosen = f"({chosen})|({table['convolutions']})"
    if wide not in (0, rank):
        sheet.put("lora.rank_pattern", {table["wide"]: wide}, "network_args", "conv_dim")
    sheet.put("lora.targets", chosen, "network_module", default="networks/lora.py")
    if fused:
        sheet.assume("lora.targets", "fused-projections", "an adapter that sd-scripts puts on a fused projection is counted as "
                     "one for each of its parts")  # fmt: skip


def _of_convolutions(sheet: Sheet, rank: int, more: dict[str, Any]) -> int:
    """The rank of adapters of convolutions, 0 where they have none: conv_dim; LyCORIS adapts them at any rate."""
    kind = str(sheet.get("LoRA_type", default="")).lower()
    everywhere = "lycoris" in f"{sheet.get('network_module', default='')} {kind}".lower()
    shown = sheet.get("conv_dim")
    asked = shown if "locon" in kind or everywhere else None  # the GUI writes one for all kinds
    try:
        return whole(more.get("conv_dim") or asked or (rank if everywhere else 0))
    except ValueError as error:
        sheet.fault("network_args" if more.get("conv_dim") else "conv_dim", f"conv_dim: {error}")
        return 0


def company(sheet: Sheet, family: str, held: str, program: str, *, adapted: bool) -> None:
    """Set `companions`: encoders of text whose outputs aren't cached, the autoencoder where latents aren't, with adapters."""
    rules = shared()
    kinds = rules["families"][family]
    cached = any([sheet.read(truth, f"cache_text_encoder_outputs{end}", default=False) for end in ("", "_to_disk")])  # noqa: C419
    latents = any([sheet.read(truth, f"cache_latents{end}", default=False) for end in ("", "_to_disk")])  # noqa: C419
    learn = _encoders_learn(sheet, program, adapted=adapted)
    found: list[dict[str, Any]] = []
    for name in [] if cached and not learn else kinds["encoders"]:
        one = {"role": "encoder", "model": name, "dtype": held}
        if learn and adapted and name not in rules["seldom_learn"]:
            one["lora"] = {"rank": sheet.run["lora"].get("rank", 4), "targets": rules["encoders"],
                           "dtype": sheet.run["lora"]["dtype"]}  # fmt: skip
        elif learn and not adapted:
            one |= {"trainable": True}
            del one["dtype"]
        found.append(one)
    if sheet.read(truth, "fp8_base", default=False) and found:
        sheet.assume(
            "companions", "encoders-in-16-bits", f"fp8_base keeps encoders of text in fp8; they are counted in {held}"
        )
    if not latents:
        half = "fp32" if sheet.read(truth, "no_half_vae", default=False) else held
        found.append({"role": "encoder", "model": kinds["vae"], "dtype": half})
    if found:
        sheet.put("companions", found, "cache_latents", "cache_text_encoder_outputs", default=SOURCE)


def _rates(value: Any) -> list[float]:  # noqa: ANN401
    """Learning rates: one, or one for each encoder; nothing is 0."""
    return [number(one or 0) for one in names(value)]


def _encoders_learn(sheet: Sheet, program: str, *, adapted: bool) -> bool:
    """Whether the encoders of text learn, too."""
    if adapted:
        only = sheet.read(truth, "network_train_unet_only", default=False)
        rates = sheet.read(_rates, "text_encoder_lr", default=[])
        gui = sheet.has("LoRA_type") and rates != [] and not any(rates)
        return not (only or gui)
    if program == "train_db":
        return int(sheet.read(whole, "stop_text_encoder_training", default=0)) >= 0
    return bool(sheet.read(truth, "train_text_encoder", default=False))
