"""MaxText's model files (configs/models/*.yml): dimensions and a decoder block, nothing of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from memcalc.configs.maxtext_models import MODEL_KEYS, dimensions
from memcalc.configs.table import Sheet

if TYPE_CHECKING:
    from memcalc.configs.documents import Document
    from memcalc.configs.reading import Asked, Reading

NAME: Final = "maxtext-model"
TITLE: Final = "MaxText model"

_IGNORED: Final = (
    "rope_*", "local_*", "global_rope*", "normalization_layer_epsilon", "normalize_*", "enable_dropout", "*_soft_cap",
    "attn_*", "sliding_*", "attention_*", "use_*", "tokenizer_*", "norm_topk_prob", "routed_*", "topk_*", "n_routing_groups",
    "mscale", "beta_*", "max_*", "original_*", "temperature_*", "chunk_*", "nope_*", "load_balance_*", "image_*", "logits_*",
    "mlp_activations*", "mlp_bias", "fused_*", "opt_type", "adam_*", "gradient_*", "scan_*", "partial_*", "mrope*", "v_norm*",
    "float32_*", "megablox", "sparse_*", "capacity_*", "dtype", "trainable_*", "num_vocab*", "rotary_*", "batch_*",
)  # fmt: skip
_TOWER: Final = "the image tower is not counted: MaxText's towers have no description here"


def recognises(document: Document) -> int:
    """By base.yml's names of dimensions, without anything of a run."""
    data = document.data
    run = any(key in data for key in ("base_config", "per_device_batch_size", "model_name", "steps"))
    return 88 if "base_emb_dim" in data and not run else 0


def read(document: Document, asked: Asked) -> Reading:
    """A model, and memcalc's own defaults of a run."""
    sheet = Sheet(document, asked, NAME, TITLE)
    sheet.seen(*MODEL_KEYS)
    if asked.model is None:
        dimensions(sheet)
    tower = [key for key in document.data if key.endswith("_for_vit") or key.startswith("vision_")]
    if tower:
        sheet.warn(tower[0], "not-modelled", _TOWER)
        sheet.seen(*tower)
    return sheet.reading(ignored=_IGNORED)
