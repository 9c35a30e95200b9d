"""YAML, JSON and TOML as plain data with places; other text stays text; what is hostile is refused in one message."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from memcalc.configs.documents import document_of, toml_lines
from memcalc.errors import UnreadableInput

TOML = """\
# a job
[training]
local_batch_size = 8   # rows
seq_len = 2048

[parallelism.more]
"a.b" = 1
degree = -1
"""


def test_toml_is_read_with_its_lines() -> None:
    made = document_of(TOML, "job.toml", Path("job.toml"))
    assert made.data["training"] == {"local_batch_size": 8, "seq_len": 2048}
    assert made.where("training.seq_len") == ("job.toml", 4)
    assert toml_lines(TOML)["parallelism.more.degree"] == 8


def test_toml_without_its_ending_is_known_by_its_look() -> None:
    assert document_of(TOML, "job", Path("job")).data["training"]["seq_len"] == 2048


@pytest.mark.parametrize("text", ["[a\n", "a = 1\na = 2\n", "a = " + "[" * 3000 + "]" * 3000, "a = " + "9" * 9999])
def test_bad_toml_is_refused(text: str) -> None:
    with pytest.raises(UnreadableInput, match=r"TOML|levels deep"):
        document_of(text, "job.toml", Path("job.toml"))


@pytest.mark.parametrize(
    "line", ["[" + " " * 10**6, " " * 10**6 + "x", "a" * 10**6 + " " * 10**6, "[" * 10**6, "a = [" + "1," * 10**5]
)
def test_long_lines_take_no_time(line: str) -> None:
    before = time.monotonic()
    toml_lines(line)
    with pytest.raises(UnreadableInput):
        raise document_of(line, "job", Path("job")).unreadable or UnreadableInput("read")
    assert time.monotonic() - before < 5


def test_a_toml_file_is_short() -> None:
    with pytest.raises(UnreadableInput, match="larger than 2 MiB"):
        document_of("a = 1 # " + "x" * 2**21, "job.toml", Path("job.toml"))


def test_deep_toml_is_refused() -> None:
    with pytest.raises(UnreadableInput):
        document_of("a = " + "{b=" * 150 + "1" + "}" * 150, "job.toml", Path("job.toml"))


def test_a_script_keeps_its_text_and_why_it_is_no_mapping() -> None:
    made = document_of("#!/bin/bash\ntorchrun pretrain_gpt.py --num-layers 24\n", "run.sh", Path("run.sh"))
    assert made.data == {}
    assert made.text.startswith("#!/bin/bash")
    assert isinstance(made.unreadable, UnreadableInput)


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", '{"a": 1, "b": 2, "a": 3}'])
def test_of_a_key_written_twice_the_last_counts(text: str) -> None:
    made = document_of(text, "train.yaml", Path("train.yaml"))
    assert made.data["a"] == 3
    assert made.repeated is not None


def test_a_part_keeps_the_places_of_the_whole() -> None:
    made = document_of("deepspeed:\n  bf16:\n    enabled: true\n", "train.yaml", Path("train.yaml"))
    part = made.part("deepspeed", made.data["deepspeed"])
    assert part.where("bf16.enabled") == ("train.yaml", 3)
    assert part.where("bf16.other") == ("train.yaml", 2)
