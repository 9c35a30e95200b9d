"""The sheet that readers fill: spellings, defaults with their source, origins, and no key passed over in silence."""

from __future__ import annotations

import re

import pytest

from memcalc.configs.reading import Asked, Origin
from memcalc.configs.table import ABSENT, Key, Sheet, lookup, place
from memcalc.configs.words import whole
from memcalc.errors import RunInvalid
from tests.configs.reader import document

TEXT = """\
batch: 4
long: {seq: "2_048"}
lora: {r: 8, odd: 1}
lr: 2e-5
mystery: 3
off: null
"""


def sheet(text: str = TEXT, **flags: object) -> Sheet:
    return Sheet(document(text), Asked(flags), "some", "Some tool")


def test_keys_fill_the_run_with_their_origins() -> None:
    made = sheet()
    made.fill(
        (
            Key(("micro", "batch"), "batch_size", whole),
            Key("long.seq", "seq_len", whole),
            Key("ga", "grad_accum", whole, 2, "some.py"),
        )
    )
    found = made.reading(("lr", "lora*"))
    assert found.run == {"batch_size": 4, "seq_len": 2048, "grad_accum": 2}
    assert found.origins["batch_size"] == Origin("train.yaml", 1, "batch")
    assert found.origins["seq_len"] == Origin("train.yaml", 2, "long.seq")
    assert found.origins["grad_accum"] == Origin("train.yaml", None, "ga", "some.py")


def test_what_is_neither_read_nor_ignored_is_named() -> None:
    made = sheet()
    made.get("lora.r")
    (warning,) = made.reading(("batch", "long", "l?")).warnings
    assert warning.code == "keys-not-read"
    assert "lora.odd (line 3)" in warning.message
    assert "mystery (line 5)" in warning.message
    assert "off" not in warning.message
    assert "lora.r" not in warning.message


def test_a_value_that_can_not_be_is_a_fault_at_its_place() -> None:
    made = sheet("batch: many\nseq: [1]\n")
    made.fill((Key("batch", "batch_size", whole), Key("seq", "seq_len", whole)))
    with pytest.raises(RunInvalid) as caught:
        made.reading()
    assert [fault.where for fault in caught.value.faults] == ["train.yaml:1 batch", "train.yaml:2 seq"]


def test_gpus_are_asked_for_read_or_assumed() -> None:
    made = sheet("n: 16\n", gpus=8)
    assert made.gpus("n") == 8
    assert "gpus" not in made.run
    made = sheet("n: 16\n")
    assert made.gpus("n") == 16
    assert made.origins["gpus"].line == 1
    made = sheet("n: auto\n")
    made.gpus()
    assert (made.run["gpus"], made.assumptions[0].code) == (1, "gpus-not-in-config")


def test_what_matters_and_is_left_out_is_said_where_it_is_on() -> None:
    made = sheet("compile: true\nother: false\nthird: 'no'\n")
    made.unmodelled({"compile": "it matters", "other": "as well", "third": "too", "fourth": "absent"})
    assert [note.message for note in made.reading().warnings] == ["it matters"]
    assert made.warnings[0].path == "train.yaml:1 compile"


def test_another_file_fills_what_is_open() -> None:
    outer, inner = sheet("a: 1\n"), sheet("b: 2\n")
    outer.put("precision", "bf16", "a")
    inner.put("precision", "fp32", "b")
    inner.put("sharding.strategy", "zero3", "b")
    outer.adopt(inner.reading())
    assert outer.run == {"precision": "bf16", "sharding": {"strategy": "zero3"}}
    assert outer.origins["precision"].key == "a"
    assert outer.origins["sharding.strategy"].key == "b"


def test_places_of_a_run_are_those_of_the_keys_it_comes_from() -> None:
    made = sheet()
    made.put("lora.rank", 8, "lora.r")
    found = made.reading(("*",))
    assert found.place("lora.rank") == "train.yaml:3 lora.r (lora.rank)"
    assert found.place("lora") == "train.yaml:3 lora.r (lora)"
    assert found.place("offload") == "train.yaml offload"


def test_keys_that_no_memory_follows_from_are_told_from_the_others() -> None:
    """Outermost keys alone: `lora` speaks of memory, `lora_name` has a word that takes it back, `lr` none at all."""
    made = sheet("lora: {r: 8}\nlora_name: a\nlr: 2e-5\n")
    assert made.immaterial(re.compile("lora"), re.compile("name")) == ["lora_name", "lr"]


def test_many_strange_keys_take_no_time() -> None:
    found = sheet("".join(f"key_{i}: {i}\n" for i in range(10_000))).reading([f"*{i}_ignored*" for i in range(200)])
    assert "and 9988 more" in found.warnings[0].message


def test_paths_are_looked_up_and_set() -> None:
    data = {"a": {"b": [1, {"c": 2}]}, "d.e": 3}
    assert lookup(data, "a.b.1.c") == 2
    assert lookup(data, "d.e") == 3
    assert lookup(data, "a.x") is ABSENT
    assert lookup(data, "a.b.7") is ABSENT
    run: dict[str, object] = {"lora": 8}
    place(run, "lora.rank", 16)
    assert run == {"lora": {"rank": 16}}
