"""Quantised storage of a frozen base model: weights replaced by the packed tensors and scales a library keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from memcalc.adapters.patterns import chosen, sample
from memcalc.dataclass import dataclass
from memcalc.quantization.skips import Skips, skips_of
from memcalc.quantization.storage import Scheme, Spec, StoredPart, scheme
from memcalc.tensors import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from memcalc.dimensions import Dimensions

SAVED = ".modules_to_save."
COPIES = (SAVED, ".ln_tuning_layers.")  # in the names of trainable copies

__all__ = ["Scheme", "Stored", "StoredPart", "quantize", "scheme", "weight_storage"]


@dataclass(frozen=True, slots=True)
class Stored:
    """Tensors after quantisation: packed ones have role 'quantized' and a dtype; `notes` say what stayed as it was."""

    tensors: tuple[Tensor, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def quantize(
    tensors: tuple[Tensor, ...],
    spec: Spec,
    compute_dtype: str = "bf16",
    model_type: str = "",
    dimensions: Dimensions | None = None,
) -> Stored:
    """Every weight the scheme packs replaced by its parts, in place; adapters and trainable copies stay.

    `compute_dtype` is what the rest of the base is stored in. With `upcast` in the spec the rest is cast to fp32, as
    peft's prepare_model_for_kbit_training does. Takes what `adapt` returned: adapters are made from logical shapes.
    """
    how = scheme(spec)
    if not any(t.role == "adapter" or any(copy in t.name for copy in COPIES) for t in tensors):
        tensors = tuple(replace(t, trainable=False) for t in tensors)  # as it was built: packed weights are not trained
    base = tuple(t for t in tensors if t.role != "adapter" and not t.trainable)
    skips = skips_of(how, base, model_type, dimensions)
    copied = {t.name.partition(SAVED)[0] for t in tensors if t.trainable and SAVED in t.name}
    stored = tuple(part for t in tensors for part in _stored(t, how, skips, compute_dtype, copied))
    return Stored(stored, tuple(_notes(how, stored)), tuple(_warnings(how, stored, skips, copied)))


def weight_storage(spec: Spec, shape: tuple[int, ...], compute_dtype: str = "bf16") -> tuple[StoredPart, ...]:
    """What one weight [outputs, inputs] is stored as: name, dtype, shape and bytes of each part; () where it is kept."""
    return scheme(spec).stores(shape, compute_dtype) or ()


def _stored(tensor: Tensor, how: Scheme, skips: Skips, compute: str, copied: set[str]) -> Iterator[Tensor]:
    wide = "fp32" if how.upcast and how.prepared else ""
    packable = (
        tensor.role in how.roles
        and len(tensor.shape) >= 2
        and not (tensor.trainable or tensor.tied_to or tensor.buffer)
    )
    if not packable:
        yield _rest(tensor, compute, wide)
        return
    module = tensor.name if tensor.role == "expert" else tensor.module
    if tensor.count == 1 and (module in copied or skips.skips(module)):  # whatever its shape is
        yield _rest(tensor, compute, wide)
        return
    parts = how.stores(tensor.shape, compute, transposed=tensor.role == "conv1d")
    end = tensor.name[len(module) :]

    def left(name: str) -> bool:
        return parts is None or module in copied or skips.skips(name)

    for pattern, count, stays in chosen(module, tensor.count, left, alike=skips.alike(module)):
        group = replace(tensor, name=pattern + end, count=count)
        if stays or parts is None:
            yield _rest(group, compute, wide)
        else:
            yield from _packed(group, parts)


def _packed(tensor: Tensor, parts: Iterable[StoredPart]) -> Iterator[Tensor]:
    stem, _, own = tensor.name.rpartition(".")
    for part in parts:
        name = f"{stem}.{part.name.format(own)}"
        yield Tensor(name, part.shape, tensor.count, "quantized", False, buffer=not part.parameter, dtype=part.dtype)


def _rest(tensor: Tensor, compute: str, wide: str) -> Tensor:
    """A tensor that is not packed: adapters and buffers as they are, the others in fp32 if upcast."""
    if tensor.role == "adapter" or tensor.buffer:
        return tensor
    dtype = tensor.dtype or (compute if tensor.trainable else "")
    narrow = (dtype or compute) in ("bf16", "fp16")
    return replace(tensor, dtype=wide if wide and narrow else dtype)


def _notes(how: Scheme, after: Iterable[Tensor]) -> Iterator[str]:
    kept = list(dict.fromkeys(t.module for t in after if t.role in ("linear", "conv1d") and t.name.endswith("weight")
                              and not t.trainable))  # fmt: skip
    named = ", ".join(kept[:4]) + (" …" if len(kept) > 4 else "")
    too = f", as {'do' if len(kept) > 1 else 'does'} {named}" if kept else ""
    yield f"{how.library} packs the weights of {' and '.join(how.roles)} modules; embeddings, norms and biases stay{too}"
    if how.upcast and not how.prepared:
        yield f"prepare_model_for_kbit_training leaves the dtypes of a {how.library} model alone"
    elif how.upcast:
        yield "what is not packed is cast to fp32 (prepare_model_for_kbit_training)"


def _warnings(how: Scheme, after: Iterable[Tensor], skips: Skips, copied: Iterable[str]) -> Iterator[str]:
    linear = {t.module for t in after if t.role in how.roles}
    packable = sorted(name for name in copied if name in linear and not skips.skips(sample(name)))
    if packable:
        yield (f"{', '.join(packable)} is trained as a copy, which packed weights can't be: it is left as it is here, and "
               f"needs `skip_modules: [{', '.join(packable)}]` in the quantiser's config")  # fmt: skip
    experts = sum(t.parameters for t in after if t.role == "expert")
    if experts and "expert" not in how.roles:
        yield (f"{experts:,} parameters of experts stay unpacked: transformers 5 keeps them as stacked 3-D parameters, "
               f"which {how.library} does not convert")  # fmt: skip
    if how.untrained:
        yield f"{how.untrained}: another trainer is assumed"
    if not any(t.role == "quantized" for t in after):
        yield f"nothing is packed: the model has no module that {how.name} converts"
