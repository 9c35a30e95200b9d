"""What accelerate's launcher makes of a script of the Hugging Face Trainer: FSDP, DeepSpeed and precision as its own keys.

accelerate hands its file and its options to the script through the environment (accelerate/utils/launch.py), where
TrainingArguments finds the precision it does not set itself, and Accelerator its plugin.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from memcalc.configs.follow import find, follow
from memcalc.configs.reading import Remark
from memcalc.errors import UnreadableInput, shorten
from memcalc.yaml_tree import Tree

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.configs.documents import Document

_FILES: Final = ("config_file", "accelerate_config")
_OWN: Final = ("mixed_precision", "num_processes", "num_machines")
_DEEPSPEED: Final = ("zero_stage", "offload_optimizer_device", "offload_param_device", "deepspeed_config_file")
_AUTO: Final = {"train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto",
                "bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}  # fmt: skip
# what a file that is not there is taken to hold, by its name: trl/accelerate_configs, recipes of the alignment handbook
_NAMED: Final = (
    (re.compile(r"(?:zero|ds|stage)[-_]?([123])"), "DEEPSPEED"), (re.compile(r"deepspeed()"), "DEEPSPEED"),
    (re.compile(r"fsdp[-_]?v?(2?)"), "FSDP"), (re.compile(r"multi|ddp"), "MULTI_GPU"), (re.compile(r"single|default"), "NO"),
)  # fmt: skip


class Told(NamedTuple):
    """What accelerate is told, the file that says it (None where none does), and what is to be said of a missing one."""

    data: dict[str, Any]
    file: Document | None = None
    notes: tuple[Remark, ...] = ()

    def where(self, key: str) -> tuple[str, int] | None:
        """The file and the line of a key; None where the options say it."""
        file, line = self.file.where(key) if self.file is not None else ("", None)
        return (file, line) if line else None


def settings(script: Document, options: Mapping[str, Any]) -> Told:
    """What accelerate is told: its file, with the launcher's options over it."""
    name = next((str(options[key]) for key in _FILES if options.get(key) not in (None, True)), "")
    held = _file(script, name) if name else Told({})
    made = {**held.data, **{key: options[key] for key in _OWN if key in options}}
    for section, keys in (
        ("fsdp_config", [key for key in options if key.startswith("fsdp_")]),
        ("deepspeed_config", _DEEPSPEED),
    ):
        said = {key: options[key] for key in keys if key in options}
        if said:
            made[section] = {**_mapping(made.get(section)), **said}
    kind = next((word for key, word in (("use_deepspeed", "DEEPSPEED"), ("use_fsdp", "FSDP"), ("multi_gpu", "MULTI_GPU"))
                 if str(options.get(key, "false")).lower() not in ("false", "no", "0")), "")  # fmt: skip
    return held._replace(data={**made, "distributed_type": kind} if kind else made)


def _file(script: Document, name: str) -> Told:
    """accelerate's file of that name; where it is not there, what its name says, with a warning."""
    if find(script, name) is not None:
        found = follow(script, name)
        return Told(found.data, found)
    word = name.replace("\\", "/").rpartition("/")[2].lower()
    match, kind = next(((match, kind) for pattern, kind in _NAMED if (match := pattern.search(word))), (None, ""))
    if match is None:
        raise UnreadableInput(f"{script.source} launches with {shorten(name)}, which is neither beside it, nor below the current "
                              "folder, nor below a folder above it; put it there, or say --sharding fsdp")  # fmt: skip
    note = Remark(
        "not-found", "sharding", f"{shorten(name)} is not here: its name is taken to say what is in it ({kind})"
    )
    sections: dict[str, Any] = {}
    if kind == "DEEPSPEED":
        sections["deepspeed_config"] = {"zero_stage": int(match[1] or 2)}
    elif kind == "FSDP":
        sections["fsdp_config"] = {
            "fsdp_version": int(match[1] or 1),
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        }
    return Told({"distributed_type": kind, **sections}, None, (note,))


def around(made: Document, told: Told) -> Document:
    """A trainer's document with the engine and the precision that accelerate was told, where it does not say its own."""
    more: dict[str, Any] = {}
    kind = str(told.data.get("distributed_type", "")).upper()
    if not ({"deepspeed", "fsdp"} & made.data.keys()):
        if kind == "DEEPSPEED":
            more["deepspeed"] = _deepspeed(_mapping(told.data.get("deepspeed_config")))
        elif kind == "FSDP":
            section = _mapping(told.data.get("fsdp_config"))
            wraps = section.get("fsdp_auto_wrap_policy", section.get("auto_wrap_policy", "NO_WRAP"))
            more["fsdp"] = "full_shard"
            more["fsdp_config"] = {"fsdp_version": 1, "fsdp_auto_wrap_policy": wraps, **section}
    half = str(told.data.get("mixed_precision", "no")).lower()
    if half in ("bf16", "fp16") and not ({"bf16", "fp16"} & made.data.keys()):
        more[half] = True
    return _over(made, replace(made, data={**more, **made.data}), told, more)


def _over(made: Document, whole: Document, told: Told, more: Mapping[str, Any]) -> Document:
    """The document with the places of what accelerate's file says, where its own does not have them."""
    if told.file is None or made.base is not None:
        return whole
    known = {key: line for key, line in told.file.lines.items() if key.startswith("fsdp_config")}
    told_by = dict.fromkeys(("fsdp", "deepspeed"), "distributed_type") | dict.fromkeys(
        ("bf16", "fp16"), "mixed_precision"
    )
    known |= {key: told.file.lines[name] for key, name in told_by.items() if key in more and name in told.file.lines}
    return replace(whole, base=replace(told.file, data=dict(more), _parsed=Tree(dict(more), known, {})))


def _deepspeed(section: Mapping[str, Any]) -> str | dict[str, Any]:
    """The file that is named, or the mapping that DeepSpeedPlugin makes of accelerate's few keys."""
    named = section.get("deepspeed_config_file")
    if named:
        return str(named)
    stage = str(section.get("zero_stage", 2))
    zero: dict[str, Any] = {"stage": int(stage) if stage.isdigit() else stage}
    for name in ("optimizer", "param"):
        device = str(section.get(f"offload_{name}_device", "none")).lower()
        if device not in ("none", "no", ""):
            zero[f"offload_{name}"] = {"device": device}
    return {**_AUTO, "zero_optimization": zero}


def _mapping(value: Any) -> dict[str, Any]:  # noqa: ANN401
    return value if isinstance(value, dict) else {}
