"""recommend, max and compare as commands: what they print, where, and the exit code."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from memcalc.cli.asked import choices
from memcalc.cli.recommend import Watcher
from memcalc.recommender import Recommendation

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import Outcome

RECOMMEND = "recommend gpt2 --gpu 8GiB --gpus 1 --keep attention --keep offload"
MAX = "max batch_size seq_len gpt2 --gpu 8GiB --sweep seq_len=256,512"
COMPARE = "compare gpt2 --gpu 8GiB --sweep optimizer=adamw,adamw-8bit"


@pytest.mark.parametrize("line", [RECOMMEND, MAX, COMPARE])
def test_every_format(line: str, run: Callable[..., Outcome]) -> None:
    kind = line.partition(" ")[0]
    code, out, err = run(*line.split())
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b[" not in out
    document = json.loads(run(*line.split(), "--format", "json")[1])
    assert (document["schema_version"], document["kind"]) == ("1.0", kind)
    assert yaml.safe_load(run(*line.split(), "--format", "yaml")[1]) == document
    assert run(*line.split(), "--format", "json")[1] == json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    rows = list(csv.reader(io.StringIO(run(*line.split(), "--format", "csv")[1])))
    assert len(rows) == 1 + len(document.get("recommendations") or document.get("rows") or document.get("runs"))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert run(*line.split(), "--format", "markdown")[1].startswith("### ")


def test_the_document_of_a_recommendation(run: Callable[..., Outcome]) -> None:
    document = json.loads(run(*RECOMMEND.split(), "--format", "json")[1])
    assert list(document) == [
        "schema_version", "kind", "asked", "task", "model", "searched", "fitting", "recommendations", "as_asked", "pareto",
        "rejected", "nearest_miss", "lacks", "search", "optimizers", "advice", "published", "assumptions", "warnings",
    ]  # fmt: skip
    assert (document["kind"], document["asked"]["model"]) == ("recommend", "gpt2")
    assert document["searched"] >= document["fitting"] > 0
    for row in document["recommendations"] + document["pareto"]:
        memory = row["memory"]
        assert memory["total"] + row["verdict"]["headroom"] == row["gpu"]["usable"]
        assert sum(memory["at_peak"].values()) == memory["peak_allocated"]
        assert {"tokens_per_second", "step_seconds"} <= row["throughput"].keys() if row["throughput"] else True
        assert all({"path", "from", "to", "saves", "why"} <= change.keys() for change in row["changes"])
    assert Recommendation.model_validate(document).model_dump() == document
    properties = Recommendation.model_json_schema()["$defs"]["Switch"]["properties"]
    assert {"path", "from", "to", "saves", "why"} <= properties.keys()


def test_what_a_person_reads(run: Callable[..., Outcome]) -> None:
    _, out, _ = run(*RECOMMEND.split(), "--price", "2")
    assert "What fits" in out
    assert "as asked  1 x 8GiB" in out
    assert "least intrusive" in out
    assert "Optimizers for this task: language" in out
    assert "for ranking" in out


def test_no_solution_exits_with_1_and_names_the_nearest_miss(run: Callable[..., Outcome], tmp_path: Path) -> None:
    code, out, err = run("recommend", "llama-3-70b", "--gpu", "t4", "--gpus", "1", "--method", "qlora")
    assert (code, err) == (1, "")
    assert "Nothing fits: the nearest miss takes" in out
    assert "more than there is on t4" in out
    target = tmp_path / "answer.json"
    words = ("max", "batch_size", "llama-3-8b", "--gpu", "8GiB", "--format", "json", "--output", str(target))
    assert run(*words) == (1, "", "")
    assert json.loads(target.read_text("utf-8"))["rows"][0]["value"] is None


def test_a_run_file_and_flags(run: Callable[..., Outcome], tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("model: gpt2\nseq_len: 128\ngpu: 8GiB\noptimizer: lion\n", "utf-8")
    words = ("recommend", str(file), "--gpus", "1", "--keep", "optimizer", "--format", "json")
    document = json.loads(run(*words)[1])
    for row in document["recommendations"]:
        assert (row["run"]["seq_len"], row["run"]["optimizer"]) == (128, "lion")
    both = json.loads(run("compare", str(file), "gpt2", "--gpu", "8GiB", "--format", "json")[1])
    assert [row["name"] for row in both["runs"]] == [str(file), "gpt2"]
    largest = json.loads(run("max", str(file), "batch_size", "--format", "json")[1])
    assert largest["rows"][0]["value"] > 1


VARIED: list[tuple[str, list[Any]]] = [
    ("optimizer=adamw,lion", ["adamw", "lion"]),
    ("batch_size=1..8", [1, 2, 4, 8]),
    ("optimizer={name: adamw, implementation: fused},lion", [{"name": "adamw", "implementation": "fused"}, "lion"]),
]


@pytest.mark.parametrize(("text", "expected"), VARIED)
def test_values_of_a_key(text: str, expected: list[Any]) -> None:
    assert choices(text, "--vary") == (text.partition("=")[0], tuple(expected))


def test_help_loads_no_search() -> None:
    for command in ("recommend", "max", "compare"):
        script = (f"import sys; from memcalc.__main__ import main; main([{command!r}, '--help']); "
                  "print(*sys.modules, file=sys.stderr)")  # fmt: skip
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        loaded = set(done.stderr.split())
        assert not {"memcalc.recommender", "memcalc.maximum", "memcalc.comparison", "rich", "pydantic"} & loaded, (
            command
        )


def test_a_bar_where_a_terminal_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr, once half a second has passed, and gone when the answer comes; nothing where it is no terminal."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    watcher = Watcher()
    watcher.saw(1, 10)
    assert screen.getvalue() == ""
    watcher.next -= 1
    watcher.saw(5, 10)
    assert "5 of 10 shapes" in screen.getvalue()
    watcher.done()
    assert screen.getvalue().endswith("\r\x1b[K")
    monkeypatch.setattr(sys, "stderr", pipe := io.StringIO())
    watcher.saw(6, 10)
    assert pipe.getvalue() == ""
