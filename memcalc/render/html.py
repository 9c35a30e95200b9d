"""HTML: one page that needs nothing else, with the parts of the total, memory over the step, the run and the notes."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING, Any

from memcalc.render.curve import sentence
from memcalc.render.formula import sentence as formula
from memcalc.render.summary import headline, mark, rows, subtitle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcalc.render.page import Page
    from memcalc.render.summary import Row
    from memcalc.report import Note, Report

COLOURS = {  # of each part, in either scheme
    "weights": "#4c78a8", "master weights": "#72a0c9", "gradients": "#f2a65a", "optimizer states": "#8a6fb0",
    "activations": "#54a37b", "communication buffers": "#d37295", "temporaries": "#b8a04f", "allocator's cache": "#9aa0a6",
    "CUDA context": "#6b7280", "communicators": "#7d6b5d",
}  # fmt: skip
WIDTH, HEIGHT, BAR = 720, 180, 34  # of the drawings, in their own units
STYLE = """
:root{color-scheme:light dark;--text:#1d2127;--dim:#667080;--ground:#fff;--line:#d9dde3;--good:#1f7a4d;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--text:#e6e8eb;--dim:#98a1ad;--ground:#15181c;--line:#343a42;--good:#5cc98f;--bad:#ff8a80}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--text);background:var(--ground)}
body{max-width:760px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.35rem;margin:0}h2{font-size:1rem;margin:2rem 0 .5rem}p{margin:.2rem 0}.dim{color:var(--dim)}
.verdict{font-weight:600;margin-top:1rem}.fits{color:var(--good)}.too-big,.tight{color:var(--bad)}
table{border-collapse:collapse;width:100%}td,th{padding:.2rem .6rem .2rem 0;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
tr.sum td{border-top:1px solid var(--line);font-weight:600}
i{display:inline-block;width:.75em;height:.75em;border-radius:2px;margin-right:.5em}svg{width:100%;height:auto;display:block}
svg text{fill:var(--dim);font:12px system-ui,sans-serif}code{font-size:.9em}td+td code{overflow-wrap:anywhere}li{margin:.15rem 0}
""".strip()


def render(report: Report, page: Page) -> str:
    """The whole page; the same report gives the same text."""
    title = escape(headline(report))
    parts = [
        f'<h1>{title}</h1>\n<p class="dim">{escape(subtitle(report))}</p>',
        f'<p class="verdict {report.verdict.level}">{escape(f"{mark(report)} {report.verdict.reason}")}</p>',
        f"<h2>What it takes{' per GPU' if report.gpu.count > 1 else ''}</h2>\n{_bar(report, page)}\n{_table(report, page)}",
        _curve(report, page),
        f"<p>{escape(formula(report.formula, page))}</p>" if report.formula else "",
        _notes("Warnings", report.warnings),
        _notes("Assumed", report.assumptions),
        f"<h2>The run</h2>\n{_run(report.run)}",
    ]
    body = "\n".join(part for part in parts if part)
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" '
            f'content="width=device-width">\n<title>memcalc: {title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n'
            f"{body}\n</body>\n</html>\n")  # fmt: skip


def _bar(report: Report, page: Page) -> str:
    """Every part beside the other, and where the GPU ends."""
    usable = report.gpu.usable or 0
    whole = max(report.memory.total, usable, 1)
    return _svg(
        BAR + 18, "the parts of the total", [*_rectangles(rows(report), whole, page), *_end(usable, whole, page)]
    )


def _rectangles(parts: Iterable[Row], whole: int, page: Page) -> Iterator[str]:
    at = 0.0
    for row in parts:
        width = WIDTH * row.bytes / whole
        yield (f'<rect x="{at:.1f}" y="0" width="{width:.1f}" height="{BAR}" fill="{COLOURS[row.title]}"><title>'
               f"{escape(row.title)}: {_size(row.bytes, page)}</title></rect>")  # fmt: skip
        at += width


def _end(usable: int, whole: int, page: Page) -> Iterator[str]:
    if usable:
        at = WIDTH * usable / whole
        yield f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{BAR + 4}" stroke="currentColor" stroke-width="2"/>'
        yield f'<text x="{at - 4:.1f}" y="{BAR + 15}" text-anchor="end">{_size(usable, page)} usable</text>'


def _table(report: Report, page: Page) -> str:
    lines = [f'<tr><td><i style="background:{COLOURS[row.title]}"></i>{escape(row.title)}</td><td class="n">'
             f'{_size(row.bytes, page)}</td><td class="n">{100 * row.share:.1f} %</td></tr>' for row in rows(report)]  # fmt: skip
    lines.append(f'<tr class="sum"><td>total</td><td class="n">{_size(report.memory.total, page)}</td><td></td></tr>')
    host = report.memory.host.pinned + report.memory.host.pageable
    if host:
        lines.append(f'<tr><td class="dim">host memory</td><td class="n dim">{_size(host, page)}</td><td></td></tr>')
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _curve(report: Report, page: Page) -> str:
    """What is allocated over the step, a colour for each phase, from nothing up to the peak."""
    curve, peak = report.memory.curve, max(report.memory.peak_allocated, 1)
    if not curve.samples:
        return ""
    step, at, shapes = WIDTH / len(curve.samples), 0.0, []
    for name, samples, colour in zip(("forward", "backward", "step"), curve.phases(), ("#54a37b", "#4c78a8", "#8a6fb0"),
                                     strict=True):  # fmt: skip
        shapes += [f'<rect x="{at + i * step:.1f}" y="{HEIGHT * (1 - sample / peak):.1f}" width="{step + 0.5:.1f}" '
                   f'height="{HEIGHT * sample / peak:.1f}" fill="{colour}"><title>{_size(sample, page)}</title></rect>'
                   for i, sample in enumerate(samples)]  # fmt: skip
        shapes.append(f'<text x="{at + 2:.1f}" y="{HEIGHT + 14}">{name}</text>')
        at += step * len(samples)
    said = escape(sentence(report.memory, page))
    return f"<h2>Memory over the step</h2>\n{_svg(HEIGHT + 20, 'allocated over the step', shapes)}\n<p>{said}</p>"


def _size(nbytes: int, page: Page) -> str:
    """Bytes in the page's unit ("<0.01 GiB" too)."""
    return escape(page.size(nbytes))


def _svg(height: int, label: str, shapes: Iterable[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">\n' + "\n".join(shapes) + "\n</svg>"


def _notes(title: str, notes: tuple[Note, ...]) -> str:
    if not notes:
        return ""
    items = [
        f"<li>{f'<code>{escape(note.path)}</code>: ' if note.path else ''}{escape(note.message)}</li>" for note in notes
    ]
    return f"<h2>{title}</h2>\n<ul>\n" + "\n".join(items) + "\n</ul>"


def _run(run: Any) -> str:  # noqa: ANN401 - the run as a mapping
    """Every key that is set."""
    lines = [f"<tr><td><code>{escape(key)}</code></td><td><code>{escape(_word(value))}</code></td></tr>"
             for key, value in run.items() if value not in (None, False, (), [], {})]  # fmt: skip
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
