"""The index is current, every preset can be read, has a source, and its names are its own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from memcalc import presets
from memcalc.errors import UnknownName

if TYPE_CHECKING:
    from memcalc.presets import Kind

FILES = sorted(path.relative_to(presets.folder()).as_posix() for path in presets.folder().rglob("*.yaml"))
KINDS: tuple[Kind, ...] = ("models", "gpus", "optimizers", "precisions", "architectures", "quantizations", "adapters")


def card(path: str) -> dict[str, Any]:
    return dict(yaml.load((presets.folder() / path).read_bytes(), Loader=presets.LOADER))


def test_the_index_is_current() -> None:
    written = (presets.folder() / "index.json").read_text("utf-8")
    assert written == presets.index_text(), "run: python -m memcalc.presets"


@pytest.mark.parametrize("path", FILES)
def test_a_preset_says_where_it_comes_from(path: str) -> None:
    found = card(path)
    while "like" in found and "source" not in found:  # a variant comes from where its model does
        found = presets.find("optimizers", found["like"])
    assert found.get("source")


@pytest.mark.parametrize("path", FILES)
def test_a_preset_begins_with_a_comment_that_explains_it(path: str) -> None:
    assert (presets.folder() / path).read_text("utf-8").startswith("# ")


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_leads_to_its_file(kind: Kind) -> None:
    entries = presets.index()[kind]
    assert entries
    for name, path in entries.items():
        assert name == name.lower()
        assert presets.path_of(kind, name) == presets.folder() / path


def test_a_preset_is_found_by_alias_in_any_case_with_its_id() -> None:
    found = presets.find("models", " meta-llama/Llama-2-7b-HF ")
    assert found["id"] == "llama-2-7b"
    assert found == {**presets.find("models", "llama-2-7b")}


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"unknown model 'lama-2-7b'\. Did you mean llama-2-7b"):
        presets.find("models", "lama-2-7b")
    assert not presets.has("models", "lama-2-7b")


@pytest.mark.parametrize("name", ["../gpus/h100", "", ".", "*", "a/b", "models/llama", "\0"])
def test_a_name_is_no_path(name: str) -> None:
    assert presets.path_of("models", name) is None


def test_two_presets_with_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gpus").mkdir()
    for stem in ("a", "b"):
        (tmp_path / "gpus" / f"{stem}.yaml").write_text("aliases: [Same]\n", "utf-8")
    monkeypatch.setattr(presets, "folder", lambda: tmp_path)
    with pytest.raises(ValueError, match="'Same' names both"):
        presets.make_index()


def test_a_file_the_index_does_not_know_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "new").mkdir(parents=True)
    (tmp_path / "models" / "new" / "brand-new.yaml").write_text("source: here\n", "utf-8")
    monkeypatch.setattr(presets, "folder", lambda: tmp_path)
    assert presets.path_of("models", "Brand-New") == Path(tmp_path / "models" / "new" / "brand-new.yaml")
