"""The reference tensors of real models, kept as text in `tensors/` and `configs/`, and how to read them.

A section per model, a line per group of like tensors:

    ## gpt2
    transformer.wte.weight  50257x768
    transformer.h.{0..11}.attn.c_attn.weight  768x2304
    lm_head.weight  50257x768  tied=transformer.wte.weight

Names are patterns (`{0..31}`, `{1..61..2}`, `{0..2,4..6}`; several braces stand for every combination), shapes are
written `50257x768`, and `scalar` for a tensor of no axes. `frozen` marks a parameter that is not trained, `buffer` a
persistent buffer. Measured: the library's own model on PyTorch's meta device, `named_parameters` and `state_dict`.
Lines that begin with `# ` are comments. In `configs/` a section is a config.json without a preset: written in the
header line (`## tiny-llama {"model_type": "llama", …}`), or a file of its own, `configs/<name>.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memcalc.tensors import Tensor, expand

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FOLDER = Path(__file__).parent / "tensors"
CONFIGS = Path(__file__).parent / "configs"
Fact = tuple[str, tuple[int, ...], str, bool, bool]


def read(path: Path) -> Iterator[tuple[str, list[Tensor]]]:
    """(header, groups of tensors) of each section of a file."""
    for section in f"\n{path.read_text('utf-8')}".split("\n## ")[1:]:
        header, *lines = section.splitlines()
        yield header.strip(), [parse(line) for line in lines if line.strip() and not line.startswith("# ")]


def parse(line: str) -> Tensor:
    """One line of a section."""
    name, shape, *marks = line.split()
    sizes = () if shape == "scalar" else tuple(int(size) for size in shape.split("x"))
    tie = next((mark.removeprefix("tied=") for mark in marks if mark.startswith("tied=")), "")
    return Tensor(name, sizes, tied_to=tie, trainable="frozen" not in marks, buffer="buffer" in marks)


def facts(groups: Iterable[Tensor]) -> set[Fact]:
    """(name, shape, tie, trainable, buffer) of every single tensor; a buffer is neither trained nor not."""
    return {
        (name, t.shape, t.tied_to, t.trainable and not t.buffer, t.buffer) for t in groups for name in expand(t.name)
    }


def differences(found: Iterable[Tensor], wanted: Iterable[Tensor], most: int = 12) -> list[str]:
    """What is missing from `found` and what is too much, for a message."""
    ours, theirs = facts(found), facts(wanted)
    missing = [f"missing {fact}" for fact in sorted(theirs - ours)]
    surplus = [f"surplus {fact}" for fact in sorted(ours - theirs)]
    return [*missing[:most], *surplus[:most]]


def measured() -> dict[str, list[Tensor]]:
    """Every preset with a reference, by id."""
    return {name: groups for path in sorted(FOLDER.glob("*.txt")) for name, groups in read(path)}


def configured() -> dict[str, tuple[dict[str, Any], list[Tensor]]]:
    """Every config.json with a reference, by name: (the config, its groups)."""
    sections = (section for path in sorted(CONFIGS.glob("*.txt")) for section in read(path))
    return {header.split()[0]: (_config(header), groups) for header, groups in sections}


def _config(header: str) -> dict[str, Any]:
    name, _, written = header.partition(" ")
    return dict(json.loads(written or (CONFIGS / f"{name}.json").read_text("utf-8")))
