"""Commands in shell scripts: words, lines, variables; what bash would hand to the program."""

from __future__ import annotations

import pytest

from memcalc.configs.shell import commands

SCRIPT = """#!/bin/bash
set -e
export MODEL="${MODEL:-Qwen/Qwen2.5-7B}"  # the model
N=8
ARGS=(
  --rank 4     # of the adapters
  --note "two words"
)
MORE="
  --seed 3 \\
  --steps 4
"
MORE+=" --last 5"
train --count $N \\
  --file=a.py "${ARGS[@]}" $MORE --model $MODEL --twice=$((N*2)) && echo done
"""


def words(text: str) -> list[list[str]]:
    return [[word.text for word in command.words] for command in commands(text)]


def test_variables_arrays_and_continued_lines() -> None:
    found = commands(SCRIPT)[1]
    assert [word.text for word in found.words] == [
        "train", "--count", "8", "--file=a.py", "--rank", "4", "--note", "two words", "--seed", "3", "--steps", "4", "--last", "5",
        "--model", "Qwen/Qwen2.5-7B", "--twice=16",
    ]  # fmt: skip
    lines = {word.text: word.line for word in found.words}
    assert (lines["train"], lines["--file=a.py"], lines["--rank"], lines["two words"], lines["--steps"], lines["--last"]) == (
        14, 15, 6, 7, 11, 13)  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), [
    ("a --kw '{\"x\": false}' --kw2=\"{\\\"y\\\": 1}\"", [["a", "--kw", '{"x": false}', '--kw2={"y": 1}']]),
    ("bash -c 'a --x 1 && b'", [["a", "--x", "1"], ["b"]]),
    ('srun bash -lc "a \\\n  --x 1"', [["a", "--x", "1"]]),
    ("A='{\"x\": 1, \"y\": 2}'\ntell \"$A\" $B", [["tell", '{"x": 1, "y": 2}', "$B"]]),
    ("cat > f <<EOF\ntrain: yes\nEOF\na 1", [["cat", ">", "f"], ["a", "1"]]),
    ("A=1 B=2 c $A ${B} ${C:-3} $1 $(nproc)", [["c", "1", "2", "3", "$1", "$(nproc)"]]),
    ("if [ $X = 1 ]; then\na\nfi\nX=2\nif [ $X = 1 ]; then\nb\nelse\nc\nfi", [["a"], ["c"]]),
    ("a 'open", [["a", "open"]]),
    ("A=($A one)\nA+=(two)\ntell ${A[*]}", [["tell", "one", "two"]]),
    ("", []),
])  # fmt: skip
def test_words_as_the_shell_has_them(text: str, expected: list[list[str]]) -> None:
    found = words(text)
    assert (found if "A=(" not in text else [[word for word in one if word != "$A"] for one in found]) == expected


def test_what_is_set_before_a_command() -> None:
    assert commands("CUDA_VISIBLE_DEVICES=0,1 python x.py")[0].variables["CUDA_VISIBLE_DEVICES"] == "0,1"


def test_hostile_text_ends_soon() -> None:
    assert len(commands('"' * 50_000 + "(" * 5_000 + "A=(" * 5_000)) < 10_000
    assert commands("A=$B\nB=$A\nrun $A $B")[0].words[0].text == "run"
