"""`memcalc recommend`: from a run that does not fit to the cheapest one that does."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memcalc.cli.flags import Asked, about_a_run
from memcalc.cli.output import FormatOption, OutputOption, UnitsOption, choose, page, write

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMATS = ("table", "json", "yaml", "csv", "markdown")
PATIENCE = 0.5  # seconds before a terminal is told how far the search is
OFTEN = 0.1  # seconds between two looks at it


@about_a_run
def main(
    asked: Asked,
    method: Annotated[
        str | None, typer.Option("--method", help="full, lora or qlora: what may be trained.", metavar="METHOD")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", help="language, t5, vision, detection, diffusion or qlora.", metavar="TASK"),
    ] = None,
    global_batch: Annotated[
        int | None, typer.Option("--global-batch", help="Sequences that one optimizer step sees.", metavar="N", min=1)
    ] = None,
    price: Annotated[
        float | None,
        typer.Option("--price", help="USD per GPU and hour, in place of the presets'.", metavar="USD", min=0),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option("--vary", help="Values of a key to try: --vary optimizer=adamw,lion", metavar="KEY=A,B"),
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", help="A key that stays as it is: --keep precision", metavar="KEY")
    ] = None,
    form: FormatOption = "table",
    output: OutputOption = None,
    units: UnitsOption = "GiB",
) -> None:
    """Searches optimizers, precisions, checkpoints, kernels, micro batches, sharding, offload, GPUs and how many of them.

    --gpus takes a range (8..64) or a list, --gpu several names; without --gpu all GPU presets are looked at. Exits with 1
    where nothing fits, and names the nearest miss. Examples: memcalc recommend llama-3-70b --gpu h100 --gpus 8..64;
    memcalc recommend llama-3-8b --method qlora
    """
    from memcalc.recommender import Wishes, recommend_run  # noqa: PLC0415 - not for --help
    from memcalc.render.recommendation import render  # noqa: PLC0415

    chosen, sheet = choose(form, FORMATS, output), page(units, output)
    counts, cards, rest = _resources(asked)
    wishes = Wishes(method, task, counts, cards, price, global_batch, dict(_axes(vary or [])), _kept(keep or []))
    watcher = Watcher()
    answer = rest.question().answer(lambda run, beside: recommend_run(run, beside, wishes, watcher.saw))
    watcher.done()
    write(render(answer, chosen, sheet), output)
    if not answer.recommendations:
        raise typer.Exit(1)


def _resources(asked: Asked) -> tuple[tuple[int, ...], tuple[str, ...], Asked]:
    """(numbers of GPUs, GPUs, what else was asked): a range or a list is no value of a run."""
    from memcalc.errors import Fault, RunInvalid  # noqa: PLC0415
    from memcalc.recommender.wishes import numbers  # noqa: PLC0415

    flags = dict(asked.flags)
    counts, cards = flags.pop("gpus", None), flags.pop("gpu", None)
    names = tuple(name.strip() for name in cards.split(",") if name.strip()) if cards else ()
    names, together = _together(names)
    if counts and together and counts != together:
        raise RunInvalid([Fault("gpu", f"{cards!r} says {together} GPUs, and gpus says {counts}")])
    found = numbers(counts or together, "gpus") if counts or together else ()
    rest = asked._replace(flags={**flags, "gpu": names[0] if names else None,
                                 "gpus": str(found[0]) if len(found) == 1 else None})  # fmt: skip
    return found, names, rest


def _together(names: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """The GPUs, and how many where all are named with one number (8xh100); UsageError where the numbers differ."""
    from memcalc.errors import UsageError  # noqa: PLC0415
    from memcalc.run.meant import several  # noqa: PLC0415

    found = [several(name) or (name, 0) for name in names]
    numbers = {number for _, number in found}
    if len(numbers) > 1:
        raise UsageError(f"--gpu {','.join(names)}: name the GPUs alone, and how many with --gpus, such as --gpus 4,8")
    number = max(numbers, default=0)
    return tuple(name for name, _ in found), str(number) if number else ""


def _axes(texts: Iterable[str]) -> Iterable[tuple[str, tuple[Any, ...]]]:
    """KEY=A,B as a key and its values, each read as YAML reads it."""
    from memcalc.cli.asked import choices  # noqa: PLC0415

    for text in texts:
        yield choices(text, "--vary")


def _kept(keys: Iterable[str]) -> frozenset[str]:
    from memcalc.errors import UsageError, nearest_names  # noqa: PLC0415
    from memcalc.recommender.space import KEYS  # noqa: PLC0415

    for key in keys:
        if key.replace("-", "_") not in KEYS:
            near = nearest_names(key, KEYS)
            hint = f"did you mean {near[0]}? " if near else ""
            raise UsageError(f"--keep {key}: {hint}what is varied is {', '.join(KEYS)}")
    return frozenset(key.replace("-", "_") for key in keys)


class Watcher:
    """A bar on stderr, where that is a terminal and the search takes its time."""

    def __init__(self) -> None:
        self.next, self.shown = time.monotonic() + PATIENCE, False

    def saw(self, done: int, whole: int) -> None:
        """So many of all shapes are scored."""
        now = time.monotonic()
        if now < self.next or not whole or not sys.stderr.isatty():
            return
        self.next, self.shown = now + OFTEN, True
        filled = 30 * done // whole
        sys.stderr.write(f"\r{'█' * filled}{'░' * (30 - filled)} {done} of {whole} shapes")
        sys.stderr.flush()

    def done(self) -> None:
        """Take the bar away."""
        if self.shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
