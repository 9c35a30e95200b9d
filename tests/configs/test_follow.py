"""Files that refer to others: found beside them, bounded, and nothing in them is run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from memcalc.configs.documents import open_document
from memcalc.configs.follow import find, follow, interpolated, over_base
from memcalc.errors import UnreadableInput
from tests.configs.reader import document

if TYPE_CHECKING:
    from pathlib import Path

    from memcalc.configs.documents import Document


def base(made: Document) -> str | None:
    return made.data.get("base")


def test_a_relative_name_is_looked_for_beside_then_here_then_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = tmp_path / "examples" / "llama"
    inner.mkdir(parents=True)
    (tmp_path / "deepspeed").mkdir()
    (tmp_path / "deepspeed" / "zero3.json").write_text('{"a": "above"}')
    made = document("x: 1", "train.yaml", inner)
    monkeypatch.chdir(inner)
    assert follow(made, "deepspeed/zero3.json").data == {"a": "above"}
    (inner / "deepspeed").mkdir()
    (inner / "deepspeed" / "zero3.json").write_text('{"a": "beside"}')
    assert follow(made, "deepspeed/zero3.json").data == {"a": "beside"}
    assert find(made, "nothing.json") is None
    assert find(made, "a\0b") is None
    assert find(made, "https://example.com/zero3.json") is None
    with pytest.raises(UnreadableInput, match=r"refers to 'nothing\.json'"):
        follow(made, "nothing.json")


def test_a_base_lies_under_and_keeps_its_places(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\nlr: 1\nmodel: {size: 7}\n")
    (tmp_path / "b.yaml").write_text("base: c.yaml\nlr: 2\nmodel: {size: 1, heads: 8}\n")
    (tmp_path / "c.yaml").write_text("steps: 9\n")
    made = over_base(open_document(tmp_path / "a.yaml"), base)
    assert made.data == {"base": "b.yaml", "lr": 1, "model": {"size": 7, "heads": 8}, "steps": 9}
    assert made.where("model.heads") == (str(tmp_path / "b.yaml"), 3)
    assert made.where("model.size") == (str(tmp_path / "a.yaml"), 3)
    assert made.where("steps") == (str(tmp_path / "c.yaml"), 1)


def test_bases_that_go_round_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: a.yaml\n")
    with pytest.raises(UnreadableInput, match="each the base of the next"):
        over_base(open_document(tmp_path / "a.yaml"), base)


def test_references_within_a_file_are_followed() -> None:
    made = interpolated(document("""\
a: {b: 4, c: "${a.b}", d: "${.b}"}
text: "out/${a.b}/x"
chain: "${a.c}"
default: "${oc.select:no.such,7}"
there: "${oc.select:a.b,7}"
env: "${oc.env:HOME,/none}"
unknown: "${now:%Y}"
missing: "${not.there}"
list: ["${a.b}", 1]
"""))  # fmt: skip
    assert made.data["a"] == {"b": 4, "c": 4, "d": 4}
    assert made.data["text"] == "out/4/x"
    assert made.data["chain"] == 4
    assert (made.data["default"], made.data["there"], made.data["env"]) == (7, 4, "/none")
    assert (made.data["unknown"], made.data["missing"]) == ("${now:%Y}", "${not.there}")
    assert made.data["list"] == [4, 1]


@pytest.mark.parametrize("text", ['a: "${a}"', 'a: "x${b}"\nb: "y${a}"', 'a: "${b}${b}"\nb: "${c}${c}"\nc: "${a}${a}"'])
def test_references_that_go_round_come_to_an_end(text: str) -> None:
    assert len(str(interpolated(document(text)).data)) < 100_000


def test_nothing_in_a_reference_is_run() -> None:
    made = interpolated(document('a: "${eval:__import__(\'os\').getcwd()}"\nb: "$(ls)"\nc: "{{ 1+1 }}"\n'))
    assert made.data == {"a": "${eval:__import__('os').getcwd()}", "b": "$(ls)", "c": "{{ 1+1 }}"}
