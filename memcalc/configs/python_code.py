"""Python files: recipes and training scripts, whose settings are code. No code is run, so they are refused with a way out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from memcalc.configs.table import Sheet

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "python"
TITLE: Final = "Python code"
TEXT: Final = True  # it reads no mapping

_CODE: Final = re.compile(
    r"^(?:from\s+[\w.]{1,80}\s+import\s|import\s+[\w.]{1,80}(?:\s+as\s+\w{1,40})?\s*$|#!.{0,60}python)", re.MULTILINE
)
# what is imported -> what it is, and where the same settings stand as data
_KINDS: Final = {
    r"megatron\.bridge": "a Megatron-Bridge recipe",
    r"nemo\.collections|nemo_run": "a NeMo 2 recipe",
    r"torchtitan": "torchtitan's registry of configs",
    r"lightning|pytorch_lightning": "a Lightning script",
    r"colossalai": "a Colossal-AI script",
    r"unsloth": "an Unsloth script",
    r"trl|transformers|accelerate|peft|datasets|torch": "a training script",
}
_INSTEAD: Final = {
    "a Megatron-Bridge recipe": "give Megatron-LM's arguments in a script, or a run file with `implementation: megatron`",
    "a NeMo 2 recipe": "give Megatron-LM's arguments in a script, or a run file with `implementation: megatron`",
    "torchtitan's registry of configs": "give a run file with `implementation: torchtitan`",
    "a Lightning script": "give LightningCLI's YAML (`python train.py fit --print_config`), or a run file",
    "a Colossal-AI script": "give a run file; Gemini is not modelled, `sharding: zero3` comes near",
    "an Unsloth script": "give a run file with `implementation: unsloth`",
    "a training script": "give its TrainingArguments as YAML, with the same keys, or a run file",
}


def recognises(document: Document) -> int:
    """By its name, or by its imports."""
    if document.data:
        return 0
    named = document.path is not None and document.path.suffix == ".py"
    return 40 if named or _CODE.search(document.text[:20_000]) else 0


def read(document: Document, asked: Asked) -> Reading:
    """RunInvalid: what the file is, and what to give instead."""
    imports = " ".join(re.findall(r"^\s*(?:from|import)\s+([\w.]{1,80})", document.text[:100_000], re.MULTILINE))
    what = next(
        (what for pattern, what in _KINDS.items() if re.search(rf"(?:^|\s)(?:{pattern})\b", imports)), "a Python file"
    )
    instead = _INSTEAD.get(what, "give a run file")
    raise Sheet(document, asked, NAME, TITLE).refuse("", f"it is {what}: its settings are code, and no code is run; {instead} "
                                                     "(memcalc schema run)")  # fmt: skip
