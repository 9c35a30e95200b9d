"""musubi-tuner's kinds of models, and which of their modules its networks adapt (presets/frameworks/musubi.yaml)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.image_trainers import table as trainers
from memcalc.configs.kohya_parts import pairs
from memcalc.configs.words import number, text, truth, whole
from memcalc.presets import find

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.configs.table import Sheet

SOURCE: Final = "musubi-tuner, networks/lora.py"
_MODULES: Final = {"lora_wan": "wan", "lora_qwen_image": "qwen_image", "lora_zimage": "zimage", "lora_flux": "flux_kontext",
                   "lora_flux_2": "flux_2", "lora_hv_1_5": "hv_1_5", "lora": "hv"}  # fmt: skip
_METHODS: Final = ("loha", "lokr")


def table() -> Mapping[str, Any]:
    """presets/frameworks/musubi.yaml."""
    return find("frameworks", "musubi")


def family_of(sheet: Sheet, program: str) -> str:
    """The kind of model: by Wan's task, by the version, by the program, else by the network's module; '' where none is known."""
    rules = table()
    module = sheet.read(text, "network_module", default="").rpartition(".")[2]
    program = program or ("wan" if sheet.has("task") else _MODULES.get(module, ""))
    task, version = (str(sheet.get(key, default="")) for key in ("task", "model_version"))
    if program == "wan" and task and task not in rules["tasks"]:
        sheet.fault("task", f"{task!r} is none of {', '.join(rules['tasks'])}")
    if program == "wan":
        return str(rules["tasks"].get(task, rules["programs"]["wan"]))
    return str(rules["versions"].get(version, "") or rules["programs"].get(program, ""))


def adapters(sheet: Sheet, family: str) -> None:
    """Set `lora`: fp32 adapters of the linear layers of the blocks; `quantize` where their weights are in scaled fp8."""
    module = sheet.read(text, "network_module", default="networks.lora").rpartition(".")[2]
    method = next((word for word in _METHODS if word in module), "")
    if method:
        sheet.put("lora.method", method, "network_module")
    sheet.put("lora.dtype", "fp32", default="musubi-tuner, training/trainer_base.py: network_dtype")
    sheet.put("lora.rank", sheet.read(whole, "network_dim", default=4) or 4, "network_dim", default=f"{SOURCE}: 4")
    sheet.put("lora.alpha", sheet.read(number, "network_alpha", default=1), "network_alpha", default=f"{SOURCE}: 1")
    if drop := sheet.read(number, "network_dropout", default=0):
        sheet.put("lora.dropout", drop, "network_dropout")
    _targets(sheet, family)
    if sheet.read(truth, "fp8_scaled", default=False):
        left = [trainers()["outside"], *filter(None, [table()["wide"].get(family)])]
        sheet.put("quantize", {"name": "scaled-fp8", "skip_modules": left, "upcast": False}, "fp8_scaled")


def _targets(sheet: Sheet, family: str) -> None:
    rules = table()
    left = [trainers()["outside"], *filter(None, [rules["left"].get(family)])]
    sheet.put("lora.targets", "all-linear", "network_module", default=SOURCE)
    sheet.put("lora.exclude", "|".join(f"(?:{one})" for one in left), "network_module", default=SOURCE)
    chosen = [key for key in ("include_patterns", "exclude_patterns") if pairs(sheet, "network_args").get(key)]
    if chosen:
        sheet.warn(
            "network_args", "not-modelled", f"{' and '.join(chosen)}: adapters are counted where they are by default"
        )
    if family in rules["fused"]:
        sheet.assume("lora.targets", "fused-projections", "an adapter that musubi-tuner puts on a fused projection is counted as "
                     "one for each of its parts")  # fmt: skip
