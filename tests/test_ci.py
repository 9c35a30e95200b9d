"""At home in CI: the example's budgets and workflow, the action's scripts as GitHub runs them, the pre-commit hook."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from memcalc import estimate
from memcalc.__main__ import main

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "ci"
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
WORKFLOW: dict[str, Any] = yaml.safe_load((EXAMPLE / ".github/workflows/memory.yml").read_text("utf-8"))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example as a repository of its own, committed."""
    place = tmp_path / "repository"
    shutil.copytree(EXAMPLE, place)
    monkeypatch.chdir(place)
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    return place


def git(*words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *who, *words], check=True, capture_output=True)


def script(name: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """One of the action's scripts, with memcalc, a `gh` that notes what it is asked, and GitHub's own variables."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    (tools / "memcalc").write_text(f'#!/bin/sh\nexec {sys.executable} -m memcalc "$@"\n', "utf-8")
    (tools / "gh").write_text(
        f'#!/bin/sh\necho "$@" >>{folder}/asked\n[ -f {folder}/old ] && cat {folder}/old\nexit 0\n', "utf-8"
    )
    for tool in ("memcalc", "gh"):
        (tools / tool).chmod(0o755)
    known = {
        **os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tools}:{os.environ['PATH']}", "MEMCALC": str(tools / "memcalc"),
        "RUNNER_TEMP": str(folder), "GITHUB_OUTPUT": str(folder / "output"), "GITHUB_STEP_SUMMARY": str(folder / "summary"),
        "GITHUB_REPOSITORY": "owner/name",
    }  # fmt: skip
    return subprocess.run(
        ["bash", str(ROOT / ".ci" / name)], env={**known, **environment}, capture_output=True, text=True, check=False
    )


def test_the_example_fails_where_its_comments_say(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--format", "json"]) == 1
    results = json.loads(capsys.readouterr().out)["results"]
    assert [(result["name"], result["passed"]) for result in results] == [
        ("train/full-8b", True), ("train/qlora-8b", False),
    ]  # fmt: skip
    assert results[1]["fix"]["after"] == "full"
    assert {limit["where"] for limit in results[1]["limits"]} == {
        "memcalc.yaml:5",
        "memcalc.yaml:12",
        "memcalc.yaml:13",
        "rtx-4090",
    }
    assert repository.name in os.fspath(Path.cwd())


def test_the_readme_shows_the_failing_example(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    main(["check"])
    assert f"$ memcalc check\n{capsys.readouterr().out}```" in (ROOT / "README.md").read_text("utf-8")
    assert repository.exists()


def test_the_action_checks_and_says_so_in_every_place(repository: Path, tmp_path: Path) -> None:
    done = script("action-check", tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("::error file=memcalc.yaml,line=12,")
    assert "passed=false\n" in (tmp_path / "output").read_text("utf-8")
    assert "❌" in (tmp_path / "summary").read_text("utf-8")
    report = json.loads((tmp_path / "memcalc-check.json").read_text("utf-8"))
    assert (report["kind"], report["passed"]) == ("check", False)
    assert script("action-check", tmp_path, FAIL_ON="never").returncode == 0
    assert script("action-check", tmp_path, CONFIGS="train/full*.yaml").returncode == 0
    assert repository.exists()


@pytest.mark.parametrize(
    ("fail_on", "grows", "code"), [("budget", True, 0), ("growth", True, 1), ("growth", False, 0), ("500%", True, 0)]
)
def test_the_action_compares(fail_on: str, grows: bool, code: int, repository: Path, tmp_path: Path) -> None:
    config = repository / "train" / "full-8b.yaml"
    config.write_text(config.read_text("utf-8").replace("batch_size: 4", f"batch_size: {8 if grows else 2}"), "utf-8")
    done = script("action-diff", tmp_path, BASE="HEAD", FAIL_ON=fail_on, COMMENT="true", PULL_REQUEST="7")
    assert done.returncode == code, done.stderr
    summary = (tmp_path / "summary").read_text("utf-8")
    assert summary.startswith("<!-- memcalc-diff -->\n### memcalc · train/full-8b.yaml: ")
    assert f"batch_size 4 → {8 if grows else 2}" in summary
    asked = (tmp_path / "asked").read_text("utf-8").splitlines()
    assert asked[0].startswith("api --paginate repos/owner/name/issues/7/comments --jq")
    assert asked[1] == f"api repos/owner/name/issues/7/comments --field body=@{tmp_path}/memcalc-diff.md"


def test_an_old_comment_is_updated(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "old").write_text("4711\n", "utf-8")
    script("action-diff", tmp_path, BASE="HEAD", COMMENT="true", PULL_REQUEST="7")
    asked = (tmp_path / "asked").read_text("utf-8").splitlines()
    assert asked[1].startswith("api --method PATCH repos/owner/name/issues/comments/4711 ")
    assert repository.exists()


def test_no_comment_unless_asked_for(repository: Path, tmp_path: Path) -> None:
    assert script("action-diff", tmp_path, BASE="HEAD", PULL_REQUEST="7").returncode == 0
    assert not (tmp_path / "asked").exists()
    assert repository.exists()


def test_the_action_is_whole() -> None:
    """Scripts it runs are there, inputs it reads are declared, and it installs its own ref."""
    steps = ACTION["runs"]["steps"]
    text = (ROOT / "action.yml").read_text("utf-8")
    assert all((ROOT / ".ci" / name).stat().st_mode & 0o100 for name in re.findall(r"\.ci/([\w-]+)", text))
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(ACTION["inputs"])
    assert any(
        'pip install --quiet --disable-pip-version-check "$GITHUB_ACTION_PATH"' in step.get("run", "") for step in steps
    )


def test_the_workflow_gives_inputs_that_there_are() -> None:
    steps = WORKFLOW["jobs"]["memcalc"]["steps"]
    assert set(steps[-1]["with"]) <= set(ACTION["inputs"])
    assert WORKFLOW["permissions"]["pull-requests"] == "write"
    assert steps[0]["with"]["fetch-depth"] == 0


def test_the_hook_is_a_command_that_takes_files(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text("utf-8"))
    files = [str(path.relative_to(repository)) for path in sorted(repository.rglob("*")) if path.is_file()]
    taken = [name for name in files if re.search(hook["files"], name)]
    assert taken == ["train/full-8b.yaml", "train/qlora-8b.yaml"]
    assert main([*hook["entry"].split()[1:], *taken]) == 1
    assert "train/qlora-8b.yaml" in capsys.readouterr().out
    assert estimate(taken[0]).memory.total < 76 * 2**30
