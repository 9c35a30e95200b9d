"""The table measured.jsonl: state tensors of the real optimizers, by library, options, shape and dtype.

Each line is one optimizer with its settings: `of` says whose (library, version, class) and `spec` how memcalc is asked
for it. Its `rows` pair what was kept with the tensors it was kept for. A kept tensor is `name|dtype|shape[|bytes]`, with
`=` for the parameter's own dtype or shape, `-` for a scalar, and the bytes where a view holds more than its shape needs;
`@group` and `@once` mark what is kept once. Torch 2.13, transformers 5.23, bitsandbytes 0.50.2, torchao 0.18 and the
versions in `of` were run for one step or two on the CPU. `read`: derived from the source, not run, and names and shapes
are ours. `run anew`: shapes and settings beyond the first table, without the tensors kept once.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from memcalc.dataclass import dataclass
from memcalc.dtypes import nbytes


@dataclass(frozen=True)
class Kept:
    """One state tensor as measured."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    scope: str


@dataclass(frozen=True)
class Case:
    """What one optimizer kept for one tensor."""

    of: str
    spec: dict[str, Any]
    shape: tuple[int, ...]
    dtype: str
    kept: tuple[Kept, ...]
    read: bool

    @property
    def options(self) -> dict[str, Any]:
        return {key: value for key, value in self.spec.items() if not key.startswith("_")}

    @property
    def where(self) -> dict[str, str]:
        """The role and the name of the parameter, where they matter."""
        return {key[1:]: value for key, value in self.spec.items() if key.startswith("_")}


def extents(text: str) -> tuple[int, ...]:
    return () if text == "-" else tuple(int(part) for part in text.split("x"))


def kept(text: str, shape: tuple[int, ...], dtype: str) -> Kept:
    body, _, scope = text.partition("@")
    name, own, form, *size = body.split("|")
    element, extent = dtype if own == "=" else own, shape if form == "=" else extents(form)
    return Kept(
        name, element, extent, int(size[0]) if size else nbytes(math.prod(extent), element), scope or "parameter"
    )


def cases() -> list[Case]:
    found = []
    for line in (Path(__file__).parent / "measured.jsonl").read_text("utf-8").splitlines():
        entry = json.loads(line)
        for tensors, tried in entry["rows"]:
            for one in tried.split():
                dtype, _, form = one.partition(":")
                shape = extents(form)
                parts = tuple(kept(part, shape, dtype) for part in tensors.split("; ") if part)
                found.append(Case(entry["of"], entry["spec"], shape, dtype, parts, bool(entry.get("read"))))
    return found
