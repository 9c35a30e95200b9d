"""Looking at paths that no file can have, or that may not be looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from memcalc.paths import exists, expanded, is_dir, is_file


def test_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert [look(file) for look in (exists, is_dir, is_file)] == [True, False, True]
    assert [look(tmp_path) for look in (exists, is_dir, is_file)] == [True, True, False]


@pytest.mark.parametrize("name", ["n" * 5000, "a\0b", ""])
def test_what_no_file_is_called_is_not_there(name: str, tmp_path: Path) -> None:
    path = tmp_path / "none" / name
    assert not any(look(path) for look in (exists, is_dir, is_file))


def test_a_home_that_nobody_has_is_left_as_it_is() -> None:
    assert expanded(Path("~nobody-of-that-name/x")) == Path("~nobody-of-that-name/x")
