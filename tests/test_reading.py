"""Files and streams that are fine, odd, or hostile: each is read, or refused in one message, at once."""

from __future__ import annotations

import io
import math
import os
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from memcalc.errors import RunInvalid, UnreadableInput
from memcalc.nesting import DEEPEST
from memcalc.reading import parse_document, read_document, read_text

if TYPE_CHECKING:
    from pathlib import Path

RUN = """\
# a run
model: llama-2-7b
precision: {recipe: bf16, optimizer_states: fp32}
lora:
  rank: 16
  targets:
    - q_proj
    - v_proj
offload: no
"""
WORDS: list[tuple[str, Any]] = [
    ("1e-5", 1e-5), ("5e8", 5e8), ("5E+8", 5e8), (".5", 0.5), ("1.", 1.0), ("-1.5e-3", -1.5e-3), ("1_000", 1000),
    ("010", 10),
    ("0o10", 8), ("0x1F", 31), ("0b101", 5), ("-7", -7), ("+7", 7), ("1:30", "1:30"), ("2024-01-01", "2024-01-01"),
    ("1.2.3", "1.2.3"), ("~", None), ("null", None), ("", None), ("no", False), ("off", False), ("Yes", True),
    ("on", True),
    ("n", "n"), ("none", "none"), ("'no'", "no"), ('"1e-5"', "1e-5"), (".inf", math.inf), ("-.inf", -math.inf),
    ("16GiB", "16GiB"),
    ("5%", "5%"), ("1e", "1e"), ("e5", "e5"), ("0x", "0x"), ("0x_", "0x_"), ("-", [None]), ("!!str 10", "10"),
    ("!!float 1", 1.0),
    ("9" * 500, "9" * 500), ("_1", "_1"), ("32", 32), ("| \n  7b\n", "7b\n"), ("7b", "7b"), ("1e999", math.inf),
]  # fmt: skip
UNREADABLE: list[tuple[str, str]] = [
    ("", "is empty"), (" \n\t\n", "is empty"), ("# nothing\n", "nothing but comments"),
    ("---\n", "nothing but comments"),
    ("null", "nothing but comments"), ("- a\n- b", "holds a list"), ("[1, 2]", "holds a list"),
    ("llama", "only 'llama'"),
    ("a: 1\n---\nb: 2", "f:2: a second document"), ("a: 1\nb:\n\t- c", "f:3: not valid YAML.*tab"),
    ("a: b: c", "f:1: not valid"),
    ("a: [1", "f:[12]: not valid YAML"),
    ('{"a": 1 "b": 2}', "f:1: not valid JSON: expecting ',' delimiter at column 9"),
    ("a: *b", r"f:1: the alias \*b stands for nothing"), ("a: &a [*a]", r"alias \*a stands for nothing"),
    ("a: !!python/object/apply:os.system [ls]", "tag '!!python/object/apply:os.system' is not read"),
    ("a: !!python/name:os.system", "tag '!!python/name"), ("a: !env HOME", "tag '!env'"),
    ("a: !!binary aGk=", "tag '!!binary'"),
    ("a: !!set {b}", "tag '!!set'"), ("a: !!int x", "'x' is not the !!int"),
    ("? [a]\n: b", "f:1: a key must be plain text"),
    ("a: &a b\n*a : c", "f:2: a key must be plain"), ("a: 1\n<<: 3", "f:2: `<<` merges"),
    ("a: '\x07'", "not valid YAML"),
    ("a: 'b", "not valid YAML"), ("%YAML 9.9\n---\na: 1", "not valid YAML"), ("\ud800: 1", "not valid YAML"),
]  # fmt: skip
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)
LONG_BOMB = f"a: &a {'x' * 10**6}\nb: [{'*a,' * 1000}]"
MERGED = [f"m{i}: {{<<: *a}}" for i in range(1000)]
MERGE_BOMB = "\n".join(["a: &a {" + ",".join(f"k{i}: 1" for i in range(1000)) + "}", *MERGED])
HOSTILE = [
    (BOMB, "more than 100,000 values"), (LONG_BOMB, "more than 100,000 values"),
    (MERGE_BOMB, "more than 100,000 values"),
    ("a: [" + "1," * 500_000 + "]", "more than 100,000 values"), ("a: " + "[" * 10**6, "levels deep"),
    ("a: " + "{a: " * 10**5, "levels deep"), ("[" * 10**6, "levels deep"), ('{"a":' * 10**5, "levels deep"),
    ("\n".join("  " * i + f"k{i}:" for i in range(500)), "levels deep"),
]  # fmt: skip


def test_a_document_knows_its_lines_and_its_words() -> None:
    read = parse_document(RUN, "train.yaml")
    assert read.data == {
        "model": "llama-2-7b",
        "precision": {"recipe": "bf16", "optimizer_states": "fp32"},
        "lora": {"rank": 16, "targets": ["q_proj", "v_proj"]},
        "offload": False,
    }
    assert read.places == {
        "model": 2, "precision": 3, "precision.recipe": 3, "precision.optimizer_states": 3,
        "lora": 4, "lora.rank": 5, "lora.targets": 6, "lora.targets.0": 7, "lora.targets.1": 8, "offload": 9,
    }  # fmt: skip
    assert read.written["offload"] == "no"
    assert read.place("lora.targets.1") == "train.yaml:8 lora.targets.1"
    assert read.place("lora.dropout") == "train.yaml:4 lora.dropout"
    assert read.place("gpu") == "train.yaml gpu"


@pytest.mark.parametrize(("written", "expected"), WORDS, ids=[w[:12] for w, _ in WORDS])
def test_a_plain_word_is_read_as_people_mean_it(written: str, expected: Any) -> None:
    value = parse_document(f"key: {written}" if written != "-" else "key:\n  -", "f").data["key"]
    assert (value, type(value)) == (expected, type(expected))


def test_not_a_number_is_read_and_left_to_whoever_validates() -> None:
    assert math.isnan(parse_document("a: .nan", "f").data["a"])
    assert math.isnan(parse_document('{"a": NaN}', "f").data["a"])


def test_keys_are_text() -> None:
    assert list(parse_document("on: 1\n2: 2\nno: 3\n1e3: 4\n", "f").data) == ["on", "2", "no", "1e3"]


def test_aliases_and_merges_are_followed() -> None:
    text = "base: &b {r: 1, s: 2}\nother: &o {s: 5, t: 6}\na: {<<: *b, s: 3}\nc: {<<: [*b, *o]}\nd: *b\n"
    data = parse_document(text + "e: &x 7\nf: *x\n", "f").data
    assert data["a"] == {"r": 1, "s": 3}
    assert data["c"] == {"r": 1, "s": 2, "t": 6}
    assert (data["d"], data["f"]) == ({"r": 1, "s": 2}, 7)


def test_json_is_read_as_json() -> None:
    read = parse_document('{"a": "\\ud83d\\ude00", "b": {"c": [true,\n 1e-5]}, "yes": "no"}', "c.json")
    assert read.data == {"a": "😀", "b": {"c": [True, 1e-5]}, "yes": "no"}
    assert read.place("b.c.1") == "c.json b.c.1"  # YAML knows no surrogate pairs
    assert parse_document('{"b": {"c": [true,\n 1e-5]}}', "c.json").place("b.c.1") == "c.json:2 b.c.1"
    assert parse_document("{model: llama, lora: {rank: 8,},} # flow", "f").data["lora"] == {"rank": 8}
    assert parse_document('{"a": ' + "9" * 5000 + "}", "f").data == {"a": "9" * 5000}


@pytest.mark.parametrize(("text", "message"), UNREADABLE)
def test_what_is_no_document_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(UnreadableInput, match=f"^f.*{message}|^{message}") as error:
        parse_document(text, "f")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(("text", "message"), HOSTILE, ids=[m + str(i) for i, (_, m) in enumerate(HOSTILE)])
def test_bombs_and_towers_are_refused_at_once(text: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(UnreadableInput, match=message):
        parse_document(text, "f")
    assert time.process_time() - start < 3


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ("{a: ", "}")])
def test_the_deepest_that_is_read(opening: str, closing: str) -> None:
    levels = DEEPEST - 1
    assert parse_document('{"k": ' + opening * levels + "1" + closing * levels + "}", "f").data
    with pytest.raises(UnreadableInput, match="levels deep"):
        parse_document('{"k": ' + opening * (levels + 1) + "1" + closing * (levels + 1) + "}", "f")


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("a: 1\nb:\n  a: 1\n  a: 2\nb: 3\n", ["f:4 b.a", "f:5 b"]),
        ("a: {b: 1, b: 1}", ["f:1 a.b"]),
        ('{"a": 1,\n"a": 2}', ["f:2 a"]),
        ('{"a": "\\ud83d\\ude00", "a": 2}', ["f"]),
        ("a: {b: 1, c: 2, b: 3, b: 4}", ["f:1 a.b", "f:1 a.b"]),
    ],
)
def test_every_key_written_twice_is_a_fault(text: str, places: list[str]) -> None:
    with pytest.raises(RunInvalid, match="written twice") as error:
        parse_document(text, "f")
    assert [fault.where for fault in error.value.faults] == places


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str, newline: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(RUN.replace("# a run", "# größer").replace("\n", newline).encode(encoding))
    assert read_document(path).data == parse_document(RUN, "f").data


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"a: 1\nb: \xe9t\xe9\n", r":2: not UTF-8 text \(byte 0xe9\); save"),
        (b"\x80\x04\x95\x00\x00torch", "is binary"),
        (b"a: 1\x00", "is binary"),
        ("a: 1".encode("utf-16-le"), "is binary"),
        (b"\xff\xfea", "not UTF-16 text"),
        (b"\xff\xfea\x00\x00\x00", "is binary"),
        (b"", "is empty"),
    ],
)
def test_bytes_that_are_no_text(tmp_path: Path, raw: bytes, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(raw)
    with pytest.raises(UnreadableInput, match=message):
        read_document(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("a: 1")
    with pytest.raises(UnreadableInput, match=r"trian\.yaml: no such file; there is .*train\.yaml"):
        read_text(tmp_path / "trian.yaml")
    with pytest.raises(UnreadableInput, match=r"no such file$"):
        read_text(tmp_path / "nowhere" / "x.yaml")
    with pytest.raises(UnreadableInput, match="is a folder"):
        read_text(tmp_path)
    for name in ("a\0b", "x" * 5000, str(tmp_path / "train.yaml" / "x")):
        with pytest.raises(UnreadableInput, match="can't be read"):
            read_text(name)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").touch(mode=0o000)
    with pytest.raises(UnreadableInput, match="no permission"):
        read_text(tmp_path / "run.yaml")


def test_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(UnreadableInput, match="no permission to read it"):
        read_text(tmp_path / "run.yaml")


def test_large_files_are_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole: takes no space
    with pytest.raises(UnreadableInput, match=r"larger than 16\.00 MiB"):
        read_text(path)
    path.write_text("a: 1")
    assert read_text(path, limit=4) == "a: 1"
    with pytest.raises(UnreadableInput, match="larger than 3 B"):
        read_text(path, limit=3)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no such device")  # noqa: PTH110
def test_endless_devices_are_read_to_the_limit() -> None:
    with pytest.raises(UnreadableInput, match=r"/dev/zero is larger than 16\.00 MiB"):
        read_text("/dev/zero")
    with pytest.raises(UnreadableInput, match="is empty"):
        read_document("/dev/null")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(RUN.encode())))
    assert read_document("-").place("lora.rank") == "standard input:5 lora.rank"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * 99)))
    with pytest.raises(UnreadableInput, match="standard input is larger than 98 B"):
        read_text("-", limit=98)
    sys.stdin.close()
    with pytest.raises(UnreadableInput, match="standard input can't be read"):
        read_text("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UnreadableInput, match="standard input is closed"):
        read_text("-")


def test_a_run_file_takes_a_millisecond_or_two() -> None:
    text = "\n".join(f"key{i}: {{a: {i}, b: [x, y]}}" for i in range(30))
    start = time.process_time()
    for _ in range(20):
        parse_document(text, "f")
    assert (time.process_time() - start) / 20 < 0.02
