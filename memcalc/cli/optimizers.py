"""`memcalc optimizers`: list, filter and show optimizers, and what one keeps for a tensor."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memcalc.cli.listing import matching
from memcalc.cli.output import FormatOption, OutputOption, UnitsOption, choose, page, write
from memcalc.errors import UsageError
from memcalc.optimizers import Optimizer, resolve, state
from memcalc.presets import find, has
from memcalc.render.listing import FORMATS, render_card, render_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

EXAMPLE = (4096, 4096)  # the matrix that bytes per parameter are quoted for


def main(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="A name, alias, Trainer name or class path shows one; other words filter.", show_default=False
        ),
    ] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help="What it keeps for a tensor: 4096x4096.", metavar="SHAPE")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="The tensor's dtype.", metavar="DTYPE")] = "bf16",
    role: Annotated[
        str,
        typer.Option("--role", help="The kind of module that owns it: linear, embedding, norm, conv.", metavar="ROLE"),
    ] = "linear",
    form: FormatOption = "table",
    output: OutputOption = None,
    units: UnitsOption = "auto",
) -> None:
    """Examples: memcalc optimizers; memcalc optimizers 8bit; memcalc optimizers adamw-8bit --shape 4096x4096 --dtype bf16"""  # noqa: D400
    chosen, sheet = choose(form, FORMATS, output), page(units, output)
    asked = words or []
    if shape is not None:
        if len(asked) != 1:
            raise UsageError("--shape asks what one optimizer keeps: memcalc optimizers adamw-8bit --shape 4096x4096")
        text = _state(asked[0], _extents(shape), dtype, role, chosen, sheet)
    elif len(asked) == 1 and has("optimizers", asked[0]):
        text = render_card(_card(asked[0]), chosen, sheet)
    else:
        cards = matching("optimizers", asked, "memcalc optimizers")
        text = render_rows("optimizers", [_row(c) for c in cards], [_full(c) for c in cards], chosen, sheet)
    write(text, output)


def _extents(text: str) -> tuple[int, ...]:
    """4096x4096, 4096,4096 or '4096 4096' as numbers; UsageError otherwise."""
    parts = re.split(r"\s*[x\u00d7,*]\s*|\s+", text.strip().strip("[]()").strip().removesuffix(","))
    if not all(part.isdigit() for part in parts):
        raise UsageError(f"--shape {text}: write whole numbers with an x between them, such as 4096x4096")
    return tuple(int(part) for part in parts)


def _state(name: str, shape: tuple[int, ...], dtype: str, role: str, form: str, sheet: Any) -> str:  # noqa: ANN401
    answer = state(name, shape, dtype, role)
    if form in ("json", "yaml"):
        return render_card(
            {"optimizer": resolve(name).name, "shape": list(shape), "dtype": dtype, **answer}, form, sheet
        )
    rows = [{"state": t["name"], "dtype": t["dtype"], "shape": _shape(t["shape"]),
             "where": t["device"], "size": sheet.size(t["bytes"])} for t in answer["tensors"]]  # fmt: skip
    rows.append({"state": "total", "dtype": "", "shape": "", "where": "", "size": sheet.size(answer["total_bytes"])})
    return render_rows("states", rows, answer["tensors"], form, sheet)


def per_parameter(optimizer: Optimizer, dtype: str) -> float | None:
    """Bytes of state per parameter of a 4096 x 4096 matrix, wherever they live; None where it can't step one."""
    if not optimizer.supports(EXAMPLE, dtype):
        return None
    return sum(s.bytes for s in optimizer.states(EXAMPLE, dtype)) / (EXAMPLE[0] * EXAMPLE[1])


def _row(card: dict[str, Any]) -> dict[str, Any]:
    optimizer = resolve(card["id"])
    advice = optimizer.advice
    return {"optimizer": card["id"], "library": optimizer.library, "B/param fp32": _short(per_parameter(optimizer, "fp32")),
            "bf16": _short(per_parameter(optimizer, "bf16")), "drop-in": "yes" if advice.drop_in else "no",
            "best for": advice.best_for}  # fmt: skip


def _full(card: dict[str, Any]) -> dict[str, Any]:
    optimizer = resolve(card["id"])
    return {"id": card["id"], "aliases": list(card.get("aliases", [])), "library": optimizer.library,
            "bytes_per_parameter": {d: per_parameter(optimizer, d) for d in ("fp32", "bf16")},
            "drop_in": optimizer.advice.drop_in, "best_for": optimizer.advice.best_for, "source": optimizer.source}  # fmt: skip


def _shape(extents: Iterable[int]) -> str:
    return "x".join(map(str, extents)) or "scalar"


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}".rstrip("0").rstrip(".")


def _card(name: str) -> dict[str, Any]:
    card, optimizer = find("optimizers", name), resolve(name)
    advice = optimizer.advice
    return {
        "name": optimizer.name, "library": f"{optimizer.library} {optimizer.version}".strip(),
        "aliases": list(card.get("aliases", [])), "options": card.get("options", {}),
        "implementations": list(card.get("step", {})),
        "states_of_a_4096x4096_bf16_matrix": [
            {"name": s.name, "dtype": s.dtype, "shape": _shape(s.shape), "bytes": s.bytes, "device": s.device}
            for s in optimizer.states(EXAMPLE, "bf16")
        ],
        "bytes_per_parameter": {d: per_parameter(optimizer, d) for d in ("fp32", "bf16")},
        "keeps_master_weights": optimizer.keeps_master, "frees_gradients_early": optimizer.frees_gradients,
        "quality": advice.quality, "drop_in": advice.drop_in, "best_for": advice.best_for, "note": advice.note,
        "source": optimizer.source,
    }  # fmt: skip
