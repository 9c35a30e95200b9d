"""`memcalc models`: list, filter and show model presets."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from memcalc.cli.listing import matching, some
from memcalc.cli.output import FormatOption, OutputOption, UnitsOption, choose, page, write
from memcalc.presets import find, has
from memcalc.render.listing import FORMATS, render_card, render_rows
from memcalc.units import format_count


def main(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="A preset's name shows it; other words filter the list.", show_default=False),
    ] = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List the tensors of one model.")] = False,
    architectures: Annotated[
        bool, typer.Option("--architectures", help="List the model types with an architecture.")
    ] = False,
    form: FormatOption = "table",
    output: OutputOption = None,
    units: UnitsOption = "GiB",
) -> None:
    """Examples: memcalc models; memcalc models qwen3; memcalc models llama-2-7b --tensors; memcalc models --architectures"""  # noqa: D400
    chosen, sheet = choose(form, FORMATS, output), page(units, output)
    asked = " ".join(words or []).split()
    if architectures:
        text = _architectures(chosen, sheet)
    elif named := _named(" ".join(asked)):
        text = _tensors(named, chosen, sheet) if tensors else render_card(card_of(named), chosen, sheet)
    else:
        cards = matching("models", asked, "memcalc models")
        shown = [{"model": c["id"], "parameters": format_count(c["parameters"]), "architecture": c["architecture"],
                  "also": also(c.get("aliases", []))} for c in cards]  # fmt: skip
        kept = ("id", "parameters", "architecture", "aliases", "source")
        full: list[dict[str, Any]] = [{k: c[k] for k in kept if k in c} for c in cards]
        text = render_rows("models", shown, full, chosen, sheet)
    write(text, output)


def _named(text: str) -> str | None:
    """The preset whose name the words are, in another spelling too where they filter nothing."""
    if not text or has("models", text):
        return text or None
    if some("models", tuple(text.split())):
        return None
    from memcalc.models.names import alike  # noqa: PLC0415 - few names need it

    return next((other for other, _ in alike(text) if has("models", other)), None)


def also(aliases: list[str]) -> str:
    """The first of a preset's other names, and how many more there are."""
    return f"{aliases[0]} (+{len(aliases) - 1})" if len(aliases) > 1 else "".join(aliases)


def card_of(name: str) -> dict[str, Any]:
    """A preset as it is written, with what its tensors add up to."""
    from memcalc.models import from_preset  # noqa: PLC0415

    card, model = find("models", name), from_preset(name)
    largest = max(model.tensors, key=lambda tensor: tensor.elements)
    trainable = sum(t.parameters for t in model.tensors if t.trainable)
    return {
        "name": card["id"], "aliases": card.get("aliases", []), "architecture": card["architecture"],
        "parameters": model.parameters, "trainable": trainable, "active": model.active,
        "positions": model.context or None, "dimensions": card.get("dimensions", {}),
        "largest_tensor": f"{largest.name} {'x'.join(map(str, largest.shape))}", "source": card["source"],
    }  # fmt: skip


def _tensors(name: str, form: str, sheet: Any) -> str:  # noqa: ANN401
    from memcalc.models import from_preset  # noqa: PLC0415

    rows = [{"tensor": t.name, "shape": "x".join(map(str, t.shape)), "count": t.count, "kind": t.role,
             "note": "buffer" if t.buffer else f"shares {t.tied_to}" if t.tied_to else "" if t.trainable else "frozen"}
            for t in from_preset(name).tensors]  # fmt: skip
    return render_rows("tensors", rows, rows, form, sheet)


def _architectures(form: str, sheet: Any) -> str:  # noqa: ANN401
    cards = matching("architectures", [], "memcalc models --architectures")
    rows = [{"model_type": c["id"], "class": c.get("class", ""), "source": c["source"]} for c in cards]
    return render_rows("architectures", rows, rows, form, sheet)
