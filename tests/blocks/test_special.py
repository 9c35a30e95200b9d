"""The tensors of the blocks that encoders, encoder-decoders and speech models add."""

from __future__ import annotations

from memcalc.blocks.base import Block, Sequence
from memcalc.blocks.basic import Embedding, Linear, Norm
from memcalc.blocks.disentangled import DisentangledAttention, FirstLayerConv
from memcalc.blocks.seq2seq import Decoder, Encoder, Fork, LogitsBias, Shared, Sinusoids, Unembed
from memcalc.blocks.sparse import LocalGlobalAttention
from memcalc.blocks.speech import GatedBiasAttention, Quantizer, Statistics, WeightNormConv
from memcalc.tensors import tensors


def shapes(block: Block) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tensor.shape for tensor in tensors(block)}


def test_a_weight_norm_keeps_a_norm_per_position_of_the_kernel() -> None:
    conv = WeightNormConv("conv", 24, 24, (6,), conv_groups=4)
    assert shapes(conv) == {
        "conv.bias": (24,),
        "conv.parametrizations.weight.original0": (1, 1, 6),
        "conv.parametrizations.weight.original1": (24, 6, 6),
    }


def test_a_quantizer_has_a_table_of_code_vectors_and_a_projection() -> None:
    quantizer = Quantizer("quantizer", 2, 7, 12, Linear("weight_proj", 10, 14, bias=True))
    assert shapes(quantizer)["quantizer.codevectors"] == (1, 14, 6)
    assert shapes(quantizer)["quantizer.weight_proj.weight"] == (14, 10)


def test_an_unembedding_has_a_bias_at_most() -> None:
    assert shapes(Unembed("", 8, 97, bias=True)) == {"bias": (97,)}
    assert shapes(Unembed("", 8, 97)) == {}


def test_a_bias_of_the_logits_is_a_buffer() -> None:
    (bias,) = tensors(LogitsBias("final_logits_bias", (1, 97), buffer=True))
    assert (bias.buffer, bias.shape, bias.parameters) == (True, (1, 97), 0)


def test_what_only_moves_values_has_no_tensors() -> None:
    for block in (Sinusoids("embed_positions", 10, 8), Statistics("")):
        assert tensors(block) == ()


def test_halves_and_forks_are_what_is_inside_them() -> None:
    table, head = Embedding("embed_tokens", 97, 8), Linear("head", 8, 2)
    assert shapes(Encoder("encoder", (table,))) == {"encoder.embed_tokens.weight": (97, 8)}
    assert shapes(Decoder("decoder", (table,))) == {"decoder.embed_tokens.weight": (97, 8)}
    assert shapes(Fork("", (head, Sequence("cls", (head,))))) == {"head.weight": (2, 8), "cls.head.weight": (2, 8)}
    assert shapes(Shared("shared", 97, 8)) == {"shared.weight": (97, 8)}


def linear(name: str) -> Linear:
    return Linear(name, 8, 8)


def test_attentions_of_families_name_all_their_projections() -> None:
    disentangled = DisentangledAttention(
        "a", q=linear("q"), k=linear("k"), v=linear("v"), out=linear("o"), pos_key=linear("pk"), pos_query=linear("pq")
    )
    sparse = LocalGlobalAttention(
        "a", q=linear("q"), k=linear("k"), v=linear("v"), out=linear("o"),
        q_global=linear("qg"), k_global=linear("kg"), v_global=linear("vg"),
    )  # fmt: skip
    gated = GatedBiasAttention("a", q=linear("q"), k=linear("k"), v=linear("v"), out=linear("o"), gate_rows=linear("g"))
    found = [[part.name for part in block.parts()] for block in (disentangled, sparse, gated)]
    assert found == [
        ["q", "k", "v", "pk", "pq", "o"],
        ["q", "k", "v", "", "o"],
        ["q", "k", "v", "g", "o"],
    ]
    assert {tensor.name for tensor in tensors(sparse) if tensor.idle} == {f"a.{name}g.weight" for name in "qkv"}


def test_the_convolution_of_the_first_layer_has_a_norm() -> None:
    block = FirstLayerConv("conv", Linear("conv", 8, 8), Norm("LayerNorm", 8, "layer"))
    assert set(shapes(block)) == {"conv.conv.weight", "conv.LayerNorm.weight", "conv.LayerNorm.bias"}
