"""Adapters on linear layers and embeddings: what peft's layers run around the base layer (peft 0.21, tuners/…/layer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.packing import UNPACKED
from memcalc.tape import functions as f
from memcalc.tape.autograd import Leaf
from memcalc.tape.units import called

if TYPE_CHECKING:
    from collections.abc import Callable

    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Shape, Value


LORA = ("lora", "dora")


def prepared(t: Tape, x: Value) -> Value:
    """What the base layer reads: the input rotated by OFT, or scaled by IA3 on a feed-forward layer."""
    if not t.weights.adapters or t.setting.adapter not in ("oft", "ia3", "boft"):
        return x
    from memcalc.tape.hf.methods import read  # noqa: PLC0415 - most runs have LoRA, or no adapters

    return read(t, x)


def adapted(t: Tape, x: Value, out: Value, weight: Callable[[], Value] | None = None, *, packed: bool = False) -> Value:
    """What the layer puts out for the input x and the base layer's output; `weight` yields the base weight where it is plain."""
    if not t.weights.adapters:
        return out
    if t.setting.adapter not in LORA:
        held = [out]
        del out
        return _other(t, x, held, weight, packed=packed)
    first = t.weights.adapter(t.path, "lora_A.default.weight")
    second = t.weights.adapter(t.path, "lora_B.default.weight")
    if first is None or second is None:
        return out
    down, up = t.weight("lora_A.default.weight", first.shape), t.weight("lora_B.default.weight", second.shape)
    packing = t.setting.packing if packed else UNPACKED
    if packing.own_layers == "all" and packing.product == "dequantize":
        out = f.clone(out)
    dtype, converts = (
        out.dtype,
        not (packing.own_layers and t.autocast),
    )  # under autocast peft's own layers cast nothing
    x = f.to(x, down.dtype) if converts else x
    if t.weights.adapter(t.path, "lora_magnitude_vector.default.weight"):
        whole = dora(t, x, out, (down, up), weight)
        del out  # which its sum has taken the name of
        return f.to(whole, dtype)
    added = _product(t, _product(t, f.dropout(x, t.setting.lora_dropout), down), up)
    if packing.casts == "product":
        added = f.to(added, dtype) if converts else added
        added = f.scale(added)
        return f.add(out, added)
    added = f.scale(added)
    if packing.casts == "scaled":
        return f.add(out, f.to(added, dtype) if converts else added)
    whole = f.add(out, added)
    del added, out  # peft has let go of both summands before it casts, the nameless one first
    return f.to(whole, dtype) if converts else whole


def _product(t: Tape, x: Value, weight: Value) -> Value:
    """lora_A or lora_B: a module of its own, of which a sharding strategy may have made a unit."""
    visit = t.sharder.adapter(weight.node) if t.sharder is not None and isinstance(weight.node, Leaf) else None
    return f.linear(x, weight) if visit is None else called(t, visit, lambda rows: f.linear(rows, weight), x)


def _other(t: Tape, x: Value, held: list[Value], weight: Callable[[], Value] | None, *, packed: bool) -> Value:
    """The same by a method that isn't LoRA: its rule lets go of the base layer's output, which nobody but `held` holds."""
    from memcalc.tape.hf.methods import METHODS, WIDENED, opened, other, over_packed  # noqa: PLC0415 - most runs have LoRA

    if packed and (rule := over_packed(t)):
        held[0] = opened(t, held[0])
        return rule(t, x, held.pop())
    if t.setting.adapter in METHODS:
        return METHODS[t.setting.adapter](t, x, held.pop())
    if t.setting.adapter not in WIDENED or not t.weights.added(t.path):
        return other(t, x, held.pop(), weight)
    dtype, out = held[0].dtype, f.to(held.pop(), "fp32")
    return f.to(other(t, x, out, weight), dtype)


def dora(t: Tape, x: Value, out: Value, pair: tuple[Value, Value], weight: Callable[[], Value] | None) -> Value:
    """DoraLinearVariant.forward and DoraLinearLayer.forward: the norm of the whole updated weight, at every step.

    B A is made as B(A(1)), with an identity matrix as wide as the input (tuners/lora/dora.py).
    """
    down, up = pair
    base = None if t.setting.lora_dropout else out
    x = f.dropout(x, t.setting.lora_dropout)
    identity = t.new((down.shape[1],) * 2, down.dtype)
    update = f.swap(f.linear(f.linear(identity, down), up))
    del identity
    update = f.to(update, x.dtype)
    magnitude = t.weight("lora_magnitude_vector.default.weight", (up.shape[0],))
    whole = f.to(weight().detach() if weight else t.new((up.shape[0], down.shape[1]), t.setting.frozen), x.dtype)
    scaled = f.scale(update.detach())
    norm = f.add(whole, scaled)
    del scaled
    norm = t.new((up.shape[0],), norm.dtype)
    scale = f.reshape(f.div(magnitude, norm), 1, -1)
    added = f.linear(f.linear(x, down), up)
    bias = t.weights.find(f"{t.path}.bias")
    if base is None:
        base = f.linear(x, whole)
    elif bias:
        base = f.add(base, t.weight("bias", bias.shape))
    added = f.add(f.mul(f.shift(scale), base), f.scale(f.mul(scale, added)))
    del base, x, update, whole, norm, scale  # the layer's forward has returned
    return f.add(out, added)


def with_tokens(t: Tape, weight: Value, tied_to: str = "") -> Value:
    """TrainableTokensLayer.get_merged_weights: the whole table copied, with the trained rows in their places.

    Each module tied to the table makes a copy of its own, of the same rows.
    """
    if not t.weights.rows:
        return weight
    for module in dict.fromkeys((t.path, tied_to.rpartition(".")[0] or t.path)):
        for place in ("", "token_adapter."):
            rows = t.weights.adapter(module, f"{place}trainable_tokens_delta.default")
            if rows:
                learned = f.to(t.weight(f".{rows.name}", rows.shape), weight.dtype)
                return f.index_copy(weight, t.new(rows.shape[:1], "int64"), learned)
    return weight


def embedded(t: Tape, x: Value, out: Value) -> Value:
    """Embedding.forward of a LoRA layer: rows of A, times B."""
    if t.weights.adapters and t.setting.adapter not in (*LORA, "trainable-tokens"):
        from memcalc.tape.hf.unfollowed import unfollowed  # noqa: PLC0415 - most runs have LoRA, or no adapters

        return unfollowed(t, out)
    first = t.weights.adapter(t.path, "lora_embedding_A.default")
    if first is None:
        return out
    dtype, width = out.dtype, out.shape[-1]
    down = f.swap(t.weight("lora_embedding_A.default", first.shape))
    up = f.swap(t.weight("lora_embedding_B.default", (width, first.shape[0])))
    added = f.scale(f.linear(f.embedding(x, down), f.swap(up)))
    return f.to(f.add(out, added), dtype)


def adapted_weight(t: Tape, weight: Value) -> Value:
    """A parameter that LoRA targets itself: W + B A of every expert, a new tensor as large (ParamWrapper, _LoraFactorsProxy).

    Wrappers of several parameters of one module lie around each other; each is known by its features.
    """
    for depth in range(3 if t.weights.adapters else 0):
        name = f"{'base_layer.' * depth}lora_{{}}.default.weight"
        first, second = (t.weights.adapter(t.path, name.format(part)) for part in "AB")
        if first and second and {first.shape[1], second.shape[0]} == set(weight.shape[1:]):
            experts, rank = weight.shape[0], first.shape[0] // weight.shape[0]
            down = f.reshape(t.weight(name.format("A"), first.shape), experts, rank, -1)
            up = f.permute(f.reshape(t.weight(name.format("B"), second.shape), -1, rank, experts), 2, 0, 1)
            return f.baddbmm(weight, f.to(up, weight.dtype), f.to(down, weight.dtype))
    return weight


def adapted_matrix(t: Tape, weight: Value) -> Value:
    """A matrix that LoRA targets by its parameter (a router's): W + B A, both factors and their product before the module runs.

    ParamWrapper.get_delta_weight and _LoraParameterProxy; under autocast the product is in the lower dtype.
    """
    first, second = (t.weights.adapter(t.path, f"lora_{part}.default.weight") for part in "AB")
    if first is None or second is None:
        return weight
    down, up = (t.weight(f"lora_{part}.default.weight", found.shape) for part, found in (("A", first), ("B", second)))
    return f.add(weight, f.to(f.scale(f.matmul(up, down)), weight.dtype))


def prompted(t: Tape, out: Value) -> Value:
    """PeftModelForCausalLM.forward: virtual tokens before those of the embedding, from a table or what it feeds.

    (peft_model.py, get_prompt.) One prompt is made, and repeated for every sequence.
    """
    if t.setting.adapter == "cartridge":
        t.prefix = cartridge(t, out)
        return out
    table = t.weights.find("prompt_encoder.default.embedding.weight")
    if table is None:
        return out
    if t.setting.adapter == "prefix":
        t.prefix = prefix(t, table.shape, out)
        return out
    tokens = t.new((1, table.shape[0]), "int64")
    rows = f.embedding(tokens, t.weight(".prompt_encoder.default.embedding.weight", table.shape))
    if t.setting.adapter == "cpt":  # CPTEmbedding.forward: the prompt, and what is learned on top
        rows = f.add(rows, f.embedding(tokens, t.weight(".prompt_encoder.default.delta_embedding.weight", table.shape)))
    for index in (0, 2, 4) if t.setting.adapter == "p-tuning" else ():
        rows = head(t, rows, index)
    rows = f.repeat(rows, out.shape[0])
    rows = f.to(rows, out.dtype)
    joined = f.cat((rows, out), 1)
    t.outputs += (rows, joined)  # names of PeftModelForCausalLM.forward, which last as long as the model's
    return joined


def prefix(t: Tape, shape: Shape, out: Value) -> list[Value]:
    """Keys and values of every layer for the virtual tokens: [2, batch, tokens, width] each (get_prompt, PREFIX_TUNING)."""
    batch, tokens = out.shape[0], shape[0]
    rows = f.embedding(t.new((batch, tokens), "int64"), t.weight(".prompt_encoder.default.embedding.weight", shape))
    outer = t.weights.find("prompt_encoder.default.transform.0.weight")
    inner = t.weights.find("prompt_encoder.default.transform.2.weight")
    if outer and inner:
        for name, weight in (("0", outer.shape), ("2", inner.shape)):
            stem = f".prompt_encoder.default.transform.{name}"
            rows = f.linear(rows, t.weight(f"{stem}.weight", weight), t.weight(f"{stem}.bias", weight[:1]))
            rows = f.tanh(rows) if name == "0" else rows
    rows = f.to(rows, out.dtype)
    return layered(t, rows) if t.target is None else of_decoder(rows, shape[1] // (2 * out.shape[2]))


def cartridge(t: Tape, out: Value) -> list[Value]:
    """CartridgeEncoder.forward: the frozen tokens and those that learn, the same for every sequence (get_prompt)."""
    names = [f"prompt_encoder.default.{kind}_embedding" for kind in ("frozen", "trainable")]
    parts = [t.weight(f".{name}", found.shape) for name in names if (found := t.weights.find(name))]
    rows = f.unsqueeze(f.cat(parts, 0) if len(parts) > 1 else parts[0], 0)
    return layered(t, f.to(f.expand(rows, out.shape[0], *rows.shape[1:]), out.dtype))


def layered(t: Tape, rows: Value) -> list[Value]:
    """Each layer's keys and values out of the rows [batch, tokens, layers · 2 · width]."""
    batch, tokens, _ = rows.shape
    layers = t.layers or 1
    parts = f.reshape(rows, batch, tokens, 2 * layers, -1)
    return list(f.split(f.contiguous(f.permute(parts, 2, 0, 1, 3)), (2,) * layers, 0))


def of_decoder(rows: Value, layers: int) -> list[Value]:
    """EncoderDecoderCache's own: keys and values are there twice, and those for the encoder's states are let go of."""
    batch, tokens, _ = rows.shape
    parts = f.reshape(rows, batch, tokens, 2 * layers, -1)
    parts = f.permute(f.cat((parts, parts), 2), 2, 0, 1, 3)
    copies = [[f.contiguous(f.narrow(part, 0, 2)) for _ in range(2)] for part in f.split(parts, (4,) * layers, 0)]
    return [own for own, _ in copies]


def before(t: Tape, k: Value, v: Value) -> tuple[Value, Value]:
    """DynamicCache.update: the next layer's virtual keys and values before those of the tokens."""
    both = t.prefix.pop(0) if len(t.prefix) > 1 else t.prefix[0]
    parts = [f.transpose(f.reshape(f.select(both, 0), k.shape[0], -1, k.shape[1], k.shape[3]), 1, 2) for _ in range(2)]
    k, v = f.cat((parts[0], k), 2), f.cat((parts[1], v), 2)
    if not t.within:
        t.outputs += k.detach(), v.detach()  # the cache, which is among the outputs
    return k, v


def cached(t: Tape, k: Value, v: Value) -> tuple[Value, Value]:
    """DynamicCache.update of the encoder's keys and values: copies, which are among the outputs."""
    k, v = f.cat((k,), 2), f.cat((v,), 2)
    if not t.within:
        t.outputs += k.detach(), v.detach()
    return k, v


def head(t: Tape, x: Value, index: int) -> Value:
    """A linear of PromptEncoder's mlp_head, and the ReLU between two of them (tuners/p_tuning/model.py)."""
    name = f"prompt_encoder.default.mlp_head.{index}"
    tensor = t.weights.find(f"{name}.weight")
    if tensor is None:
        return x
    out = f.linear(x, t.weight(f".{name}.weight", tensor.shape), t.weight(f".{name}.bias", tensor.shape[:1]))
    return f.relu(out) if index < 4 else out
