"""`memcalc max`: the largest batch, sequence, LoRA rank or model that still fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from memcalc.cli.flags import Asked, about_a_run
from memcalc.cli.output import FormatOption, OutputOption, UnitsOption, choose, page, write

if TYPE_CHECKING:
    from collections.abc import Iterable

ANY_MODEL = "gpt2"  # stands in for the model that is looked for
BETWEEN = frozenset({"x", "\u00d7", "by"})


@about_a_run
def main(
    asked: Asked,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="What to find: batch_size, seq_len, lora.rank, model; and what to list it by.", show_default=False
        ),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option("--sweep", help="Values to list it by: --sweep seq_len=1024..8192", metavar="KEY=A,B"),
    ] = None,
    form: FormatOption = "table",
    output: OutputOption = None,
    units: UnitsOption = "GiB",
) -> None:
    """By bisection on the estimate. A second key lists the largest value of the first for each of its own.

    Exits with 1 where nothing fits. Examples: memcalc max batch_size llama-3-8b --lora 16 --gpu h100;
    memcalc max batch_size seq_len run.yaml; memcalc max model --gpu rtx-4090 --lora 16 --quantize nf4
    """
    from memcalc.cli.asked import choices  # noqa: PLC0415 - not for --help
    from memcalc.maximum import max_run  # noqa: PLC0415
    from memcalc.render.maximum import FORMATS, render  # noqa: PLC0415

    chosen, sheet = choose(form, FORMATS, output), page(units, output)
    keys, rest = _sorted_out(asked, words or [])
    values: dict[str, tuple[Any, ...]] = {
        _key(key): found for key, found in (choices(text, "--sweep") for text in sweep or [])
    }
    answer = rest.question().answer(lambda run, beside: max_run(run, beside, keys[0], keys[1:], values))
    write(render(answer, chosen, sheet), output)
    if not answer.fits:
        raise typer.Exit(1)


def _sorted_out(asked: Asked, words: Iterable[str]) -> tuple[list[str], Asked]:
    """(keys, the rest): of all words those that are keys, in any place; the other one is a model or a file."""
    from memcalc.errors import UsageError, nearest_names  # noqa: PLC0415
    from memcalc.maximum import KEYS, SWEPT  # noqa: PLC0415

    given = [part for word in ([asked.source] if asked.source else []) + list(words) for part in _parts(word)]
    known = {*KEYS, *SWEPT}
    keys = [_key(word) for word in given if _key(word) in known]
    others = [word for word in given if _key(word) not in known and word not in BETWEEN]
    if len(others) > 1:
        near = [name for word in others for name in nearest_names(_key(word), KEYS, 1)]
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"max {' '.join(others)}: one model or file; {hint}what can be found is {', '.join(KEYS)}")
    if not keys:
        raise UsageError(
            f"max of what? Name one or more of {', '.join(KEYS)}: memcalc max batch_size llama-3-8b --gpu h100"
        )
    flags = dict(asked.flags)
    if keys[0] == "model" and not others and flags.get("model") is None:
        flags["model"] = ANY_MODEL
    return keys, asked._replace(source=others[0] if others else None, flags=flags)


def _parts(word: str) -> list[str]:
    """A word, or the keys that commas join in it."""
    from memcalc.maximum import KEYS, SWEPT  # noqa: PLC0415

    parts = word.split(",")
    return parts if all(_key(part) in {*KEYS, *SWEPT} for part in parts) else [word]


def _key(word: str) -> str:
    return word.strip().replace("-", "_")
