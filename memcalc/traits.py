"""Traits: what a model's class does that its config.json does not say; its card holds them under `traits`.

The closed list. A trait is true of every model of a type, so that no run and no config.json can set it; where two types
differ in several things at once, each has a builder of its own instead.
"""

from __future__ import annotations

from typing import Any


class Traits:
    """The traits of one type, each of the default here unless its card says otherwise (`c.traits.eager_only`)."""

    # attention
    eager_only: bool = False  # no _supports_sdpa: attention is eager, whatever is asked for
    heads_in_batch: bool = False  # attention folds heads into the batch: torch.bmm over batch * heads
    mask_per_sequence: bool = False  # the decoder makes a causal mask for every sequence, padded or not
    separate_qkv: bool = False  # a linear each for q, k and v where its kin have one for all
    gated_bias: bool = False  # a table of relative positions, gated by every query, is added to the scores
    bias_per_layer: bool = False  # each layer has a table of relative positions, not the first alone
    masks_of_both: bool = False  # a mask of all tokens and one of the window, whichever layers there are
    full_attention_every: int = 0  # without `layer_types` every n-th layer, from the first, sees everything
    # embeddings and heads
    embeddings_grow: bool = False  # positions are added in place: `embeddings += position_embeddings`
    head_owns_table: bool = False  # the head is registered before the table that it shares
    ties_always: bool = False  # head and table are one, whatever tie_word_embeddings says
    ties_as_text: bool = False  # head and table are one where only the text's config says so
    scale_decoder_outputs: bool | None = None  # whether logits are made of scaled states; None: as the config says
    causal_class: str = "ForCausalLM"  # how the class that AutoModelForCausalLM takes ends; '': there is none
    decodes_untold: bool = False  # a decoder without is_decoder
    # norms and layers
    clamps_halves: bool = False  # encoder layers clamp in fp16 without a look whether all is finite
    normed_states: bool = False  # the mixer norms dt, B and C, without weights
    response_norm: bool = False  # layers norm responses (GRN) in place of a scale of their own
    norm_behind_merge: bool = False  # patches are merged, then normed
    checkpoints_stages: bool = False  # checkpointing recomputes whole stages; layers are no GradientCheckpointingLayer
    leaf_mixture: bool = False  # its experts' block is among DeepSpeed's leaf modules (DEFAULT_LEAF_MODULE_CLASSES)
    # images and sound
    whole_images: bool = False  # the tower takes each image at its own size
    projected_features: bool = True  # the normed features are put out beside their projection
    stacked_positions: bool = False  # several narrow convolutions make the positions, not a wide one
    adapter: bool = True  # add_adapter puts strided convolutions behind the encoder
    layer_adapters: bool = True  # adapter_attn_dim puts a bottleneck into every layer
    x_vectors: bool = True  # a class for speaker vectors
    contrastive: bool = False  # its ForPreTraining tells masked frames apart from others, by a quantiser

    def __init__(self, **own: Any) -> None:  # noqa: ANN401 - of the types above
        if unknown := sorted(own.keys() - KNOWN):
            raise ValueError(f"no trait is called {', '.join(unknown)}")
        vars(self).update(own)


KNOWN = frozenset(name for name in vars(Traits) if not name.startswith("_"))
NONE = Traits()
