"""Whole checks: where budgets are found, what holds for which config, what a failing one is told, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from memcalc import estimate
from memcalc.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Callable

Outcome = tuple[int, str, str]
SMALL = "model: gpt2\nprecision: fp32\n"  # 3.0 GiB in all
FULL = "model: llama-3-8b\nprecision: bf16\ngpu: rtx-4090\n"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Outcome]:
    """memcalc in a folder of its own: exit code, stdout, stderr."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()

    def call(*words: str) -> Outcome:
        code = main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def wrote(files: dict[str, str]) -> None:
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, "utf-8")


def answer(outcome: Outcome) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(outcome[1])
    return document


BUDGETS = {
    "memcalc.yaml": "configs: ['*.yaml']\nbudget:\n  max_total: 1GiB\n",
    "pyproject.toml": "[project]\nname = 'x'\n\n[tool.memcalc.budget]\nmax_total = '1GiB'\n",
}


@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_file_is_found_and_told_with_its_line(name: str, run: Callable[..., Outcome]) -> None:
    wrote({name: BUDGETS[name], "train/a.yaml": SMALL})
    outcome = run("check", "train/a.yaml", "--format", "json")
    result = answer(outcome)["results"][0]
    total = estimate("train/a.yaml").memory.total
    assert outcome[0] == 1
    assert result["limits"][0]["where"] == f"{name}:{3 if name.endswith('yaml') else 5}"
    assert (result["limits"][0]["actual"], result["limits"][0]["excess"]) == (total, total - 2**30)
    assert not result["passed"]


def test_configs_of_a_budget_file_and_its_groups(run: Callable[..., Outcome]) -> None:
    wrote({
        "memcalc.yaml": "configs: train/*.yaml\nbudget: {max_total: 1GiB, max_gpus: 4}\nset: {gpus: 2}\n"
                        "budgets:\n  - configs: train/b*.yaml\n    budget: {max_total: 9GiB}\n    set: {gpus: 3}\n",
        "train/a.yaml": SMALL, "train/b.yaml": SMALL, "train/c.yaml": SMALL + "budget: {max_total: 8GiB, max_gpus: 1}\n",
    })  # fmt: skip
    outcome = run("check", "--format", "json")
    limits = {
        r["source"]: {x["path"]: (x["limit"], x["actual"]) for x in r["limits"]} for r in answer(outcome)["results"]
    }
    gib = 2**30
    assert {source: limit["max_total"][0] for source, limit in limits.items()} == {
        "train/a.yaml": gib, "train/b.yaml": 9 * gib, "train/c.yaml": 8 * gib,
    }  # fmt: skip
    assert {source: limit["max_gpus"] for source, limit in limits.items()} == {
        "train/a.yaml": (4, 2), "train/b.yaml": (4, 3), "train/c.yaml": (1, 2),
    }  # fmt: skip


def test_what_is_set_is_for_what_a_config_does_not_say(run: Callable[..., Outcome]) -> None:
    wrote({
        "memcalc.yaml": "set: {gpus: 4, seq_len: 64}\nbudget: {max_gpus: 1}\n",
        "a.yaml": SMALL + "gpus: 1\n", "b.yaml": SMALL,
        "c.yaml": "base_model: gpt2\nmicro_batch_size: 1\nsequence_len: 128\ndatasets: [{path: x, type: alpaca}]\n",
    })  # fmt: skip
    results = answer(run("check", "a.yaml", "b.yaml", "c.yaml", "--format", "json"))["results"]
    assert [(r["limits"][0]["actual"], r["passed"]) for r in results] == [(1, True), (4, False), (4, False)]
    assert [r["error"] for r in results] == ["", "", ""]


@pytest.mark.parametrize("most", ["1MiB", "90GiB"])
def test_keys_that_were_not_understood_are_told_whether_it_passes_or_not(
    most: str, run: Callable[..., Outcome]
) -> None:
    wrote(
        {"c.yaml": "base_model: gpt2\nmicro_batch_size: 1\nsequence_lenght: 128\ndatasets: [{path: x, type: alpaca}]\n"}
    )
    asked = ("check", "c.yaml", "--max-total", most)
    warning = answer(run(*asked, "--format", "json"))["results"][0]["warnings"][-1]
    assert "not counted: sequence_lenght (line 3; is it sequence_len?)" in warning
    for form in ("table", "markdown", "github"):
        assert warning in " ".join(run(*asked, "--format", form)[1].split())
    answered = json.loads(run("recommend", "c.yaml", "--gpu", "rtx-4090", "--keep", "optimizer", "--format", "json")[1])
    assert warning in [note["message"] for note in answered["warnings"]]


def test_flags_win_over_every_budget(run: Callable[..., Outcome]) -> None:
    wrote({"a.yaml": SMALL + "budget: {max_total: 1MiB}\n"})
    assert run("check", "a.yaml", "--max-total", "9GiB")[0] == 0
    assert run("check", "a.yaml")[0] == 1
    assert run("check", "a.yaml", "--max-total", "9GiB", "--max-gpus", "1", "--gpus", "2")[0] == 1


def test_a_failure_names_excess_place_largest_part_and_a_fix_that_does_it(run: Callable[..., Outcome]) -> None:
    wrote({"a.yaml": "model: llama-3-8b\nlora: 16\nquantize: nf4\ngpu: rtx-4090\nbudget:\n  max_total: 12GiB\n"})
    code, out, _ = run("check", "a.yaml")
    flat = " ".join(out.split())
    assert code == 1
    assert "over the limit of 12.00 GiB (a.yaml:6)" in flat
    assert "largest: activations" in flat
    fix = answer(run("check", "a.yaml", "--format", "json"))["results"][0]["fix"]
    assert (fix["path"], fix["after"], fix["enough"]) == ("checkpointing", "full", True)
    fixed = estimate({"model": "llama-3-8b", "lora": 16, "quantize": "nf4", "gpu": "rtx-4090", "checkpointing": "full"})
    assert fix["total"] == fixed.memory.total <= 12 * 2**30
    assert f"fix: checkpointing: none → full saves {fix['saves'] / 2**30:.2f} GiB" in flat


def test_the_furthest_change_is_named_where_none_is_enough(run: Callable[..., Outcome]) -> None:
    wrote({"a.yaml": FULL})
    result = answer(run("check", "a.yaml", "--max-total", "1GiB", "--format", "json"))["results"][0]
    assert not result["fix"]["enough"]
    assert result["fix"]["total"] > 2**30
    assert "no single change is enough" in run("check", "a.yaml", "--max-total", "1GiB")[1]


def test_one_bad_config_does_not_hide_the_others(run: Callable[..., Outcome]) -> None:
    wrote({"a.yaml": SMALL, "b.yaml": "model: gpt2\nbatch_size: 0\n", "c.yaml": "model: [\n"})
    code, out, err = run("check", "*.yaml", "--max-total", "9GiB")
    assert (code, err) == (4, "")
    assert "1 of 3 within budget" in out
    assert "b.yaml:2 batch_size: 0 is out of range" in out


def test_annotations_stand_where_the_limit_is_written(run: Callable[..., Outcome]) -> None:
    wrote({"memcalc.yaml": "budget: {max_total: 1GiB}\n", "a.yaml": SMALL})
    line = run("check", "a.yaml", "--format", "github")[1].splitlines()[0]
    assert line.startswith("::error file=memcalc.yaml,line=1,title=memcalc%3A a.yaml::total: ")
    assert "%25) over the limit of 1.00 GiB" in line
    assert "\n" not in line


def test_the_step_summary_is_appended(run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    wrote({"a.yaml": SMALL, "summary.md": "before\n"})
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    run("check", "a.yaml", "--max-total", "1GiB", "--format", "github")
    text = Path("summary.md").read_text("utf-8")
    assert text.startswith("before\n### memcalc: over budget")
    assert "| ❌ | `a.yaml` |" in text


def test_junit_has_a_suite_per_config_and_a_case_per_limit(run: Callable[..., Outcome]) -> None:
    wrote({"a.yaml": SMALL, "b&<.yaml": SMALL, "c.yaml": "model: nope\n"})
    code, out, _ = run(
        "check", "a.yaml", "b&<.yaml", "c.yaml", "--max-total", "1GiB", "--max-gpus", "8", "--format", "junit"
    )
    root = ET.fromstring(out)
    assert code == 2
    assert dict(root.attrib) == {"name": "memcalc", "tests": "5", "failures": "2", "errors": "1"}
    assert [suite.get("name") for suite in root] == ["a.yaml", "b&<.yaml", "c.yaml"]
    assert [(case.get("name"), case.find("failure") is None) for case in root[0]] == [
        ("max_total", False),
        ("max_gpus", True),
    ]
    assert root[2][0].find("error") is not None


def test_markdown_is_a_table(run: Callable[..., Outcome]) -> None:
    wrote({"a.yaml": SMALL})
    out = run("check", "a.yaml", "--max-total", "1GiB", "--format", "markdown")[1]
    total = f"{estimate('a.yaml').memory.total / 2**30:.2f} GiB"
    assert f"| ❌ | `a.yaml` | {total} | total {total} / 1.00 GiB |" in out


WRONG: list[tuple[dict[str, str], str, int, str]] = [  # files, command line, exit code, what stderr says
    ({}, "check", 2, "which configs? Name some"),
    ({}, "check nothing/*.yaml", 4, "no config matches"),
    ({"memcalc.yaml": "budgit: {}\n"}, "check gpt2", 3, "memcalc.yaml:1 budgit: unknown key; did you mean budget"),
    ({"memcalc.yaml": "max_total: 1GiB\n"}, "check gpt2", 3, "memcalc.yaml:1 max_total: a limit stands under `budget`"),
    ({"memcalc.yaml": "budget: {max_totl: 1GiB}\n"}, "check gpt2", 3, "unknown key; did you mean max_total"),
    (
        {"memcalc.yaml": "budgets: {a.yaml: {}}\n"},
        "check gpt2",
        3,
        "memcalc.yaml:1 budgets: {'a.yaml': {}} is not a list; write [a, b], or",
    ),
    ({"memcalc.yaml": "budget: {max_total: lots}\n"}, "check gpt2", 3, "memcalc.yaml:1: 'lots' is not a size"),
    ({"memcalc.yaml": "budget: {components: {weigths: 1}}\n"}, "check gpt2", 3, "did you mean weights?"),
    ({}, "check gpt2 --budget nowhere.yaml", 4, "nowhere.yaml: no such file"),
    ({}, "check gpt2 --max-total lots", 3, "--max-total"),
    ({}, "check gpt2 --format junti", 2, "did you mean junit?"),
]


@pytest.mark.parametrize(("files", "line", "code", "says"), WRONG, ids=[line for _, line, _, _ in WRONG])
def test_bad_input(files: dict[str, str], line: str, code: int, says: str, run: Callable[..., Outcome]) -> None:
    wrote(files)
    got, out, err = run(*line.split())
    assert got == code
    assert says in err + out
    assert "Traceback" not in err
