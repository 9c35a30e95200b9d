"""`memcalc estimate`: the memory a run takes."""

from __future__ import annotations

from typing import Annotated

import typer

from memcalc.cli.output import FormatOption, OutputOption, UnitsOption, choose, page, write

FORMATS = ("table", "json", "yaml", "csv", "markdown")


def _flag(help_text: str, *names: str, metavar: str = "TEXT") -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*names, help=help_text, metavar=metavar)
    return option


def main(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A model's name, a run file, a config.json or its folder; - reads standard input.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None, _flag("Preset or alias, config.json, folder, or a size such as 7b.", "--model", "-m")
    ] = None,
    precision: Annotated[
        str | None, _flag("A recipe: mixed-bf16, bf16, amp-bf16, fp32, megatron-bf16 …", "--precision")
    ] = None,
    optimizer: Annotated[
        str | None, _flag("Preset, alias, Trainer name or class path; none.", "--optimizer", "--opt")
    ] = None,
    batch_size: Annotated[
        str | None, _flag("Micro batch of one GPU, in sequences or images.", "--batch-size", "-b", metavar="N")
    ] = None,
    seq_len: Annotated[str | None, _flag("Tokens of a sequence.", "--seq-len", "-s", metavar="N")] = None,
    target_len: Annotated[
        str | None, _flag("Tokens of a target sequence (encoder-decoders).", "--target-len", metavar="N")
    ] = None,
    grad_accum: Annotated[str | None, _flag("Micro batches per step.", "--grad-accum", metavar="N")] = None,
    checkpointing: Annotated[str | None, _flag("none, full or selective.", "--checkpointing")] = None,
    attention: Annotated[str | None, _flag("eager, sdpa or flash.", "--attention")] = None,
    loss: Annotated[str | None, _flag("standard, fused, fused-linear or chunked.", "--loss")] = None,
    keep_outputs: Annotated[bool, typer.Option("--keep-outputs", help="The loop holds on to the logits.")] = False,
    implementation: Annotated[str | None, _flag("Whose modules run: hf.", "--implementation")] = None,
    lora: Annotated[str | None, _flag("Rank, or a mapping: '{rank: 16, targets: [q_proj]}'.", "--lora")] = None,
    quantize: Annotated[str | None, _flag("Storage of the frozen base: nf4, nf4-double, int8 …", "--quantize")] = None,
    gpu: Annotated[str | None, _flag("Preset or alias, or a size such as 80GiB.", "--gpu", "-g")] = None,
    gpus: Annotated[str | None, _flag("How many GPUs in all.", "--gpus", "-n", metavar="N")] = None,
    sharding: Annotated[str | None, _flag("none, ddp, zero1, zero2, zero3 or fsdp.", "--sharding")] = None,
    offload: Annotated[str | None, _flag("none, optimizer, optimizer+params or activations.", "--offload")] = None,
    margin: Annotated[str | None, _flag("What must stay free: 2GiB or 5%.", "--margin")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Any key of a run file: --set lora.rank=16", metavar="KEY=VALUE")
    ] = None,
    fail_if_too_big: Annotated[bool, typer.Option("--fail-if-too-big", help="Exit 1 where it does not fit.")] = False,
    form: FormatOption = "table",
    output: OutputOption = None,
    units: UnitsOption = "GiB",
) -> None:
    """Every flag is also a key of a run file (memcalc schema run); a flag wins over the file.

    Examples: memcalc estimate --model llama-7b --opt adamw8bit; memcalc estimate run.yaml --gpu h100 --set lora.rank=64
    """
    from memcalc.cli.asked import asked  # noqa: PLC0415 - not for --help
    from memcalc.pipeline import estimate_run  # noqa: PLC0415
    from memcalc.render import render  # noqa: PLC0415

    chosen, sheet = choose(form, FORMATS), page(units, output)
    flags = {
        "model": model, "precision": precision, "optimizer": optimizer, "batch_size": batch_size, "seq_len": seq_len,
        "target_len": target_len, "grad_accum": grad_accum, "checkpointing": checkpointing, "attention": attention,
        "loss": loss, "keep_outputs": "true" if keep_outputs else None, "implementation": implementation, "lora": lora,
        "quantize": quantize, "gpu": gpu, "gpus": gpus, "sharding": sharding, "offload": offload, "margin": margin,
    }  # fmt: skip
    report = asked(source, flags, change or []).answer(estimate_run)
    write(render(report, chosen, sheet), output)
    if fail_if_too_big and report.verdict.fits is False:
        raise typer.Exit(1)
