"""Hugging Face transformers 5: what its modules do, module by module.

Importing a file of this folder registers its rules. The everyday ones are imported here; the others when a model first
has a block without a rule: those that its kind points to, and then, in doubt, all of them.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from memcalc.tape.hf import attention, basic, feed_forward, layers, norms

if TYPE_CHECKING:
    from collections.abc import Iterator

# where the rules of a formula, or of a file of blocks, are, where they are not in a file of the same name
HOMES = {
    "relative": ("xlnet", "fourier", "funnel"),
    **dict.fromkeys(("longt5-local", "longt5-transient-global"), ("longt5",)),
    **dict.fromkeys(("conformer-relative", "conformer-relative_key", "conformer-rotary"), ("conformer",)),
    **dict.fromkeys(("granite-speech", "parakeet"), ("conformer",)),
    "fsmt": ("seq2seq",),
    "nystromformer": ("landmarks",),
    "gated": ("attention_gated",),
    "beam": ("beam",),
    "layoutlmv3": ("layout",),
    "layout": ("layout", "lilt"),
    **dict.fromkeys(("big-bird", "big-bird-full"), ("bigbird",)),
    "prophetnet-streams": ("prophetnet",),
    "axk2": ("gated",),
    "gaussian": ("altup",),
    "dia": ("channels",),
    "doge": ("doge",),
    "dots3_note": ("gated", "latent"),
    "flint": ("attention_sinks", "routers"),
    "hy_v4": ("independent", "routers", "experts"),
    "zaya": ("zaya",),
    "xlstm-narrow": ("xlstm",),
    "laguna": ("attention_gated", "routers"),
    "mimo": ("attention_gated",),
    **dict.fromkeys(("qwen-image", "qwen-image-edit"), ("qwen_image",)),
    "qwen3_next": ("gated_delta",),
    "step": ("attention_gated",),
    "attention": ("attention_families", "attention_encoders", "contrastive"),
    "disentangled": ("attention_encoders",),
    "mlp": ("experts", "routers"),
    "sparse": ("longformer",),
    "speech": ("conformer",),
    "hyper": ("hyper", "independent"),
    "mla": ("latent", "indexer", "experts", "compressed"),
    "image": ("vision", "convnets", "windows", "unet", "sam"),
    "detection": ("detection", "tables"),
    "segmenting": ("segmenting", "sam"),
    "diffusion": ("dit", "unet", "lean_dit"),
    **dict.fromkeys(("cogview3", "cogview4"), ("cogview",)),
    "fusing": ("krea2",),
    **dict.fromkeys(("leading", "ernie-image"), ("ernie_image",)),
    "hidream": ("hidream", "prx"),
    "cosmos": ("cosmos",),
    "mochi": ("mochi",),
    **dict.fromkeys(("sounding", "ltx2"), ("ltx2",)),
    "joint": ("dit", "flux", "flux2", "qwen_image", "auraflow", "cogview"),
    "video": ("cogvideox", "lean_dit", "vace"),
    "control": ("control",),
    "diffusers": ("unet",),
    "streams": ("chroma", "hunyuan", "lumina", "lumina_next", "z_image"),
    "lumina-next": ("lumina_next",),
    "z-image": ("z_image",),
    "hunyuan-video": ("hunyuan",),
    "masked": ("hunyuan",),
    "refiner": ("hunyuan",),
    "wan": ("video",),
    **dict.fromkeys(("segformer", "mobilevit"), ("vision",)),
    **dict.fromkeys(("pvt", "pvt_v2"), ("pooling",)),
    "table-transformer": ("tables",),
    "data2vec-vision": ("data2vec",),
    **dict.fromkeys(("davit-window", "davit-channel"), ("davit",)),
    "mllama-cross": ("tiles",),
    "ltx": ("lean_dit",),
    "sana-linear": ("lean_dit",),
    "sana-cross": ("lean_dit",),
    "fp32-layer": ("video",),
    "ssm": ("selective", "dual", "gated_delta", "kimi_delta", "lightning", "griffin", "short_conv", "xlstm"),
}


def load(formula: str, blocks: str) -> Iterator[None]:
    """Import what may hold the rules of a formula and of a kind in this file of blocks: the likeliest, then everything."""
    known = [name for _, name, _ in iter_modules(__path__)]
    likely = [[name for name in (word, *HOMES.get(word, ())) if name in known] for word in (formula, blocks)]
    for names in (*likely, known):
        for name in names:
            import_module(f"{__name__}.{name}")
        yield


__all__ = ["attention", "basic", "feed_forward", "layers", "load", "norms"]
