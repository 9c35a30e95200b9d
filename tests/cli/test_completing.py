"""What a shell is offered: commands, flags, names of presets, words of the vocabulary."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from memcalc.cli.completing import words_of
from memcalc.presets import names

CASES: list[tuple[str, list[str]]] = [  # what is typed, what is offered
    ("memcalc dif", ["diff"]),
    ("memcalc estimate --grad", ["--grad-accum"]),
    ("memcalc estimate --model llama-2-", [name for name in names("models") if name.startswith("llama-2-")]),
    ("memcalc estimate llama-2-7b", ["llama-2-7b"]),
    ("memcalc estimate --opt adamw8", ["adamw8bit"]),  # an alias, where no id begins so
    ("memcalc explain --gpu h100-", [name for name in names("gpus") if name.startswith("h100-")]),
    ("memcalc estimate --checkpointing s", ["selective"]),
    ("memcalc estimate --attention f", ["flash"]),
    ("memcalc estimate --offload optimizer+", ["optimizer+params"]),
]


@pytest.mark.parametrize(("typed", "offered"), CASES, ids=[typed for typed, _ in CASES])
def test_a_shell_is_offered(typed: str, offered: list[str]) -> None:
    words = {"_MEMCALC_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "memcalc"], env={**os.environ, **words}, capture_output=True, check=False
    )
    assert done.stdout.decode().split() == offered
    assert offered


def test_every_word_of_a_key_is_offered() -> None:
    assert words_of("loss")("") == [
        "standard", "fused", "fused-linear", "chunked", "compiled",
        "log-probs", "log-softmax", "fused-log-probs", "kernel-log-probs", "label-smoothing", "distillation",
    ]  # fmt: skip
    assert words_of("attention")("x") == []
