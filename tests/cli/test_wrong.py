"""Command lines and files that are wrong: one message, the documented exit code, never a traceback."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

WRONG: list[tuple[str, int, str]] = [  # command line, exit code, what stderr says
    ("estimate llama-8x", 2, "unknown model 'llama-8x'. Did you mean"),
    ("estimate gpt2 --opt adamw,lion", 2, "A run has one; to run each: memcalc compare --sweep optimizer=adamw,lion"),
    (
        "estimate gpt2 -s 512,1024",
        3,
        "not a whole number. A run has one; to run each: memcalc compare --sweep seq_len=512,",
    ),
    ("estimate gpt2 --image-size 8,9,10", 3, "or height x width: 720x1280\n"),
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
    ("recommend llama-8x --gpu h100", 2, "Did you mean"),
    ("recommend gpt2 --gpu h101", 2, "unknown GPU"),
    ("recommend gpt2 --gpu h100 --method qlor", 2, "did you mean qlora?"),
    ("recommend gpt2 --gpu h100 --task visoin", 2, "Did you mean vision"),
    ("recommend gpt2 --gpu h100 --gpus 8..2", 3, "gpus"),
    ("recommend gpt2 --gpu h100 --gpus many", 3, "a range (8..64)"),
    ("recommend gpt2 --gpu h100 --keep optimzer", 2, "did you mean optimizer?"),
    ("recommend gpt2 --gpu h100 --vary optimizer", 2, "write key=a,b"),
    ("recommend gpt2 --gpu h100 --vary optimzer=adamw", 3, "optimizer"),
    ("recommend gpt2 --gpu h100 --format html", 2, "this command knows"),
    ("recommend", 2, "which model?"),
    ("max gpt2 --gpu h100", 2, "max of what?"),
    ("max batch_size gpt2 llama-2-7b --gpu h100", 2, "one model or file"),
    ("max batch_size gpt2", 3, "Name a GPU"),
    ("compare gpt2 --sweep optimizer", 2, "write key=a,b"),
    ("compare gpt2 --sweep optimzer=adamw,lion", 3, "unknown key; did you mean optimizer?"),
    ("max batch_sizee gpt2 --gpu h100", 2, "did you mean batch_size?"),
    ("compare gpt2 ./nowhere.yaml", 4, "no such file"),
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
