"""xLSTM as transformers runs it without its kernels: the matrix memory in chunks, by plain products (modeling_xlstm.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from memcalc.blocks.basic import Norm
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.ssm import Mlstm
from memcalc.tape import functions as f
from memcalc.tape.loops import loop
from memcalc.tape.rules import Around, inside, rule, run

if TYPE_CHECKING:
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value

    State: TypeAlias = tuple[Value, Value, Value]
    Six: TypeAlias = tuple[Value, Value, Value, Value, Value, Value]


class Given(NamedTuple):
    """What the kernels are given, by heads: [batch, heads, seq, dim] and, of the gates, [batch, heads, seq]."""

    q: Value
    k: Value
    v: Value
    write: Value
    forget: Value


@rule(Norm, "xlstm", "xlstm-narrow")
def rms_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """xLSTMRMSNorm.forward: fp32 inside, unless told otherwise, cast back before the weight and the bias."""
    dtype = x.dtype
    x = _widened(block, x)
    x = f.to(f.mul(x, f.rsqrt(f.shift(f.mean(f.square(x), -1)))), dtype)
    return _weighted(t, block, x)


def _widened(block: Norm, x: Value) -> Value:
    """force_float32_reductions."""
    return f.to(x, "fp32") if block.formula == "xlstm" else x


def _weighted(t: Tape, block: Norm, x: Value) -> Value:
    """_apply_weight_bias."""
    x = f.mul(x, t.weight("weight", (block.width,)))
    return f.add(x, t.weight("bias", (block.width,))) if block.kind == "layer" else x


@rule(Mlp, "xlstm")
def mlp(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """xLSTMFeedForward.forward with weights fused: two slices of one projection."""
    both = run(t, block.up, x, around)
    gate, up = (f.narrow(both, -1, block.width) for _ in range(2))
    x = f.mul(f.silu(gate), up)
    return run(t, block.down, x, around)


@rule(Mlstm)
def mlstm(t: Tape, block: Mlstm, x: Value, around: Around) -> Value:
    """xLSTMLayer.forward: the states that it returns have a name in the model until the next layer has returned."""
    b, s = x.shape[:2]
    projected = _fused if len(block.projections) == FUSED else _single
    q, k, v, o, write, forget = projected(t, block, x, around)
    q, k, v = (f.transpose(f.reshape(part, b, s, block.heads, -1), 1, 2) for part in (q, k, v))
    write, forget = f.transpose(write, 1, 2), f.transpose(forget, 1, 2)
    given = Given(q, k, v, write, forget)
    whole = block.training and not s % block.chunk
    h, around.returned = _in_chunks(t, block, given, None) if whole else _any_length(t, block, given)
    h = f.transpose(h, 1, 2)
    normed = f.reshape(_head_norm(t, block.norm, h), b, s, -1)  # type: ignore[arg-type]
    out = f.mul(f.sigmoid(o), normed)
    return run(t, block.out, out, around)


FUSED = 2  # projections where the weights are fused


def _single(t: Tape, block: Mlstm, x: Value, around: Around) -> Six:
    *wide, write, forget = block.projections
    q, k, v, o = (run(t, part, x, around) for part in wide)
    return q, k, v, o, _capped(run(t, write, x, around)), _capped(run(t, forget, x, around))


def _fused(t: Tape, block: Mlstm, x: Value, around: Around) -> Six:
    keys, values = block.heads * block.key_dim, block.heads * block.value_dim
    mixed = run(t, block.projections[0], x, around)
    q, k, v, o = (f.narrow(mixed, -1, size) for size in (keys, keys, values, values))
    gates = _capped(run(t, block.projections[1], x, around))
    return q, k, v, o, f.narrow(gates, -1, block.heads), f.narrow(gates, -1, block.heads)


def _capped(x: Value) -> Value:
    """soft_cap."""
    return f.scale(f.tanh(f.scale(x)))


def _head_norm(t: Tape, block: Norm, x: Value) -> Value:
    """xLSTMMultiHeadLayerNorm.forward: each head centred and scaled, then a weight (and a bias) per channel."""
    dtype, (b, s) = x.dtype, x.shape[:2]
    with inside(t, block):
        x = _widened(block, x)
        centred = f.subtract(x, f.mean(x, -1))
        x = f.to(f.mul(centred, f.rsqrt(f.shift(f.variance(x)))), dtype)
        del centred
        return _weighted(t, block, f.reshape(x, b, s, -1))


def _any_length(t: Tape, block: Mlstm, given: Given) -> tuple[Value, Value]:
    """wrap_chunkwise_arbitrary_sequence_length: whole chunks, then token by token from the state they leave, in fp32."""
    (b, heads, seq, keys), values = given.k.shape, given.v.shape[-1]
    state = tuple(t.new(shape, "fp32") for shape in ((b, heads, keys, values), (b, heads, keys), (b, heads, 1)))
    whole, outputs = seq - seq % block.chunk, []
    if whole:
        cut = Given(*(f.contiguous(f.narrow(part, 2, whole)) for part in given))
        out, carried = _in_chunks(t, block, cut, state)  # type: ignore[arg-type]
        outputs.append(out)
        del cut, out
        state = (carried, *state[1:])
    if seq > whole:
        cut = Given(*(f.contiguous(f.narrow(part, 2, seq - whole)) for part in given))
        out, carried = _by_token(t, cut, state)  # type: ignore[arg-type]
        outputs.append(out)
        del cut, out
    return f.cat(outputs, 2, seq), carried


def _in_chunks(t: Tape, block: Mlstm, given: Given, initial: State | None) -> tuple[Value, Value]:
    """mlstm_chunkwise_native_autograd: the states of all chunks, then the output of each; also the last state."""
    b, heads, seq, keys = given.q.shape
    count = seq // block.chunk
    write, forget = (f.reshape(part, b, heads, count, block.chunk) for part in (given.write, given.forget))
    sums = f.cumsum(f.log_sigmoid(forget))
    states = _states(t, block, given, (sums, write), initial)
    memories, norms, tops = (f.narrow(x, 2, x.shape[2] - x.shape[2] // (count + 1)) for x in states)
    out = _outputs(t, block, given, (sums, write), (memories, norms, tops))
    return out, f.narrow(states[0], 2, keys)


def _states(t: Tape, block: Mlstm, given: Given, gates: tuple[Value, Value], initial: State | None) -> State:
    """mlstm_chunkwise_recurrent_fw_C: one chunk after the other, each state copied into its place among all of them."""
    b, heads, seq, keys = given.k.shape
    (sums, write), values, count, dtype = gates, given.v.shape[-1], seq // block.chunk, given.k.dtype
    shapes = (b, heads, (count + 1) * keys, values), (b, heads, (count + 1) * keys), (b, heads, count + 1)
    every = tuple(t.new(shape, dtype) for shape in shapes)
    memory, norm, top = initial or tuple(
        t.new(shape, dtype) for shape in ((b, heads, keys, values), (b, heads, keys), (b, heads, 1))
    )
    decays = f.add(f.subtract(f.unsqueeze(f.select(sums, -1), -1), sums), write)
    passed, most = f.select(sums, -1), f.squeeze(f.largest(decays), -1)

    def step(carried: Six) -> Six:
        memories, norms, tops, memory, norm, top = carried
        memories, norms, tops = f.assign(memories, memory), f.assign(norms, norm), f.assign(tops, top)
        highest, gone_by = f.select(most, 2), f.select(passed, 2)
        new = f.maximum(f.add(gone_by, top), highest)
        k, v = f.narrow(given.k, 2, block.chunk), f.narrow(given.v, 2, block.chunk)
        bars = f.unsqueeze(f.exp(f.subtract(f.select(decays, 2), f.unsqueeze(new, -1))), -1)
        gated = f.mul(k, bars)
        fade = f.unsqueeze(f.exp(f.subtract(f.add(gone_by, top), new)), -1)
        memory = f.add(f.mul(f.unsqueeze(fade, -1), memory), f.matmul(f.swap(gated), v))
        norm = f.add(f.mul(fade, norm), f.total(f.swap(gated), -1))
        return memories, norms, tops, memory, norm, new

    memories, norms, tops, memory, norm, top = loop(t, count, step, (*every, memory, norm, f.squeeze(top, -1)))  # type: ignore[arg-type]
    return f.assign(memories, memory), f.assign(norms, norm), f.assign(tops, top)


def _outputs(t: Tape, block: Mlstm, given: Given, gates: tuple[Value, Value], states: State) -> Value:
    """mlstm_chunkwise_parallel_fw_H: all chunks at once, from the state each begins with and from within."""
    (b, heads, seq, keys), (sums, write), size = given.q.shape, gates, block.chunk
    count = seq // size
    memories, norms = f.reshape(states[0], b, heads, count, keys, -1), f.reshape(states[1], b, heads, count, keys)
    q, k, v = (f.reshape(part, b, heads, count, size, -1) for part in given[:3])
    lower = _triangle(t, size)
    pairs = f.subtract(f.unsqueeze(sums, 4), f.unsqueeze(sums, 3))
    masked = f.where(lower, pairs, t.new((), pairs.dtype))
    logs = f.add(masked, f.unsqueeze(write, 3))
    most = f.squeeze(f.largest(logs), -1)
    inter = f.add(sums, f.unsqueeze(states[2], 3))
    tops = f.unsqueeze(f.maximum(inter, most), 4)
    stable = f.subtract(logs, tops)
    decay = f.exp(stable)
    scores = f.scale(f.matmul(q, f.swap(k)))
    within = f.mul(scores, decay)
    bars = f.exp(f.subtract(f.unsqueeze(inter, 4), tops))
    gated = f.scale(f.mul(q, bars))
    above = f.add(f.matmul(gated, memories), f.matmul(within, v))
    below = f.add(f.matmul(gated, f.unsqueeze(norms, -1)), f.total(within, -1, keep=True))
    most_below = f.maximum(f.absolute(below), f.exp(f.neg(tops)))
    out = f.div(above, f.shift(most_below))
    return f.reshape(out, b, heads, seq, -1)


def _triangle(t: Tape, size: int) -> Value:
    """tril(ones(size, size))."""
    ones = t.new((size, size), "bool")
    lower = t.new(ones.shape, "bool")
    del ones
    return lower


def _by_token(t: Tape, given: Given, state: State) -> tuple[Value, Value]:
    """mlstm_recurrent_sequence_native: mlstm_recurrent_step_native for each token, the state in fp32."""
    outputs: list[Value] = []

    def step(carried: State) -> State:
        out, carried = _one_token(given, carried)
        outputs.append(out)
        return carried

    seq = given.q.shape[2]
    memory = loop(t, seq, step, state)[0]
    return f.stack(outputs, -2, seq), memory


def _one_token(given: Given, carried: State) -> tuple[Value, State]:
    memory, norm, top = carried
    forget, write = f.unsqueeze(f.select(given.forget, 2), -1), f.unsqueeze(f.select(given.write, 2), -1)
    q, k, v = (f.select(part, 2) for part in given[:3])
    forget, dtype = f.log_sigmoid(forget), q.dtype
    new = f.maximum(f.add(forget, top), write)
    fade = f.exp(f.subtract(f.add(forget, top), new))
    rise = f.exp(f.subtract(write, new))
    q = f.scale(q)
    memory = f.add(
        f.mul(f.unsqueeze(fade, -1), f.clone(memory)),
        f.mul(f.unsqueeze(rise, -1), f.matmul(f.unsqueeze(k, -1), f.unsqueeze(v, 2))),
    )
    norm = f.add(f.mul(fade, f.clone(norm)), f.mul(rise, k))
    above = f.to(f.squeeze(f.matmul(f.unsqueeze(q, 2), f.to(memory, dtype)), 2), "fp32")
    below = f.squeeze(f.matmul(f.unsqueeze(q, 2), f.to(f.unsqueeze(norm, -1), dtype)), 2)
    below = f.to(f.shift(f.maximum(f.absolute(below), f.exp(f.neg(new)))), "fp32")
    return f.to(f.div(above, below), dtype), (f.to(memory, "fp32"), f.to(norm, "fp32"), f.to(new, "fp32"))
