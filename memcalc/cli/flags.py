"""The flags that every command about a run shares: each is a key of a run file, and wins over what the file says."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, get_type_hints

import typer

from memcalc.cli.completing import presets_of, words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from memcalc.run.question import Question


class Asked(NamedTuple):
    """What a command line says of a run: its file or model, the flags that were given, and every `--set`.

    `form` is the format that its file is said to be in, `hub` whether files may be fetched.
    """

    source: str | None
    flags: Mapping[str, str | None]
    changes: tuple[str, ...]
    form: str = ""
    hub: bool = False

    def question(self) -> Question:
        """The run that is meant; RunInvalid, UnknownName or UnreadableInput where there is none."""
        from memcalc.cli.asked import asked  # noqa: PLC0415 - not for --help

        return asked(self.source, self.flags, self.changes, self.form, hub=self.hub)


def about_a_run(main: Callable[..., None]) -> Callable[..., None]:
    """A command whose first parameter is what was Asked, with the flags of a run ahead of its own options."""

    @functools.wraps(main)
    def command(**given: Any) -> None:  # noqa: ANN401 - whatever typer read
        main(_asked({name: given.pop(name) for name in shared}), **given)

    shared = inspect.signature(_flags).parameters
    own = list(inspect.signature(main).parameters.values())[1:]
    hints = {**get_type_hints(_flags, include_extras=True), **get_type_hints(main, include_extras=True)}
    both = [
        parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in (*shared.values(), *own)
    ]
    command.__signature__ = inspect.Signature(both)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in both}
    return command


def _asked(given: dict[str, Any]) -> Asked:
    """What typer read for `_flags`, as texts; a switch that is on is `true`."""
    source, form, hub, changes = (given.pop(name) for name in ("source", "form_of", "hub", "change"))
    flags = {key: {True: "true", False: None}.get(value, value) for key, value in given.items()}
    return Asked(source, flags, tuple(changes or ()), form or "", hub)


def _flag(
    help_text: str, *names: str, metavar: str = "TEXT", completes: Callable[[str], list[str]] | None = None
) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*names, help=help_text, metavar=metavar, autocompletion=completes)
    return option


def _flags(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A model, a run file, another tool's config, a checkpoint; - reads standard input.",
            show_default=False,
            autocompletion=presets_of("models"),
        ),
    ] = None,
    model: Annotated[
        str | None,
        _flag(
            "Preset or alias, config.json, folder, or a size such as 7b.",
            "--model",
            "-m",
            completes=presets_of("models"),
        ),
    ] = None,
    precision: Annotated[
        str | None,
        _flag(
            "A recipe: mixed-bf16, bf16, amp-bf16, fp32, megatron-bf16 …",
            "--precision",
            completes=presets_of("precisions"),
        ),
    ] = None,
    optimizer: Annotated[
        str | None,
        _flag(
            "Preset, alias, Trainer name or class path; none.",
            "--optimizer",
            "--opt",
            completes=presets_of("optimizers"),
        ),
    ] = None,
    batch_size: Annotated[
        str | None, _flag("Micro batch of one GPU, in sequences or images.", "--batch-size", "-b", metavar="N")
    ] = None,
    seq_len: Annotated[str | None, _flag("Tokens of a sequence.", "--seq-len", "-s", metavar="N")] = None,
    target_len: Annotated[
        str | None, _flag("Tokens of a target sequence (encoder-decoders).", "--target-len", metavar="N")
    ] = None,
    images: Annotated[str | None, _flag("Images in each sequence; 0: text alone.", "--images", metavar="N")] = None,
    image_size: Annotated[
        str | None, _flag("Pixels of an image: 1024, or height x width: 720x1280.", "--image-size", metavar="PIXELS")
    ] = None,
    frames: Annotated[str | None, _flag("Frames of a video.", "--frames", metavar="N")] = None,
    packing: Annotated[
        bool, typer.Option("--packing", help="The sequences of a micro batch in one row, without padding.")
    ] = False,
    grad_accum: Annotated[str | None, _flag("Micro batches per step.", "--grad-accum", metavar="N")] = None,
    checkpointing: Annotated[
        str | None, _flag("none, full or selective.", "--checkpointing", completes=words_of("checkpointing"))
    ] = None,
    attention: Annotated[
        str | None, _flag("eager, sdpa or flash.", "--attention", completes=words_of("attention"))
    ] = None,
    loss: Annotated[
        str | None,
        _flag("standard, fused, fused-linear, log-probs, label-smoothing …", "--loss", completes=words_of("loss")),
    ] = None,
    keep_outputs: Annotated[bool, typer.Option("--keep-outputs", help="The loop holds on to the logits.")] = False,
    implementation: Annotated[
        str | None,
        _flag("Whose modules run: hf, hf-liger, torchtune …", "--implementation", completes=words_of("implementation")),
    ] = None,
    lora: Annotated[str | None, _flag("Rank, or a mapping: '{rank: 16, targets: [q_proj]}'.", "--lora")] = None,
    quantize: Annotated[str | None, _flag("Storage of the frozen base: nf4, nf4-double, int8 …", "--quantize")] = None,
    gpu: Annotated[
        str | None, _flag("Preset or alias, or a size such as 80GiB.", "--gpu", "-g", completes=presets_of("gpus"))
    ] = None,
    gpus: Annotated[str | None, _flag("How many GPUs in all.", "--gpus", "-n", metavar="N")] = None,
    sharding: Annotated[
        str | None,
        _flag("none, ddp, zero0 to zero3, fsdp, hsdp, megatron.", "--sharding", completes=words_of("sharding")),
    ] = None,
    offload: Annotated[
        str | None,
        _flag("none, optimizer, optimizer+params or activations.", "--offload", completes=words_of("offload")),
    ] = None,
    expandable_segments: Annotated[
        bool, typer.Option("--expandable-segments", help="PYTORCH_ALLOC_CONF=expandable_segments:True is set.")
    ] = False,
    margin: Annotated[str | None, _flag("What must stay free: 2GiB or 5%.", "--margin")] = None,
    form_of: Annotated[
        str | None, _flag("The file's format, where its content does not tell: axolotl, trl …", "--from")
    ] = None,
    hub: Annotated[
        bool, typer.Option("--hub", help="Fetch what a hub's model is made of (needs memcalc[hub]).")
    ] = False,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of a run file: --set lora.rank=16", metavar="KEY=VALUE")
    ] = None,
) -> None:
    """The flags themselves, to be read off the signature: all but the source and the last three are keys of a run file."""


def told_of_flags() -> dict[str, str]:
    """What the help says of each flag, by its key."""
    hints = get_type_hints(_flags, include_extras=True)
    return {key: str(hint.__metadata__[0].help) for key, hint in hints.items() if hasattr(hint, "__metadata__")}
