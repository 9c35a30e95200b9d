"""Whole commands: what they print, where, and the exit code. Golden files hold the text that people read.

`pytest tests/test_cli.py --update-golden` writes them anew; read the difference before it is committed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome

GOLDEN = Path(__file__).parent / "golden"


SHOWN = {  # golden file: the command line; each is a page a person reads
    "estimate": "estimate --model llama-7b --opt adamw8bit",
    "estimate-fits": "estimate llama-3-8b --precision bf16 --opt adamw8bit --gpu h100",
    "estimate-too-big": "estimate llama-2-7b --gpu rtx-4090",
    "estimate-sharded": "estimate llama-3-70b --gpu h100 --gpus 64 --sharding zero3 --margin 5%",
    "estimate-qlora": "estimate llama-3-70b --lora 16 --quantize nf4 --gpu a100-80gb",
    "estimate-nominal": "estimate 7b --precision mixed-fp16",
    "estimate-markdown": "estimate gpt2 --precision fp32 --format markdown",
    "estimate-csv": "estimate gpt2 --precision fp32 --format csv",
    "estimate-units": "estimate gpt2 --precision fp32 --units MB",
    "explain": "explain llama-2-7b --precision bf16 --gpu h100",
    "explain-qlora": "explain llama-3-8b --lora 16 --quantize nf4 --checkpointing full",
    "models-qwen3": "models qwen3",
    "models-one": "models llama-2-7b",
    "gpus-hopper": "gpus hopper",
    "optimizers-one": "optimizers adamw-8bit",
    "optimizers-state": "optimizers adamw-8bit --shape 4096x4096 --dtype bf16",
}


@pytest.mark.parametrize("name", SHOWN)
def test_what_a_person_reads(name: str, run: Callable[..., Outcome], request: pytest.FixtureRequest) -> None:
    code, out, err = run(*SHOWN[name].split())
    file = GOLDEN / f"{name}.txt"
    text = f"$ memcalc {SHOWN[name]}\n{out}"
    if request.config.getoption("--update-golden"):
        file.write_text(text, "utf-8")
    assert (code, err) == (0, "")
    assert text == file.read_text("utf-8")
    assert "markdown" in name or max(len(line) for line in out.splitlines()) <= 100


def test_the_readme_shows_what_is_printed_now() -> None:
    """Its example is the golden page, word for word."""
    page = (GOLDEN / "estimate-fits.txt").read_text("utf-8")
    assert page in (GOLDEN.parents[1] / "README.md").read_text("utf-8")


def test_json_is_the_contract(run: Callable[..., Outcome]) -> None:
    code, out, _ = run("estimate", "--model", "llama-7b", "--opt", "adamw8bit", "--gpu", "h100", "--format", "json")
    answer = json.loads(out)
    assert code == 0
    assert list(answer) == [
        "schema_version", "kind", "run", "model", "memory", "gpu", "verdict", "assumptions", "warnings",
        "source", "origins", "formula", "ranks",
    ]  # fmt: skip
    assert (answer["schema_version"], answer["kind"]) == ("1.0", "estimate")
    assert answer["model"] == {
        "name": "llama-2-7b", "architecture": "llama",
        "parameters": 6738415616, "trainable": 6738415616, "active": 6738415616,
    }  # fmt: skip
    assert set(answer["memory"]) == {
        "components", "persistent", "phases", "peak_allocated", "peak_phase", "at_peak", "reserved",
        "outside_allocator", "total", "host", "curve",
    }  # fmt: skip
    assert run("estimate", "--model", "llama-7b", "--opt", "adamw8bit", "--gpu", "h100", "--format", "json")[1] == out


@pytest.mark.parametrize("more", [
    (), ("--set", "lora.method=ia3"), ("--set", "lora.method=ln-tuning"), ("--opt", "torch.optim.Adafactor"),
    ("--opt", "{name: adafactor, library: torch, implementation: for-loop}"),
], ids=str)  # fmt: skip
def test_a_resolved_run_can_be_run_again(run: Callable[..., Outcome], tmp_path: Path, more: tuple[str, ...]) -> None:
    words = ("estimate", "llama-7b", "-g", "h100", *(() if "--opt" in more else ("--opt", "adamw_bnb_8bit")), *more)
    first = json.loads(run(*words, "--format", "json")[1])
    (tmp_path / "again.json").write_text(json.dumps(first["run"]), "utf-8")
    again = json.loads(run("estimate", str(tmp_path / "again.json"), "--format", "json")[1])
    assert again["memory"] == first["memory"]
    assert again["run"] == first["run"]


def test_flags_win_over_the_file_and_set_over_both(run: Callable[..., Outcome], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: gpt2\nbatch_size: 2\nseq_len: 128\nlora: {rank: 4}\n", "utf-8")
    words = ("estimate", str(file), "-b", "3", "--set", "seq_len=256", "--set", "lora.rank=8", "--format", "json")
    asked = json.loads(run(*words)[1])["run"]
    assert (asked["batch_size"], asked["seq_len"], asked["lora"]["rank"]) == (3, 256, 8)


@pytest.mark.parametrize(
    ("companions", "words", "found"),
    [
        ("reference", "companions.0.role=teacher", [("teacher", None)]),
        ("[reference, ema]", "companions.1.dtype=fp32", [("reference", None), ("ema", "fp32")]),
        ("[{role: ema, dtype: fp32}]", "companions.0.role=teacher", [("teacher", "fp32")]),
        ("[reference, ema]", "companions.0=teacher", [("teacher", None), ("ema", None)]),
    ],
)
def test_set_counts_in_a_list(
    run: Callable[..., Outcome], tmp_path: Path, companions: str, words: str, found: list[tuple[str, str | None]]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"model: gpt2\ncompanions: {companions}\n", "utf-8")
    asked = json.loads(run("estimate", str(file), "--set", words, "--format", "json")[1])["run"]
    assert [(one["role"], one.get("dtype")) for one in asked["companions"]] == found


def test_too_big_fails_only_when_asked(run: Callable[..., Outcome]) -> None:
    words = ("estimate", "llama-2-7b", "--gpu", "rtx-4090", "--format", "json")
    assert run(*words)[0] == 0
    code, out, _ = run(*words, "--fail-if-too-big")
    assert code == 1
    assert json.loads(out)["verdict"]["level"] == "too-big"


def test_output_goes_to_a_file_whole_or_not_at_all(run: Callable[..., Outcome], tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    assert run("estimate", "gpt2", "--format", "json", "--output", str(target)) == (0, "", "")
    before = target.read_text("utf-8")
    assert run("estimate", "no-such-model", "--format", "json", "--output", str(target))[0] == 2
    assert target.read_text("utf-8") == before
    assert run("estimate", "gpt2", "--output", str(tmp_path / "no" / "folder.txt"))[0] == 4
    assert run("estimate", "gpt2", "--output", str(tmp_path / ("n" * 300)))[0] == 4


def test_output_leaves_links_and_devices_what_they_are(run: Callable[..., Outcome], tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(tmp_path / "real")
    assert run("estimate", "7b", "--output", str(link))[0] == 0
    assert link.is_symlink()
    assert "weights" in (tmp_path / "real").read_text("utf-8")
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert run("estimate", "7b", "--output", str(pipe))[0] == 0
    assert b"weights" in os.read(reader, 65536)
    os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize(("words", "code"), [
    (("estimate", "{}"), 2), (("estimate", "--model", "{}"), 2), (("estimate", "./{}"), 4), (("estimate", "{}.yaml"), 4),
    (("diff", "{}", "{}"), 2), (("check", "{}.yaml", "--max-total", "1GiB"), 4), (("estimate", "--model", "~{}/x"), 4),
])  # fmt: skip
def test_a_name_that_no_file_can_have_is_no_bug(run: Callable[..., Outcome], words: tuple[str, ...], code: int) -> None:
    assert run(*(word.format("n" * 300) for word in words))[0] == code


def test_a_model_from_its_config_and_from_its_folder(run: Callable[..., Outcome], tmp_path: Path) -> None:
    config: dict[str, Any] = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                              "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    # embedding and head; per layer q, k, v, o, gate, up, down, two norms; the last norm
    expected = 2 * 100 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    for words in ((str(tmp_path),), (str(tmp_path / "config.json"),), ("--model", str(tmp_path / "config.json"))):
        assert json.loads(run("estimate", *words, "--format", "json")[1])["model"]["parameters"] == expected
    config["model_type"] = "lama"
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    code, _, err = run("estimate", str(tmp_path))
    assert code in (2, 3)
    assert "llama" in err
    assert "blocks" in err


def test_no_colour_in_a_pipe(run: Callable[..., Outcome]) -> None:
    assert "\x1b[" not in run("estimate", "gpt2")[1]


@pytest.mark.parametrize(("words", "told"), [
    (("estimate", "gpt2", "--from", "axolotol"), "did you mean axolotl?"),
    (("estimate", "gpt2", "--from", "axolotl"), "'gpt2' is no file"),
    (("estimate", "--model", "gpt2", "--from", "axolotl"), "no file is named"),
    (("diff", "gpt2", "gpt2", "--fail-on", "5%%"), "'5%%' is not a percentage"),
    (("diff", "gpt2", "gpt2", "--fail-on", "lots"), "'lots' is not a size"),
])  # fmt: skip
def test_what_a_flag_can_not_mean_is_refused_before_anything_is_answered(
    run: Callable[..., Outcome], words: tuple[str, ...], told: str
) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert told in err


def test_a_dimension_that_is_misspelt_is_named(run: Callable[..., Outcome]) -> None:
    code, out, _ = run("estimate", "llama-2-7b", "--set", "model.hidden_siz=100", "--format", "json")
    warnings = json.loads(out)["warnings"]
    assert code == 0
    assert [(w["path"], "hidden_size" in w["message"]) for w in warnings if w["code"] == "unread"] == [
        ("model.hidden_siz", True)
    ]


def test_a_setting_of_the_default_optimizer(run: Callable[..., Outcome]) -> None:
    _, named, _ = run("estimate", "gpt2", "--set", "optimizer={name: adamw, implementation: fused}", "--format", "csv")
    code, out, _ = run("estimate", "gpt2", "--set", "optimizer.implementation=fused", "--format", "csv")
    assert (code, out) == (0, named)
