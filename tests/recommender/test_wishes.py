"""What is wished for: numbers and kinds of GPUs, methods, where adapters go."""

from __future__ import annotations

import pytest

from memcalc.errors import RunInvalid
from memcalc.recommender.wishes import Wishes, by_method, cards_of, counts_of, methods, numbers, suited
from memcalc.run.validation import parse_run

NUMBERS = [
    ("8", (8,)),
    ("1,2,4", (1, 2, 4)),
    ("8..64", (8, 16, 32, 64)),
    ("3..20", (3, 6, 12, 20)),
    ("1,8..16", (1, 8, 16)),
]


@pytest.mark.parametrize(("text", "expected"), NUMBERS)
def test_numbers_of_gpus(text: str, expected: tuple[int, ...]) -> None:
    assert numbers(text, "gpus") == expected


@pytest.mark.parametrize("text", ["", "0", "-1", "8..4", "a", "1,,2", "8..", "1e99"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(RunInvalid, match="gpus"):
        numbers(text, "gpus")


def test_how_many_gpus_without_being_told() -> None:
    """A node first, then a cluster; one GPU where the GPU itself is the question."""
    run = parse_run({"model": "gpt2", "gpu": "h100-80gb"})
    assert counts_of(run, Wishes(), cards_of(run, Wishes())) == ((1, 2, 4, 8), (16, 32, 64))
    assert counts_of(parse_run({"model": "gpt2", "gpu": "h100-80gb", "gpus": 4}), Wishes(), ()) == ((4,), ())
    open_ = parse_run({"model": "gpt2"})
    assert counts_of(open_, Wishes(), cards_of(open_, Wishes()))[0] == (1,)
    assert {card.vendor for card in cards_of(open_, Wishes())} == {"nvidia", "amd", "intel"}


def test_methods_in_order_of_intrusiveness() -> None:
    assert methods(parse_run({"model": "gpt2"}), None) == ("full", "lora", "qlora")
    assert methods(parse_run({"model": "gpt2", "lora": 8}), None) == ("lora", "qlora")
    assert methods(parse_run({"model": "gpt2", "lora": 8}), "full") == ("full",)


def test_adapters_go_where_a_model_takes_them() -> None:
    """All linear layers; of Falcon-H1, whose kernels bypass out_proj, those of attention."""
    plain = by_method(parse_run({"model": "llama-3-8b"}), "lora")
    assert suited(plain, None) == plain
    assert plain.lora
    assert plain.lora.targets == "all-linear"
    hybrid = suited(by_method(parse_run({"model": "falcon-h1-3b"}), "lora"), None)
    assert hybrid.lora
    assert hybrid.lora.targets == ("q_proj", "k_proj", "v_proj", "o_proj")
