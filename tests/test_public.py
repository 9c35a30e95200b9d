"""The public API: what is listed is there, costs nothing to import, and gives what the commands give."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import memcalc
from memcalc.__main__ import main

if TYPE_CHECKING:
    from pathlib import Path

A = "model: gpt2\nprecision: fp32\nbatch_size: 2\nseq_len: 512\ngpu: h100-80gb\n"


@pytest.mark.parametrize("name", memcalc.__all__)
def test_what_is_listed_is_there(name: str) -> None:
    assert getattr(memcalc, name) is not None


def test_the_import_loads_nothing_of_the_rest() -> None:
    told = "import sys, memcalc; print(sorted(m for m in sys.modules if m.startswith('memcalc')), 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout == "['memcalc'] False\n"


def test_check_and_diff_give_the_commands_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(A, "utf-8")
    (tmp_path / "b.yaml").write_text(A.replace("512", "1024"), "utf-8")
    a, b = str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")
    main(["diff", a, b, "--format", "json"])
    assert memcalc.diff(a, b).model_dump() == json.loads(capsys.readouterr().out)
    found = memcalc.check([a, b], budget={"max_total": 1, "components": {"activations": "1TiB"}})
    assert [[limit.passed for limit in result.limits] for result in found.results] == [[False, True, True]] * 2
    assert memcalc.check(a, budget={"max_gpus": 1}).passed
    assert not memcalc.check(a, budget={"max_gpus": 1}, over={"gpus": 2}).passed
    with pytest.raises(memcalc.RunInvalid, match="did you mean max_total"):
        memcalc.check(a, budget={"max_totl": 1})
