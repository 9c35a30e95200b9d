"""What ai-toolkit, OneTrainer and SimpleTuner share: kinds of models, adapters of whole blocks, packed bases, companions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from memcalc.configs.denoisers import family_of_name, put_model, shared, side
from memcalc.configs.optim import put_optimizer
from memcalc.configs.words import FLOATS, names
from memcalc.errors import UnknownName, nearest_names, shorten
from memcalc.optimizers import resolve
from memcalc.presets import find

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from memcalc.configs.table import Sheet

SOURCE: Final = "presets/frameworks/image-trainers.yaml"
# the dtypes of their configs; "no" is mixed precision that is off
DTYPES: Final = {
    **FLOATS, "BFLOAT_16": "bf16", "FLOAT_16": "fp16", "FLOAT_32": "fp32", "TFLOAT_32": "fp32", "float": "fp32", "no": "fp32",
}  # fmt: skip


def table() -> Mapping[str, Any]:
    """presets/frameworks/image-trainers.yaml."""
    return find("frameworks", "image-trainers")


def families() -> dict[str, Mapping[str, Any]]:
    """The rules of every kind of model that these trainers have: denoisers.yaml's and `more` of their own."""
    return {**shared()["families"], **table()["more"]}


def kind(sheet: Sheet, word: str, told: str, key: str, *model_keys: str) -> tuple[str, Mapping[str, Any]]:
    """The family of a trainer's word for a kind of model, and its table; `model` is set. A fault where there is no such kind."""
    rules = table()
    name = str(sheet.get(*model_keys, default=""))
    family = rules[told].get(word, "" if word else family_of_name(name))
    if not family and sheet.asked.model is None:
        near = nearest_names(word, rules[told])
        hint = f"the nearest: {', '.join(near)}; " if near else ""
        sheet.fault(key, f"no preset has the kind of model {shorten(word or name)!r}; {hint}say which with --model")
        return "", {"model": None, "encoders": [], "fused": True}
    family = _named(family, name)
    if sheet.asked.model is None or family:
        put_model_of(sheet, family, *model_keys)
    return family, families().get(family, {"encoders": [], "fused": True})


def put_model_of(sheet: Sheet, family: str, *keys: str) -> None:
    """Set `model` from the name that is written, else from its family."""
    if family in shared()["families"]:
        put_model(sheet, family, *keys)
    elif sheet.asked.model is None:
        sheet.get(*keys)
        sheet.put("model", families()[family]["model"], *keys)


def _named(family: str, name: str) -> str:
    """The member of a family that a checkpoint's name speaks of."""
    if family == "wan":
        return wan_of(name)
    told, known = family_of_name(name), shared()["families"]
    same = told and family in known and known[told].get("kin") == known[family].get("kin") is not None
    return told if same else family


def wan_of(name: str) -> str:
    """The family of Wan whose size a name has; the smallest where it has none."""
    size = re.search(r"(14|1\.3|5)b", name, re.IGNORECASE)
    return {"14": "wan-14b", "5": "wan22-5b"}.get(size[1] if size else "", "wan")


def targets(sheet: Sheet, family: str, *, blocks: bool, convolutions: bool = False, only: Iterable[str] = (),
            never: Iterable[str] = (), keys: tuple[str, ...] = (), default: str = "") -> None:  # fmt: skip
    """Set `lora.targets`: every linear layer (of the blocks alone), or a U-Net's; with one of `only`, none of `never` in it."""
    rules = shared()
    if not rules["families"].get(family, {"fused": True}).get("fused"):
        chosen = rules["adapted"]["unet"]
        sheet.put(
            "lora.targets", f"({chosen})|({rules['convolutions']})" if convolutions else chosen, *keys, default=default
        )
        return
    sheet.put("lora.targets", "all-linear", *keys, default=default)
    left = [table()["outside"]] if blocks else []
    if words := [re.escape(word) for word in only]:
        left.append(f"(?!.*({'|'.join(words)})).*")
    if words := [re.escape(word) for word in never]:
        left.append(f".*({'|'.join(words)}).*")
    if left:
        sheet.put("lora.exclude", "|".join(f"(?:{one})" for one in left), *keys, default=default)


def packing(sheet: Sheet, word: str, *keys: str) -> str | None:
    """memcalc's name of a trainer's storage; a warning, and the nearest, where it is not modelled."""
    known = table()["packings"]
    if word in known:
        return known[word]  # type: ignore[no-any-return]
    bits = re.search(r"(\d)", word)
    nearest = "torchao-int4" if bits and int(bits[1]) <= 4 else "quanto-int8"
    sheet.warn(
        keys[0] if keys else "quantize", "not-modelled", f"{shorten(word)} is not modelled: counted as {nearest}"
    )
    return nearest


def optimizer(
    sheet: Sheet, word: str, arguments: Mapping[str, Any], *keys: str, default: str = "", fused: bool = False
) -> None:
    """Set `optimizer` from a trainer's name of it."""
    plain = word.strip().lower()
    name = table()["optimizers"].get(plain, plain)
    if not _known(name):
        name = plain.replace("_", "-")
    put_optimizer(sheet, name, arguments, *keys, default=default, in_backward=fused)


def _known(name: str) -> bool:
    try:
        return bool(resolve(name).name)
    except UnknownName:
        return False


def largest(values: Iterable[Any], default: list[int]) -> list[int]:
    """The largest of several sides or areas, each as `denoisers.side` reads it."""
    sides = [side(one) for one in values if one not in (None, "")]
    return max(sides, key=lambda one: one[0] * one[1], default=default)


def resolutions(value: Any) -> list[Any]:  # noqa: ANN401
    """What a resolution is written as: one, a list of squares, or a text of them (`512,768`)."""
    return list(value) if isinstance(value, list | tuple) else names(value)


def encoders(sheet: Sheet, family: Mapping[str, Any], held: str, *, text: bool, images: bool, quantize: str | None = None,
             keys: tuple[str, ...] = ()) -> None:  # fmt: skip
    """Set `companions`: encoders of text, and the autoencoder, where they stay on the GPU."""
    found: list[dict[str, Any]] = []
    for name in family.get("encoders", []) if text else []:
        packed = {"quantize": quantize} if quantize else {}
        found.append({"role": "encoder", "model": name, "dtype": held, **packed})
    if images and "vae" in family:
        found.append({"role": "encoder", "model": family["vae"], "dtype": held})
    if found:
        sheet.put("companions", found, *keys, default=SOURCE)
    absent = [what for what, stays, there in (("the encoder of text", text, family.get("encoders")),
                                             ("the autoencoder", images, family.get("vae"))) if stays and not there]  # fmt: skip
    if absent:
        sheet.warn("model", "not-modelled", f"{' and '.join(absent)} of this model stay on the GPU and are not counted: there is "
                   "no preset of them")  # fmt: skip


def moving_average(sheet: Sheet, key: str, *, adapted: bool) -> None:
    """Add an EMA of the weights to `companions`; one of adapters alone is small, and only said."""
    if adapted:
        sheet.assume(
            "companions",
            "ema-of-adapters",
            "the moving average is one of the adapters alone; it is small and not counted",
        )
    else:
        sheet.put("companions", [*sheet.run.get("companions", []), {"role": "ema"}], key)
