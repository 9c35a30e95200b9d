"""MaxText's models, by the table presets/frameworks/maxtext.yaml: a name, or dimensions and a decoder block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memcalc.configs.names import known, unknown
from memcalc.configs.words import text, truth, whole
from memcalc.errors import nearest_names
from memcalc.presets import find, has

if TYPE_CHECKING:
    from collections.abc import Mapping

    from memcalc.configs.table import Sheet

SOURCE = "src/maxtext/configs/base.yml"
MODEL_KEYS = ("base_*", "decoder_block", "head_dim", "vocab_size", "logits_via_embedding", "num_experts*", "mlp_activations*",
              "shared_experts", "q_lora_rank", "kv_lora_rank", "qk_*", "v_head_dim", "gdn_*", "global_*",
              "first_num_dense_layers", "inhomogeneous_layer_cycle_interval", "interleave_moe_layer_step", "use_qk_norm",
              "trainable_position_size", "share_kv_projections", "attention_bias", "sliding_window_size")  # fmt: skip


def model_of(sheet: Sheet) -> None:
    """Set `model`: what model_name names, with the dimensions that the file overrides; or a decoder block's dimensions."""
    name = sheet.read(text, "model_name", default="default")
    overrides = [key for key in sheet.document.data if key.startswith("base_") and key in table()["fields"]]
    sheet.seen("model_name", *MODEL_KEYS)
    if sheet.asked.model is not None:
        return
    if name in ("default", ""):
        dimensions(sheet)
        return
    found = known(sheet, table()["names"].get(name, name))
    if found is None:
        sheet.fault("model_name", unknown(name))
    elif overrides and isinstance(found, str) and has("models", found):
        sheet.put("model", {"preset": found, **_changed(sheet, found, overrides)}, "model_name", *overrides)
    else:
        sheet.put("model", found, "model_name")


def dimensions(sheet: Sheet) -> None:
    """Set `model` from base_emb_dim and its kin, absent ones as base.yml has them."""
    block = sheet.read(text, "decoder_block", default="llama2")
    row = table()["blocks"].get(block)
    if row is None:
        near = nearest_names(block, table()["blocks"])
        hint = f"it may be near {near[0]}; " if near else ""
        sheet.fault("decoder_block", f"the layers of {block!r} are not known; {hint}describe the model with --model")
        return
    made = {"model_type": row["model_type"], **row.get("also", {}), **_fields(sheet, row)}
    for key, more in row.get("with", {}).items():
        made.update(more if sheet.has(key) else {})
    made["num_hidden_layers" if "num_hidden_layers" in made else "n_layer"] *= row.get("merged", 1)
    sheet.put("model", made, "base_emb_dim", "decoder_block", default=SOURCE)


def _fields(sheet: Sheet, row: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a config.json that a block's fields are."""
    defaults = table()["defaults"]
    found: dict[str, Any] = {}
    for theirs, ours in {**table()["fields"], **row.get("fields", {})}.items():
        value = sheet.get(theirs, default=defaults.get(theirs))
        if value is not None:
            found[ours] = sheet.read(truth if isinstance(value, bool) else whole, theirs, default=value)
    return found


def _changed(sheet: Sheet, name: str, overrides: list[str]) -> dict[str, Any]:
    """What a file says of a named model's dimensions, where it is another number."""
    own = find("models", name)["dimensions"]
    fields = table()["fields"]
    found = {fields[key]: sheet.read(whole, key) for key in overrides}
    return {key: value for key, value in found.items() if key in own and own[key] != value}


def table() -> Any:  # noqa: ANN401 - plain data
    """The table of MaxText's words."""
    return find("frameworks", "maxtext")
