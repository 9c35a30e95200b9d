"""Whole commands: what they print, where, and the exit code. Golden files hold the text that people read.

`pytest tests/test_cli.py --update-golden` writes them anew; read the difference before it is committed.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Callable

GOLDEN = Path(__file__).parent / "golden"
Outcome = tuple[int, str, str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """memcalc with these words: exit code, stdout, stderr."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("MEMCALC_TRACEBACK", raising=False)

    def call(*words: str) -> Outcome:
        code = main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call


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


WRONG: list[tuple[str, int, str]] = [  # command line, exit code, what stderr says
    ("estimate llama-8x", 2, "unknown model 'llama-8x'. Did you mean"),
    ("estimate --model llama-7b --gpu h101", 2, "unknown GPU 'h101'. Did you mean h100"),
    ("estimate --model llama-7b --opt adamx", 2, "unknown optimizer 'adamx'. Did you mean"),
    ("estimate --model llama-7b --quantize nf5", 2, "nf5"),
    ("estimate --model llama-7b --quantize nf4", 3, "quantised weights can't be trained"),
    ("estimate --model llama-7b --gpu=", 2, "unknown GPU ''"),
    ("estimate --model llama-7b --precision fp33", 2, "unknown precision recipe 'fp33'. Did you mean fp32"),
    ("estimate --model llama-7b --format tabel", 2, "did you mean table?"),
    ("estimate --model llama-7b --units GiX", 2, "--units"),
    ("estimate --optimzer adamw", 2, "--optimizer"),
    ("estimat", 2, "did you mean estimate?"),
    ("estimate", 2, "which model?"),
    ("estimate llama-7b --set rank", 2, "write key=value"),
    ("estimate llama-7b --set companions.1.role=ema", 2, "companions.1: the run lists 0, counted from 0"),
    ("optimizers adamw-8bit --shape 4kx4k", 2, "4096x4096"),
    ("optimizers adamw-8bit --shape 4096x", 2, "4096x4096"),
    ("gpus zzzz", 2, "unknown GPU 'zzzz'"),
    ("schema rum", 2, "did you mean run?"),
    ("estimate llama-7b --strategy fsdp", 2, "No such option: --strategy (Possible options: --sharding)"),
    ("recommend llama-7b --tp 8", 2, "(Possible options: --set parallel.tensor=VALUE)"),
    ("models --tp 8", 2, "No such option: --tp"),
    ("estimate llama-7b --opt", 2, "requires an argument"),
    ("estimate llama-7b --batch-size 0", 3, "batch_size: 0 is out of range"),
    ("estimate llama-7b --batch-size nan", 3, "batch_size: 'nan' is not a whole number"),
    ("estimate llama-7b --seq-len 1e30", 3, "seq_len: 1e+30 is out of range"),
    ("estimate llama-7b --gpu=-5GB", 3, "gpu"),
    ("estimate llama-7b --quantize nf4", 3, "add `lora:"),
    ("estimate llama-7b --set parallel.tensor=2", 3, "world_size (1) is not divisible by 2"),
    ("estimate llama-7b --margin 200% --gpu h100", 3, "margin"),
    ("estimate 99999999999999999999b", 3, "larger than any count"),
    ("estimate ./nowhere.yaml", 4, "no such file"),
]


@pytest.mark.parametrize(("line", "expected", "said"), WRONG)
def test_what_is_wrong_is_said_in_one_message(line: str, expected: int, said: str, run: Callable[..., Outcome]) -> None:
    code, out, err = run(*line.split())
    assert (code, out) == (expected, "")
    assert said in err
    assert "Traceback" not in err
    assert "bug" not in err


def test_four_faults_are_told_with_their_lines(run: Callable[..., Outcome], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: gpt2\nbatch_size: 0\nattention: flsh\noptimiser: adamw\nlora:\n  rnak: 16\n", "utf-8")
    code, _, err = run("estimate", str(file))
    assert code == 3
    assert "4 faults" in err
    for line, key in ((2, "batch_size"), (3, "attention"), (4, "optimiser"), (6, "lora.rnak")):
        assert f"{file}:{line} {key}: " in err


UNREADABLE: list[tuple[str, bytes, int]] = [
    ("empty", b"", 4),
    ("binary", bytes(range(256)) * 4, 4),
    ("python tag", b"model: !!python/object/apply:os.system ['true']\n", 4),
    ("alias bomb", b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n" % (n + 1, n + 1, *[n] * 9) for n in range(97, 110)), 4),
    ("deep", b"model: " + b"[" * 5000 + b"]" * 5000, 4),
    ("two documents", b"model: gpt2\n---\nmodel: gpt2\n", 4),
    ("list", b"- model\n", 4),
    ("duplicate key", b"model: gpt2\nmodel: gpt2\n", 3),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "expected"), UNREADABLE, ids=[case[0] for case in UNREADABLE])
def test_hostile_files(name: str, content: bytes, expected: int, run: Callable[..., Outcome], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    code, out, err = run("estimate", str(file))
    assert (code, out) == (expected, ""), name
    assert err.startswith("error: ")
    assert "Traceback" not in err


def test_a_folder_a_huge_file_and_a_closed_door(run: Callable[..., Outcome], tmp_path: Path) -> None:
    assert run("estimate", str(tmp_path))[0] == 4
    huge = tmp_path / "huge.yaml"
    with huge.open("wb") as file:
        file.truncate(100 * 2**20)
    assert run("estimate", str(huge))[0] == 4
    closed = tmp_path / "closed.yaml"
    closed.write_text("model: gpt2\n", "utf-8")
    closed.chmod(0)
    if not os.access(closed, os.R_OK):  # root reads everything
        assert run("estimate", str(closed))[0] == 4
    closed.chmod(stat.S_IRUSR | stat.S_IWUSR)


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
