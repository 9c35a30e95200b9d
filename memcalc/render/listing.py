"""Lists of presets, and one preset in full, in every format."""

from __future__ import annotations

import csv
import json
from io import StringIO
from typing import TYPE_CHECKING, Any

from memcalc.render.text import to_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType

    from memcalc.render.page import Page

GAP, LEAST = 2, 12  # columns between columns, and the least that the last, which is wrapped, has
FORMATS = ("table", "json", "yaml", "csv", "markdown")
RowOf = dict[str, Any]


def render_rows(kind: str, shown: Sequence[RowOf], full: Sequence[RowOf], form: str, page: Page) -> str:
    """A list: `shown` are the columns people read, `full` the data tools read."""
    match form:
        case "json":
            return _json({"kind": kind, "count": len(full), kind: list(full)})
        case "yaml":
            return _yaml({"kind": kind, "count": len(full), kind: list(full)})
        case "csv":
            return _csv(full)
        case "markdown":
            return _markdown(shown)
        case _:
            return to_text(_columns(_fitting(shown, page.width)), page)


def render_card(card: Mapping[str, Any], form: str, page: Page) -> str:
    """One preset with everything known of it, sources included."""
    match form:
        case "json":
            return _json(card)
        case "yaml":
            return _yaml(card)
        case "csv":
            return _csv([{"key": key, "value": _flat(value)} for key, value in card.items()])
        case "markdown":
            return _markdown([{"": key, " ": _flat(value)} for key, value in card.items()])
        case _:
            return to_text(_pairs(card, page.width), page)


def _pairs(card: Mapping[str, Any], width: int) -> Iterator[RenderableType]:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", max_width=width // 2)
    grid.add_column(overflow="fold")
    for key, value in card.items():
        if value not in (None, "", [], {}, ()):
            grid.add_row(key.replace("_", " "), Text(_flat(value)))
    yield grid


def _fitting(shown: Sequence[RowOf], width: int) -> list[RowOf]:
    """The rows without the columns at the end that a page of this width has no room for: no figure is cut."""
    if not shown:
        return []
    wide = {name: max(len(name), *(len(str(row[name] or "")) for row in shown)) for name in shown[0]}
    kept = list(wide)
    while len(kept) > 1 and sum(wide[name] + GAP for name in kept[:-1]) + min(wide[kept[-1]], LEAST) > width:
        kept.pop()
    return [{name: row[name] for name in kept} for row in shown]


def _columns(shown: Sequence[RowOf]) -> Iterator[RenderableType]:
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    if not shown:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, name in enumerate(shown[0]):
        number = all(isinstance(row[name], (int, float)) or _is_size(row[name]) for row in shown)
        last = index == len(shown[0]) - 1
        table.add_column(name, justify="right" if number else "left", no_wrap=not last, overflow="fold")
    for row in shown:
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row.values()))
    yield table


def _is_size(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and cell[:1].isdigit() and len(cell.split()) == 2)


def _flat(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, dict):
        return "\n".join(f"{key}: {_inline(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        return "\n".join(_inline(item) for item in value)
    return _inline(value)


def _inline(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, dict):
        return ", ".join(f"{key} {_inline(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_inline(item) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}".replace(",", " ") if abs(value) >= 10_000 else str(value)
    return {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _json(data: object) -> str:
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _yaml(data: object) -> str:
    import yaml  # noqa: PLC0415

    text: str = yaml.safe_dump(json.loads(json.dumps(data)), sort_keys=False, allow_unicode=True, width=110)
    return text


def _csv(rows: Sequence[RowOf]) -> str:
    out = StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _inline(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def _markdown(shown: Sequence[RowOf]) -> str:
    if not shown:
        return ""
    lines = ["| " + " | ".join(shown[0]) + " |", "|" + "---|" * len(shown[0])]
    lines += ["| " + " | ".join(_cell(cell) for cell in row.values()) + " |" for row in shown]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", "<br>")
