"""How a script or a job file is known to start a training: by a launcher, and what it starts (`launch`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from memcalc.configs.jobs import LONGEST, job_of

if TYPE_CHECKING:
    from memcalc.configs.documents import Document

NAME: Final = "launch"
TITLE: Final = "launch scripts"

_STARTS: Final = re.compile(
    r"\baccelerate(?:[- ]launch\b|\s+launch\b)|\btorchrun\b|\bdeepspeed\s+[-\w]|\btorch\.distributed\.(?:run|launch)\b"
    r"|\b(?:llamafactory-cli|lmf|axolotl)\s+train\b|\btrl\s+(?:sft|dpo|grpo|kto|rloo|reward)\b|\btune\s+run\b"
    r"|\brun_train\.sh\b|\bdeepy\.py\s|\blitgpt\s+(?:finetune|pretrain)|\bcomposer\s+\S|\bpython[\d.]*\s+(?:-\w\s+)?\S{1,200}\.py\s+(?:-|\\|\S{1,200}\.ya?ml)"
    r"|\bpython[\d.]*\s+-m\s+\S{1,80}\s+\S"
)


def recognises(document: Document) -> int:
    """By a launcher and what it starts, in a script or in a job file."""
    text = job_of(document).text if document.data else document.text[:LONGEST]
    return 58 if text and _STARTS.search(text) else 0
