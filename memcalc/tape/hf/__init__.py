"""Hugging Face transformers 5: what its modules do, module by module; importing this package registers the rules."""

from memcalc.tape.hf import (
    attention,
    attention_encoders,
    attention_families,
    attention_kin,
    basic,
    convnets,
    disentangled,
    dual,
    experts,
    feed_forward,
    latent,
    layers,
    selective,
    seq2seq,
    short_conv,
    vision,
)

__all__ = [
    "attention",
    "attention_encoders",
    "attention_families",
    "attention_kin",
    "basic",
    "convnets",
    "disentangled",
    "dual",
    "experts",
    "feed_forward",
    "latent",
    "layers",
    "selective",
    "seq2seq",
    "short_conv",
    "vision",
]
