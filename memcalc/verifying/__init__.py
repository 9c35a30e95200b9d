"""verify: hold an estimate to what a run really took, as PyTorch's counters, a log or nvidia-smi say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memcalc.errors import UsageError
from memcalc.units import parse_share
from memcalc.verifying.measured import measured
from memcalc.verifying.values import Figure, Measured, Verification

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from memcalc.report import Memory, Report
    from memcalc.run import Run

__all__ = ["Figure", "Measured", "Verification", "verified", "verify"]

WITHIN = "10%"  # what measured tables of real GPUs are held to


def verify(
    source: Run | Mapping[str, Any] | str | Path, figures: str | Iterable[str] | Mapping[str, Any], within: str = WITHIN
) -> Verification:
    """The estimate of a run (as `memcalc.estimate` takes it) beside what was measured.

        >>> memcalc.verify("run.yaml", {"peak_allocated": torch.cuda.max_memory_allocated()}).figures[0].error

    `figures` are texts such as "reserved=41.2GiB", names of files that hold counters, or a mapping of sizes. `within` is
    how far off a figure may be. UsageError where nothing is measured, or a figure is none of the report's.
    """
    from memcalc.pipeline import estimate  # noqa: PLC0415 - not for what comes before it

    told = [f"{path}={size}" for path, size in figures.items()] if isinstance(figures, Mapping) else figures
    found = measured([told] if isinstance(told, str) else told)
    return verified(estimate(source), found, within)


def verified(report: Report, found: Iterable[Measured], within: str = WITHIN) -> Verification:
    """The figures of a report beside those that were `found`."""
    try:
        most = float(parse_share(within))
    except ValueError as error:
        raise UsageError(f"--within: {error}") from error
    figures = tuple(_figure(report.memory, one, most) for one in found)
    return Verification(passed=all(figure.within for figure in figures), within=most, figures=figures, run=report.run,
                        model=report.model, gpu=report.gpu, assumptions=report.assumptions,
                        warnings=report.warnings)  # fmt: skip


def _figure(memory: Memory, one: Measured, most: float) -> Figure:
    estimated: Any = memory
    for step in one.path.split("."):
        estimated = getattr(estimated, step)
    error = (estimated - one.bytes) / one.bytes
    return Figure(path=one.path, estimated=estimated, measured=one.bytes, error=round(error, 6),
                  within=abs(error) <= most, where=one.where)  # fmt: skip
