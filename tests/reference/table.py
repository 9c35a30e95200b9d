"""The table of recorded against estimated steps: `python -m tests.reference.table` prints every row.

`--readme` writes the summary into README.md, between its markers; a test holds it to be current.
"""

from __future__ import annotations

import sys
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from tests.reference.recorded import Step, estimated, held_after_forward, misses, steps

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"
GIB = 2**30
SHOWN = 12  # models of the README's table: those with the most recorded steps


class Row(NamedTuple):
    """A step, what memcalc says of its peak, and the errors of its figures in per cent."""

    step: Step
    estimate: int
    peak: float
    activations: float
    reserved: float


def rows() -> list[Row]:
    """Every recorded step with its errors, the known misses too."""
    return [_row(step) for step in (*steps(), *misses())]


def _row(step: Step) -> Row:
    memory = estimated(step)
    held = held_after_forward(step, memory)
    return Row(
        step, memory.peak_allocated, _off(memory.peak_allocated, step.peak), _off(held, step.after_forward),
        _off(memory.reserved, step.reserved),
    )  # fmt: skip


def _off(estimate: int, recorded: int) -> float:
    return 100 * (estimate / recorded - 1)


def full(found: list[Row]) -> str:
    """model · setting · recorded · estimated · error, a line each."""
    lines = ["| step | recorded | estimated | error | reserved |", "|---|---:|---:|---:|---:|"]
    lines += [
        f"| {row.step.name} | {row.step.peak / GIB:.3f} GiB | {row.estimate / GIB:.3f} GiB "
        f"| {row.peak:+.3f} % | {row.reserved:+.1f} % |"
        for row in found
    ]
    return "\n".join(lines)


def summary(found: list[Row]) -> str:
    """The errors by model, and how they are distributed."""
    models = sorted(
        ((name, list(group)) for name, group in groupby(sorted(found, key=_model), key=_model)),
        key=lambda pair: (-len(pair[1]), pair[0]),
    )
    lines = ["| model | steps | peak: median | worst | reserved: worst |", "|---|---:|---:|---:|---:|"]
    lines += [_line(name, group) for name, group in models[:SHOWN]]
    lines.append(_line(f"{len(models) - SHOWN} more", [row for _, group in models[SHOWN:] for row in group]))
    lines.append(_line("**all**", found))
    return "\n".join([*lines, "", *_distribution(found)])


def _model(row: Row) -> str:
    return row.step.model


def _line(name: str, group: list[Row]) -> str:
    peaks = [row.peak for row in group]
    return (f"| {name} | {len(group)} | {_middle(peaks):.3f} % | {max(peaks, key=abs):+.2f} % "
            f"| {max((row.reserved for row in group), key=abs):+.1f} % |")  # fmt: skip


def _middle(values: list[float]) -> float:
    return sorted(abs(value) for value in values)[len(values) // 2]


def _distribution(found: list[Row]) -> list[str]:
    within = {bound: sum(abs(row.peak) <= bound for row in found) for bound in (0.01, 0.1, 0.5, 2)}
    counts = ", ".join(f"{count} within {bound:g} %" for bound, count in within.items())
    reserved, beyond = _middle([row.reserved for row in found]), sum(abs(row.reserved) > 8 for row in found)
    return [
        f"Of {len(found)} recorded peaks: {counts}; reserved memory: median error {reserved:.1f} %, {beyond} beyond 8 %."
    ]


def readme(found: list[Row]) -> str:
    """README.md as it should be."""
    text = README.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{summary(found)}\n{END}{after}"


if __name__ == "__main__":
    measured = rows()
    if "--readme" in sys.argv:
        README.write_text(readme(measured), "utf-8")
    sys.stdout.write(f"{full(measured)}\n\n{summary(measured)}\n")
