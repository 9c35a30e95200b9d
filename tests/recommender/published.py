"""The README's table of throughput, measured by others and predicted; and the work of a run, for tests.

torchtitan's modules are not transformers', whose tape stands in for them here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from memcalc.recommender.published import everything
from memcalc.recommender.work import Work, work
from memcalc.resolve import resolve
from memcalc.run.validation import parse_run
from memcalc.simulation import setting_of
from memcalc.simulation.measuring import storage
from memcalc.tape.step import record_step
from memcalc.tape.weights import Weights

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- throughput: begin -->\n", "<!-- throughput: end -->"


def worked(**keys: object) -> Work:
    """The work of one micro step of a run on one GPU."""
    plan = resolve(parse_run(keys))
    setting = setting_of(plan)
    return work(record_step(plan.model, setting, Weights(plan.tensors, storage(setting))))


def table() -> str:
    """What the README shows: measured and predicted, side by side."""
    lines = ["| run | GPUs | tokens/s per GPU: measured | predicted | |", "|---|---|---:|---:|---:|"]
    for row in everything():
        run = f"{row.model}, {row.batch_size} x {row.seq_len}, checkpointing {row.checkpointing}"
        off = 100 * (row.predicted / row.measured - 1)
        lines.append(
            f"| {run} | {row.gpus} x {row.gpu} | {row.measured:,.0f} | {round(row.predicted, -1):,.0f} | {off:+.0f} % |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = README.read_text("utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    README.write_text(before + BEGIN + table() + END + after, "utf-8")
    sys.stderr.write("wrote the table of throughput into README.md\n")
