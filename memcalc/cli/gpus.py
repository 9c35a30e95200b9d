"""`memcalc gpus`: list, filter and show GPU presets."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from memcalc.cli.listing import matching
from memcalc.cli.output import FormatOption, OutputOption, UnitsOption, choose, page, write
from memcalc.gpus import Gpu, gpu, known
from memcalc.presets import find
from memcalc.render.listing import FORMATS, render_card, render_rows


def main(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="A preset's name shows it; other words filter the list.", show_default=False),
    ] = None,
    form: FormatOption = "table",
    output: OutputOption = None,
    units: UnitsOption = "GiB",
) -> None:
    """Examples: memcalc gpus; memcalc gpus h100; memcalc gpus hopper --format json"""  # noqa: D400
    chosen, sheet = choose(form, FORMATS, output), page(units, output)
    asked = words or []
    named = known(" ".join(asked))
    if named:
        text = render_card(_card(named, sheet), chosen, sheet)
    else:
        found = [gpu(card["id"]) for card in matching("gpus", asked, "memcalc gpus")]
        found.sort(key=lambda g: (g.vendor, g.usable, g.name))
        text = render_rows("gpus", [_row(g, sheet) for g in found], [_full(g) for g in found], chosen, sheet)
    write(text, output)


def _row(device: Gpu, sheet: Any) -> dict[str, Any]:  # noqa: ANN401
    price = f"{device.price[0]:g}-{device.price[1]:g}" if device.price else ""
    return {"gpu": device.name, "usable": sheet.size(device.usable), "GB/s": f"{device.bandwidth:g}",
            "TFLOPS bf16": f"{device.tflops.get('bf16') or ''}", "USD/h": price}  # fmt: skip


def _full(device: Gpu) -> dict[str, Any]:
    return asdict(device)


def _card(name: str, sheet: Any) -> dict[str, Any]:  # noqa: ANN401
    card, device = find("gpus", name), gpu(name)
    return {"name": device.name, "title": device.title, "aliases": card.get("aliases", []),
            "usable": f"{sheet.size(device.usable)} ({device.usable:,} bytes, {device.usable_how})",
            "usable_bytes": device.usable, "context": device.context, "bandwidth_gb_s": device.bandwidth,
            "tflops": dict(device.tflops), "link": f"{device.link_kind} {device.link:g} GB/s".strip(), "per_node": device.per_node,
            "usd_per_hour": list(device.price) if device.price else None, "bf16": device.bf16, "fp8": device.fp8,
            "assumed": device.assumed, "note": device.note, "source": card["source"]}  # fmt: skip
