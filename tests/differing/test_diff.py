"""Differences: parts add up, every cause is named, versions under git, the comment that CI updates."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from memcalc import estimate
from memcalc.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Callable

Outcome = tuple[int, str, str]
A = "model: gpt2\nprecision: fp32\nbatch_size: 2\nseq_len: 512\ngpu: h100-80gb\n"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    """memcalc in a folder of its own: exit code, stdout, stderr."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> Outcome:
        code = main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def wrote(**files: str) -> None:
    for name, text in files.items():
        Path(f"{name}.yaml").write_text(text, "utf-8")


def git(*words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *who, *words], check=True, capture_output=True)


EDITS: dict[str, tuple[tuple[str, str], set[str]]] = {  # what is edited, and the paths named as causes
    "one key": (("seq_len: 512", "seq_len: 1024"), {"seq_len"}),
    "two keys": (("batch_size: 2\nseq_len: 512", "batch_size: 3\nseq_len: 1024"), {"batch_size", "seq_len"}),
    "below a key": (
        ("gpu", "sharding: {strategy: fsdp, reshard_after_forward: false}\ngpus: 2\ngpu"),
        {"gpus", "sharding"},
    ),
    "keys that go together": (("gpu", "lora: 8\nquantize: nf4\ngpu"), {"lora", "quantize"}),
    "another model": (("model: gpt2", "model: gpt2-medium"), {"model"}),
    "nothing that counts": (("gpu", "budget: {max_total: 1GiB}\ngpu"), set()),
}


@pytest.mark.parametrize("name", EDITS)
def test_causes_add_up_to_the_difference(name: str, run: Callable[..., Outcome]) -> None:
    edit, causes = EDITS[name]
    wrote(a=A, b=A.replace(*edit))
    document = json.loads(run("diff", "a.yaml", "b.yaml", "--format", "json")[1])
    before, after = (run["memory"] for run in document["runs"])
    by_part: dict[str, int] = {}
    for change in document["changes"]:
        by_part[change["component"]] = by_part.get(change["component"], 0) + change["after"] - change["before"]
    assert by_part.get("total", 0) == after["total"] - before["total"]
    for part, nbytes in after["at_peak"].items():
        assert by_part.get(part, 0) == nbytes - before["at_peak"][part]
    assert by_part.get("total", 0) == sum(delta for part, delta in by_part.items() if part != "total")
    named = {path for change in document["changes"] for path in change["cause"]["path"].split(", ")}
    assert {path.split(".")[0] for path in named} <= causes
    assert bool(named) == bool(causes)


def test_both_sides_are_what_estimate_says(run: Callable[..., Outcome]) -> None:
    wrote(a=A, b=A.replace("512", "1024"))
    document = json.loads(run("diff", "a.yaml", "b.yaml", "--format", "json")[1])
    assert [side["memory"] for side in document["runs"]] == [
        estimate(name).model_dump()["memory"] for name in ("a.yaml", "b.yaml")
    ]
    assert document["pairs"] == [{"name": "b.yaml", "before": 0, "after": 1, "error": ""}]


def test_a_line_says_what_did_it(run: Callable[..., Outcome]) -> None:
    wrote(a=A, b=A.replace("512", "1024"))
    lines = run("diff", "a.yaml", "b.yaml")[1].splitlines()
    activations = next(line for line in lines if "activations" in line)
    grown = [estimate(name).memory.at_peak.activations / 2**30 for name in ("a.yaml", "b.yaml")]
    assert f"+{grown[1] - grown[0]:.2f} GiB  seq_len 512 → 1024" in activations
    assert max(map(len, lines)) <= 80


def test_against_a_revision(run: Callable[..., Outcome]) -> None:
    wrote(a=A, gone=A, same=A)
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    wrote(a=A.replace("512", "1024"), new=A)
    Path("gone.yaml").unlink()
    code, out, _ = run("diff", "--base", "HEAD", "a.yaml", "same.yaml", "new.yaml", "gone.yaml", "--format", "json")
    document = json.loads(out)
    assert code == 0
    assert [(pair["name"], pair["before"], pair["after"]) for pair in document["pairs"]] == [
        ("a.yaml", 0, 1), ("same.yaml", 2, 3), ("new.yaml", None, 4), ("gone.yaml", 5, None),
    ]  # fmt: skip
    assert document["runs"][0]["source"] == "HEAD:a.yaml"
    assert {change["name"] for change in document["changes"]} == {"a.yaml", "new.yaml", "gone.yaml"}


def test_what_the_budget_file_sets_holds_on_both_sides_as_in_a_check(run: Callable[..., Outcome]) -> None:
    wrote(a=A, memcalc="configs: [a.yaml]\nbudgets: [{configs: [a.yaml], set: {optimizer: lion, seq_len: 64}}]\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    wrote(a=A.replace("512", "1024"))
    document = json.loads(run("diff", "--base", "HEAD", "--format", "json")[1])
    checked = json.loads(run("check", "--max-total", "1GiB", "--format", "json")[1])
    assert [side["run"]["optimizer"] for side in document["runs"]] == ["lion", "lion"]
    assert [side["run"]["seq_len"] for side in document["runs"]] == [512, 1024]  # the config's own wins
    assert document["runs"][1]["memory"]["total"] == checked["results"][0]["total"]


def test_files_that_a_config_names_are_those_of_the_revision(run: Callable[..., Outcome]) -> None:
    config: dict[str, Any] = {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 1000}
    wrote(a="model: ./config.json\nprecision: fp32\nseq_len: 64\n")
    Path("config.json").write_text(json.dumps(config), "utf-8")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    Path("config.json").write_text(json.dumps({**config, "n_layer": 4}), "utf-8")
    document = json.loads(run("diff", "--base", "HEAD", "a.yaml", "--format", "json")[1])
    parameters = [side["model"]["parameters"] for side in document["runs"]]
    layer = 12 * 64 * 64 + 13 * 64  # qkv, output, both of the MLP; biases 9 h; two norms 4 h
    assert parameters[1] - parameters[0] == 2 * layer
    rounding = 7 * 256  # the allocator rounds to 512 bytes: six vectors of 64 and one of 192 numbers
    weights = [change for change in document["changes"] if change["component"] == "weights"]
    assert sum(change["after"] - change["before"] for change in weights) == 2 * (layer * 4 + rounding)
    assert {change["cause"]["path"] for change in weights} == {"files that it names"}


@pytest.mark.parametrize(("growth", "code"), [("any", 1), ("1KiB", 1), ("10GiB", 0), ("1%", 1), ("90%", 0)])
def test_growth_can_fail(growth: str, code: int, run: Callable[..., Outcome]) -> None:
    wrote(a=A, b=A.replace("512", "640"))
    assert run("diff", "a.yaml", "b.yaml", "--fail-on", growth)[0] == code
    assert run("diff", "b.yaml", "a.yaml", "--fail-on", growth)[0] == 0


def test_a_comment_has_a_hidden_marker(run: Callable[..., Outcome]) -> None:
    wrote(a=A, b=A.replace("512", "1024"))
    out = run("diff", "a.yaml", "b.yaml", "--format", "markdown", "--marker", "mine")[1]
    assert out.startswith("<!-- mine -->\n### memcalc · b.yaml: ")
    assert "|  | before | after | change | because |\n|---|---:|---:|---:|---|\n" in out


WRONG: list[tuple[str, int, str]] = [
    ("diff a.yaml", 2, "diff compares two configs, and 1 are named"),
    ("diff a.yaml nowhere.yaml", 4, "nowhere.yaml: no such file"),
    ("diff --base nothing a.yaml", 2, "--base nothing: no such revision"),
    ("diff --base HEAD elsewhere.yaml", 2, "elsewhere.yaml is neither here nor in HEAD"),
    ("diff --base --output a.yaml", 2, "--base --output: not a revision"),
    ("diff a.yaml a.yaml --fail-on lots", 2, "--fail-on: 'lots' is not a size"),
]


@pytest.mark.parametrize(("line", "code", "says"), WRONG, ids=[line for line, _, _ in WRONG])
def test_bad_input(line: str, code: int, says: str, run: Callable[..., Outcome]) -> None:
    wrote(a=A)
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    got, _, err = run(*line.split())
    assert got == code
    assert says in err


def test_without_a_repository(run: Callable[..., Outcome]) -> None:
    wrote(a=A)
    got, _, err = run("diff", "--base", "HEAD", "a.yaml")
    assert got == 2
    assert "not a git repository" in err
