"""What the page of a run that is too big says would make it fit."""

from __future__ import annotations

import pytest

from memcalc.__main__ import main

TOO_BIG = ["estimate", "llama-3-8b", "--lora", "16", "--gpu", "rtx-4090"]
CASES = [
    (TOO_BIG, "fix: checkpointing: none → full saves"),
    ([*TOO_BIG, "--checkpointing", "full"], ""),  # it fits
    (["estimate", "llama-3-8b", "--lora", "16"], ""),  # on what is not said
    (["estimate", "llama-3-70b", "--gpu", "rtx-4090"], "no single change is enough; the furthest goes"),
    (["estimate", "7b", "--gpu", "rtx-4090"], "memcalc recommend"),
]


@pytest.mark.parametrize(("words", "said"), CASES)
def test_a_page_that_says_no_says_what_would_do(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert said in told
    assert ("memcalc recommend" in told) == bool(said)
    assert ("✗ too big" in told) == bool(said)
