"""Values however they are written: YAML 1.1 and people disagree about numbers and booleans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from memcalc.configs import words

if TYPE_CHECKING:
    from collections.abc import Callable

READ: list[tuple[Callable[[Any], Any], Any, Any]] = [
    (words.number, "2e-5", 2e-5), (words.number, "1_000", 1000.0), (words.number, 3, 3.0), (words.whole, "8", 8),
    (words.whole, 5e8, 500_000_000), (words.whole, "5e8", 500_000_000), (words.whole, 8.0, 8), (words.truth, "no", False),
    (words.truth, "NO", False), (words.truth, None, False), (words.truth, "true", True), (words.truth, 1, True),
    (words.truth, "off", False), (words.text, False, "no"), (words.text, True, "yes"), (words.text, None, ""),
    (words.text, " bf16 ", "bf16"), (words.names, "a, b c", ["a", "b", "c"]), (words.names, ["a", "b"], ["a", "b"]),
    (words.names, None, []), (words.mapping, None, {}), (words.mapping, {"a": 1}, {"a": 1}),
]  # fmt: skip
REFUSED: list[tuple[Callable[[Any], Any], Any]] = [
    (words.number, "fast"), (words.number, True), (words.number, [1]), (words.number, "inf"), (words.whole, 1.5),
    (words.whole, "nan"), (words.whole, 1e300),
    (words.whole, True), (words.truth, "maybe"), (words.truth, 2), (words.text, {}), (words.mapping, [1]),
]  # fmt: skip


@pytest.mark.parametrize(("convert", "given", "expected"), READ)
def test_a_value_means_what_it_says(convert: Callable[[Any], Any], given: Any, expected: Any) -> None:
    assert convert(given) == expected


@pytest.mark.parametrize(("convert", "given"), REFUSED)
def test_what_it_can_not_be_is_said(convert: Callable[[Any], Any], given: Any) -> None:
    with pytest.raises(ValueError, match="is not"):
        convert(given)
