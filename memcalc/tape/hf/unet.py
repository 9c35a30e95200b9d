"""UNets and the autoencoder: residual blocks, maps read as tokens, long skip connections (diffusers)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from memcalc.blocks.attention import Attention
from memcalc.blocks.base import Stack
from memcalc.blocks.basic import Norm
from memcalc.blocks.diffusion import Cut
from memcalc.blocks.image import Join, Keep, Pad, PixelGroups, Resample, SamePad, Unflatten
from memcalc.blocks.mlp import Mlp
from memcalc.blocks.unet import BasicBlock, Divided, ResBlock, SpatialTransformer
from memcalc.tape import functions as f
from memcalc.tape.functions import maps
from memcalc.tape.hf.activations import activate
from memcalc.tape.hf.attention import heads
from memcalc.tape.rules import Around, gone, rule, run

if TYPE_CHECKING:
    from memcalc.blocks.base import Block
    from memcalc.tape.recorder import Tape
    from memcalc.tape.values import Value


@rule(ResBlock)
def res_block(t: Tape, block: ResBlock, x: Value, around: Around) -> Value:
    """ResnetBlock2D.forward."""
    assert block.norm1 and block.conv1 and block.norm2 and block.conv2  # noqa: S101, PT018 - every ResBlock has them
    y = activate(block.activation, run(t, block.norm1, x, around))
    if block.up or block.down:
        x, y = resized(x, up=block.up), resized(y, up=block.up)
    y = run(t, block.conv1, y, around)
    vector = None
    if block.time:
        vector = run(t, block.time, activate(block.activation, around.scene.vector), around)
        vector = f.unsqueeze(f.unsqueeze(vector, 2), 3)
    if vector is not None and block.scale_shift:
        scale, shift = f.chunk(vector, 2, 1)
        y = run(t, block.norm2, y, around)
        y = f.add(f.mul(y, f.shift(scale)), shift)
    else:
        y = y if vector is None else f.add(y, vector)
        y = run(t, block.norm2, y, around)
    y = f.dropout(activate(block.activation, y), block.dropout)
    y = run(t, block.conv2, y, around)
    x = run(t, block.shortcut, f.contiguous(x), around) if block.shortcut else x
    return f.scale(f.add(x, y))


def resized(x: Value, *, up: bool) -> Value:
    """Twice, or (by the mean of every four pixels) half as large."""
    rows, columns = x.shape[2:]
    if up:
        return maps.interpolate(x, (2 * rows, 2 * columns))
    return maps.average_pool(x, (rows // 2, columns // 2))


@rule(Norm, "group")
def group_norm(t: Tape, block: Norm, x: Value, _: Around) -> Value:
    """nn.GroupNorm."""
    return f.group_norm(x, t.weight("weight", (block.width,)), t.weight("bias", (block.width,)), block.groups_of)


@rule(Keep)
def keep(_: Tape, block: Keep, x: Value, around: Around) -> Value:
    """down_block_res_samples += (x,)."""
    around.scene.skips.append(x)
    return x


@rule(Join)
def join(_: Tape, block: Join, x: Value, around: Around) -> Value:
    """torch.cat([x, res_hidden_states], dim=1); a level holds all of its own until it is done."""
    scene = around.scene
    if block.first:
        scene.used.clear()
    scene.used.append(scene.skips.pop())
    return f.cat((x, scene.used[-1]), 1)


@rule(Divided)
def divided(_: Tape, block: Divided, x: Value, around: Around) -> Value:
    """sample / timesteps (UNet2DModel.forward)."""
    return f.scale(x)


@rule(SpatialTransformer)
def spatial_transformer(t: Tape, block: SpatialTransformer, x: Value, around: Around) -> Value:
    """Transformer2DModel.forward: it holds on to the last block's output while another function projects that."""
    y, last = x, None
    for part in block.blocks:
        y = run(t, part, y, around)
        last = y if isinstance(part, Stack) else last
    gone(around.handed)
    out = f.add(x, y)
    del y, last
    return out


@rule(Resample)
def resample(_: Tape, block: Resample, x: Value, around: Around) -> Value:
    """F.interpolate(x, scale_factor, mode)."""
    return maps.interpolate(x, tuple(size * block.factor for size in x.shape[2:]))


@rule(PixelGroups)
def pixel_groups(_: Tape, block: PixelGroups, x: Value, around: Around) -> Value:
    """MobileViTLayer.unfolding and folding: [batch · area, patches, channels], by two copies, and back by two."""
    area = block.patch**2
    if block.back:
        batch, channels, (rows, columns) = x.shape[0] // area, x.shape[-1], around.scene.map
        x = f.transpose(f.view(f.contiguous(x), batch, area, -1, channels), 1, 3)
        x = f.reshape(x, batch * channels * rows // block.patch, columns // block.patch, block.patch, block.patch)
        return f.reshape(f.transpose(x, 1, 2), batch, channels, rows, columns)
    batch, channels, rows, columns = x.shape
    around.scene.map = (rows, columns)
    x = f.reshape(x, batch * channels * rows // block.patch, block.patch, columns // block.patch, block.patch)
    x = f.transpose(f.reshape(f.transpose(x, 1, 2), batch, channels, -1, area), 1, 3)
    return f.reshape(x, batch * area, -1, channels)


@rule(SamePad)
def same_pad(_: Tape, block: SamePad, x: Value, around: Around) -> Value:
    """apply_tf_padding (modeling_mobilenet_v2.py)."""
    extra = (max(block.kernel - (n % block.stride or block.stride), 0) * block.dilation for n in x.shape[2:])
    sizes = tuple(n + more for n, more in zip(x.shape[2:], extra, strict=True))
    return f.clone(x) if sizes == x.shape[2:] else f.pad_both(x, (2, 3), (sizes[0], sizes[1]))


@rule(Pad)
def pad(_: Tape, block: Pad, x: Value, around: Around) -> Value:
    """F.pad of a map."""
    return f.pad_both(x, (2, 3), (x.shape[2] + block.amount, x.shape[3] + block.amount))


@rule(Unflatten)
def unflatten(_: Tape, block: Unflatten, x: Value, around: Around) -> Value:
    """Tokens back to a map: a copy, or (AttnProcessor2_0) a view; or each token spread over patch x patch pixels."""
    *frames, rows, columns = around.scene.maps[x.shape[1]] if block.inner else around.scene.sizes.pop()
    batch, width = x.shape[0], x.shape[-1]
    if frames:
        x = f.reshape(x, batch, *frames, rows, columns, block.patch, block.patch, width // block.patch**2)
        x = f.contiguous(f.permute(x, 0, 6, 1, 2, 4, 3, 5))
        return f.reshape(x, batch, -1, *frames, rows * block.patch, columns * block.patch)
    if block.patch == 1:
        made = f.permute(f.reshape(x, batch, rows, columns, width), 0, 3, 1, 2)
        return f.contiguous(made) if block.copied else made
    channels = width // block.patch**2
    x = f.reshape(x, batch, rows, columns, block.patch, block.patch, channels)
    return f.reshape(f.permute(x, 0, 5, 1, 3, 2, 4), batch, channels, rows * block.patch, columns * block.patch)


@rule(Cut)
def cut(_: Tape, block: Cut, x: Value, around: Around) -> Value:
    """view, permute and flatten of a latent: [batch, patches, channels · patch²]."""
    batch, channels, rows, columns = x.shape
    rows, columns = rows // block.patch, columns // block.patch
    around.scene.sizes.append((rows, columns))
    x = f.permute(f.reshape(x, batch, channels, rows, block.patch, columns, block.patch), 0, 2, 4, 1, 3, 5)
    return f.reshape(x, batch, rows * columns, -1)


@rule(BasicBlock)
def basic_block(t: Tape, block: BasicBlock, x: Value, around: Around) -> Value:
    """BasicTransformerBlock.forward: attn_output is one attention's until the next has run, the last one's to the end."""
    attended = None
    for branch in block.blocks:
        norm, inner = branch.parts()
        normed = run(t, norm, x, around)
        added = run(t, inner, normed, around)
        if branch is not block.blocks[-1]:
            attended = added
        x = f.add(added, x)
    del attended, added
    return x


@rule(Mlp, "diffusers")
def feed_forward(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """FeedForward.forward with GEGLU or SwiGLU, a module of its own."""
    x = gated(t, block, x, around)
    x = f.dropout(x, block.dropout)
    return run(t, block.down, x, around)


def gated(t: Tape, block: Mlp, x: Value, around: Around) -> Value:
    """hidden_states, gate = self.proj(hidden_states).chunk(2); hidden_states * self.gelu(gate)."""
    x, gate = f.chunk(run(t, block.up, x, around), 2)
    return f.mul(x, activate(block.activation, gate))


@rule(Attention, "diffusers")
def attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """AttnProcessor2_0: always the fused kernel; its output divided by a factor that is 1."""
    for part in block.before:  # a group norm over channels
        x = f.transpose(run(t, part, f.transpose(x, 1, 2), around), 1, 2)
    read = around.encoder if block.cross and around.encoder is not None else x
    q, k, v = (
        run(t, part, source, around) for part, source in ((block.q, x), (block.k, read), (block.v, read)) if part
    )
    q, k, v = heads(q, block.heads), heads(k, block.kv_heads), heads(v, block.kv_heads)
    q = run(t, block.q_norm, q, around) if block.q_norm else q
    k = run(t, block.k_norm, k, around) if block.k_norm else k
    out = f.transpose(f.attention(q, k, v), 1, 2)
    out = f.to(f.reshape(out, *out.shape[:2], -1), q.dtype)
    out = run(t, block.out, out, around)
    return f.scale(f.dropout(out, block.out_dropout))


@rule(Attention, "added-kv")
def added_attention(t: Tape, block: Attention, x: Value, around: Around) -> Value:
    """AttnAddedKVProcessor2_0: the context's keys and values, then those of the pixels, where these have any."""
    first, *norms, keys, values = block.before
    read = x if around.encoder is None else around.encoder
    for part in norms:
        read = by_channel(t, part, read, around)
    x = by_channel(t, first, x, around)
    q = heads(run(t, block.q, x, around), block.heads)
    own = [heads(run(t, part, read, around), block.heads) for part in (keys, values)]
    if block.k and block.v:
        pixels = [heads(run(t, part, x, around), block.heads) for part in (block.k, block.v)]
        for i in range(2):
            own[i] = f.cat((own[i], pixels[i]), 2)
    out = f.transpose(f.attention(q, own[0], own[1]), 1, 2)
    return run(t, block.out, f.reshape(out, *out.shape[:2], -1), around)


def by_channel(t: Tape, norm: Block, x: Value, around: Around) -> Value:
    """A norm of tokens, or one over groups of channels, which come first for it."""
    if isinstance(norm, Norm) and norm.kind == "layer":
        return run(t, norm, x, around)
    return f.transpose(run(t, norm, f.transpose(x, 1, 2), around), 1, 2)
