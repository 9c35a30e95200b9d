"""The table of measured against estimated memory: `python -m tests.measured.table` prints every row.

`--readme` writes the summary by group into README.md, between its markers; a test holds it to be current. Groups with
tests of their own (Megatron-LM, DeepSpeed, torchtitan, FSDP with QLoRA) are in the summary too.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from memcalc import estimate
from tests.measured.measured import compared, groups, middle
from tests.sharding import test_measured_bigscience as bigscience
from tests.sharding import test_measured_fsdp as fsdp
from tests.sharding import test_measured_megatron as megatron
from tests.sharding import test_measured_torchtitan as torchtitan

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
GIB = 2**30


class Summary(NamedTuple):
    """A group of figures and the errors of what is estimated."""

    name: str
    hardware: str
    counter: str
    errors: list[float]


def summaries() -> list[Summary]:
    """Every group: those of rows.yaml, and those with tests of their own."""
    own = [
        Summary(group["name"], group["hardware"], group["counter"], [found.error for found in compared(group["name"])])
        for group in groups()
    ]
    return [*own, *_elsewhere()]


def _elsewhere() -> list[Summary]:
    megatrons = [(row, estimate(megatron.run_of(row, count)).memory) for row, count in megatron.CASES]
    reserved = [memory.reserved / GIB / row["reserved"] - 1 for row, memory in megatrons]
    return [
        Summary("torchtitan, Llama 3.1", "H100 96GB", "reserved", [torchtitan.error(row) for row in torchtitan.ROWS]),
        Summary("answer.ai, FSDP and QLoRA", "RTX 3090, 4090", "allocated",
                [estimate(run).memory.peak_allocated / GIB / measured - 1 for run, _, measured, _ in fsdp.MEASURED[:2]]),
        Summary("BigScience, Megatron-DeepSpeed", "A100 80GB", "total",
                [bigscience.error(number) for number in range(len(bigscience.ROWS))]),
        Summary("SimuMax, Megatron-LM", "B200", "allocated",
                [memory.peak_allocated / GIB / row["allocated"] - 1 for row, memory in megatrons]),
        Summary("SimuMax, Megatron-LM", "B200", "reserved", reserved),
    ]  # fmt: skip


def summary() -> str:
    """A line for each group."""
    lines = ["| measured by | on | counter | rows | median error | range |", "|---|---|---|---:|---:|---:|"]
    lines += [
        f"| {name} | {hardware} | {counter} | {len(errors)} | {_percent(middle(errors))} "
        f"| {_percent(min(errors), '+')} … {_percent(max(errors), '+')} |"
        for name, hardware, counter, errors in summaries()
    ]
    every = sorted(abs(error) for found in summaries() for error in found.errors)
    half, most = every[len(every) // 2], every[len(every) * 9 // 10]
    return "\n".join(
        [*lines, "", f"Of {len(every)} figures half are within {half:.0%}, nine in ten within {most:.0%}."]
    )


def _percent(share: float, sign: str = "") -> str:
    """Whole percents; tenths below one."""
    return format(share, f"{sign}.1%" if abs(share) < 0.01 else f"{sign}.0%")


def full() -> str:
    """group · setting · measured · estimated · error, a line each."""
    lines = ["| group | setting | measured | estimated | error |", "|---|---|---:|---:|---:|"]
    lines += [
        f"| {group['name']} | {found.row.setting} | {found.row.bytes / GIB:.2f} GiB | {found.estimate / GIB:.2f} GiB "
        f"| {found.error:+.1%} |"
        for group in groups()
        for found in compared(group["name"])
    ]
    return "\n".join(lines)


def readme() -> str:
    """README.md as it should be."""
    text = README.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{summary()}\n{END}{after}"


if __name__ == "__main__":
    if "--readme" in sys.argv:
        README.write_text(readme(), "utf-8")
    sys.stdout.write(f"{full()}\n\n{summary()}\n")
