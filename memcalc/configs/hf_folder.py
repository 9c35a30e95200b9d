"""A checkpoint in a folder: what its config.json, its adapter_config.json and its weights' headers say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.configs.checkpoint import ADAPTER, CONFIG, described
from memcalc.configs.gguf import config_of, read_gguf
from memcalc.configs.reading import Asked, Origin, Reading, Remark
from memcalc.configs.safetensors import Entry, Weights, read_header
from memcalc.dataclass import dataclass
from memcalc.errors import Fault, RunInvalid, UnreadableInput
from memcalc.paths import is_file
from memcalc.reading import read_text
from memcalc.units import format_bytes

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Folder:
    """The files of a folder."""

    folder: Path

    @property
    def name(self) -> str:
        """The folder, as it was named."""
        return str(self.folder)

    def text(self, file: str) -> str | None:
        """A small file's text."""
        path = self.folder / file
        return read_text(str(path)) if is_file(path) else None

    def path(self, file: str) -> Path:
        """Where a file is."""
        return self.folder / file

    def header(self, file: str) -> dict[str, Entry] | None:
        """The tensors of a safetensors file."""
        path = self.folder / file
        return read_header(path) if is_file(path) else None

    def spec(self, config: dict[str, Any]) -> str:  # noqa: ARG002 - the folder is read again where it is used
        """The folder itself."""
        return str(self.folder)


def read_folder(folder: Path, asked: Asked | None = None) -> Reading:
    """The run that a folder stands for: its model, and its adapter where it has one."""
    packed = sorted(folder.glob("*.gguf"))
    if len(packed) == 1 and not is_file(folder / CONFIG):
        return read_weights(packed[0], asked)
    return described(Folder(folder), asked or Asked())


def read_weights(path: Path, asked: Asked | None = None) -> Reading:
    """The model of one file of weights: of GGUF's keys, or of the tensors that a safetensors header lists."""
    if path.suffix == ".safetensors":
        return _listed(path, asked or Asked())
    made = read_gguf(path)
    config = config_of(made)
    if config is None and (asked is None or asked.model is None):
        what = f"its architecture {made.architecture!r} is not known; say which model it is with --model"
        raise RunInvalid([Fault("model", what)], str(path))
    stored = f"{len(made.tensors)} tensors, {format_bytes(made.bytes, 'GiB')} in {made.storage}"
    note = Remark("stored", "model", f"{stored}: they are unpacked to be trained (transformers, gguf_file)")
    warnings = _other_count(made.parameters, config, path)
    run = {"model": {**config, "_name_or_path": str(made.keys.get("general.name") or path.stem)}} if config else {}
    return Reading(
        "gguf", "GGUF", str(path), run, {"model": Origin(str(path), None, "general.architecture")}, warnings, (note,)
    )


def _other_count(stored: int, config: dict[str, Any] | None, path: Path) -> tuple[Remark, ...]:
    from memcalc.models import from_mapping  # noqa: PLC0415 - presets are read for it

    if config is None:
        return ()
    counted = from_mapping(config, source=str(path)).parameters
    if stored == counted:
        return ()
    return (
        Remark(
            "other-weights",
            "model",
            f"the file has {stored:,} parameters, its dimensions make {counted:,}: {stored - counted:+,}",
        ),
    )


def _listed(path: Path, asked: Asked) -> Reading:
    """A model of which only the tensors are known; a config.json beside the file would say more."""
    if any(is_file(path.parent / name) for name in (CONFIG, ADAPTER)):
        return described(Folder(path.parent), asked)
    from memcalc.configs.checkpoint import tensors_of  # noqa: PLC0415

    weights = Weights(read_header(path))
    if not weights.tensors:
        raise UnreadableInput(f"{path} lists no tensors")
    note = Remark(
        "no-config", "model", "no config.json is beside the file: the tensors are known, what runs on them is not"
    )
    return Reading(
        "safetensors",
        "safetensors",
        str(path),
        {"model": tensors_of(weights)},
        {"model": Origin(str(path))},
        (note,),
        (),
    )
