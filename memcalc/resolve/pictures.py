"""The images and videos of a run: how large they are, and how many of them a sequence holds."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from memcalc.errors import Fault, RunInvalid, fault
from memcalc.known import Known
from memcalc.model import OF_IMAGES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from memcalc.blocks.base import Block
    from memcalc.blocks.multimodal import Images
    from memcalc.model import Model
    from memcalc.run import Run

SIZED: Known[Model] = Known()
ROWS, MAP = 2, 3  # axes of an image: (patches, pixels of each), (channels, rows, columns)


def pictured(model: Model, run: Run) -> Model:
    """The model as one that reads the images of a run; RunInvalid where it reads none, or none of that size."""
    if run.images is None and run.image_size is None and run.frames is None:
        return model
    key = id(model), run.images, run.image_size, run.frames
    return SIZED.get(key, model, lambda: _pictured(model, run))


def _pictured(model: Model, run: Run) -> Model:
    seen = tower(model.body)
    if seen is not None:
        if run.images == 0 and hasattr(seen, "text"):
            raise fault("images", f"{model.name} can't do without an image: it stands in one row with the text")
        return blind(model, seen) if run.images == 0 else _checked(model, seen, run)
    if run.images is not None and not model.edits:
        raise fault("images", f"{model.name} reads no images beside text; `image_size` is for models of images alone")
    changes = _latents(model, run) if model.kind == "diffusion" else _pixels(model, run)
    from memcalc.architectures import build  # noqa: PLC0415 - most runs leave the size to the model

    made = build(model.architecture, {**model.dimensions.given(), **changes}, model.name)  # type: ignore[union-attr]  # both have looked
    return replace(made.called(model.name, model.architecture), notes=model.notes)


def _checked(model: Model, seen: Images, run: Run) -> Model:
    """The model itself, if it can be shown images of that size."""
    if run.frames and (seen.grid is None or seen.grid.frames == 1):
        raise fault("frames", f"{model.name} reads single images: count the frames among its `images`")
    sized = seen.grid or seen.crops or seen.shrinks
    if (run.images or 0) > 1 and not (seen.tokens or sized):  # none of them are tokens of the text
        raise fault("images", f"{model.name} reads one image with each text: make the batch larger instead")
    if run.images and sized and not run.image_size:
        raise fault("image_size", f"{model.name} reads images of any size: say how large they are, in pixels")
    if run.image_size and _filled(seen.image):
        raise _whatever(model, seen.image, "; say in `images` how many")
    if run.image_size and seen.image and not seen.grid and seen.image[1:] != run.image_size:
        size = " x ".join(map(str, seen.image[1:]))
        raise fault("image_size", f"{model.name} is given images of {size}: its processor brings every image, or tile of one, "
                                  "to that size; say in `images` how many")  # fmt: skip
    return model


def _pixels(model: Model, run: Run) -> dict[str, Any]:
    """The keys of a config that say the size of its images: its own, or its image tower's."""
    known = model.dimensions
    if run.frames and (known is None or "num_frames" not in known):
        raise fault("frames", f"{model.name} reads no videos")
    frames = {"num_frames": run.frames} if run.frames else {}
    if run.image_size is None:
        return frames
    high, wide = run.image_size
    size = high if high == wide else [high, wide]
    if known is not None and "pixels" in known:  # its tables are of image_size, whatever it is shown
        return {"pixels": size, **frames}
    unsaid = model.kind in OF_IMAGES and not model.image
    if known is not None and (unsaid or ("image_size" in known and model.image)):
        return {"image_size": size, **frames}
    if known is not None and model.kind == "image-text" and "vision_config" in known:
        return {"vision_config": {**known.vision_config.given(), "image_size": size}, **frames}
    if _filled(model.image):
        raise _whatever(model, model.image, "")
    raise fault("image_size", f"{model.name} reads no images")


def _filled(image: tuple[int, ...]) -> bool:
    """Whether images come as rows of pixels, of which each has as many (patches, pixels)."""
    return len(image) == ROWS


def _whatever(model: Model, image: tuple[int, ...], more: str) -> RunInvalid:
    return fault("image_size", f"{model.name} is given every image as {image[0]} patches, whatever its size{more}")


def _latents(model: Model, run: Run) -> dict[str, Any]:
    """The size of a denoiser's latents: so many pixels and frames each (`scale`), as its autoencoder makes them."""
    if model.dimensions is None:
        raise fault("image_size", f"{model.name} is listed by its blocks: its size is the one written there")
    beside = {"references": run.images} if run.images else {}
    if run.image_size is None and run.frames is None:
        return beside
    pixels, together = model.scale
    moving = len(model.image) == 4 or together > 1
    faults = [Fault("frames", f"{model.name} makes single images")] if run.frames and not moving else []
    sides = run.image_size or tuple(side * pixels for side in model.latent)
    if moving and not run.image_size and len(model.image) < MAP:
        faults.append(Fault("image_size", f"{model.name} reads latents in one row: say how large its frames are, too"))
    elif any(side % pixels for side in sides):
        faults.append(
            Fault("image_size", f"both sides must be multiples of {pixels} pixels, of which a latent one is made")
        )
    elif any(side % (pixels * (cut := _patch(model))) for side in sides):
        faults.append(Fault("image_size", f"both sides must be multiples of {pixels * cut} pixels: a latent one is made of "
                                          f"{pixels} x {pixels}, a token of {cut} x {cut} of those"))  # fmt: skip
    if faults:
        raise RunInvalid(faults)
    frames = (run.frames - 1) // together + 1 if run.frames else model.latent_frames
    return {"latents": [frames, *(side // pixels for side in sides)], **beside}


def _patch(model: Model) -> int:
    """A side of what of the latents is one token; of those in one row the pipeline has cut them."""
    known = model.dimensions
    if known is None or len(model.image) < MAP or "patch_size" not in known:
        return 1
    size = known["patch_size"]
    return int(size if isinstance(size, int) else size[-1])


def tower(block: Block) -> Images | None:
    """What reads the images of a sequence, where something does."""
    if block.duty == "tower" and hasattr(block, "scattered"):
        return block  # type: ignore[return-value]
    return next((found for _, part in block.groups() if not _numbered(part) and (found := tower(part))), None)


def _numbered(block: Block) -> bool:
    return hasattr(block, "layers")


def blind(model: Model, seen: Images) -> Model:
    """The model without images: what reads them is there, and never gets a gradient."""
    return replace(model, body=_without(model.body, seen, {}))


def _without(block: Block, seen: Images, known: dict[int, Block]) -> Block:
    """The block with what reads images put aside; equal layers stay the same object."""
    from memcalc.blocks.base import Sequence, Stack, Unused  # noqa: PLC0415 - few runs say so
    from memcalc.blocks.multimodal import ReadsImages, Unseen  # noqa: PLC0415

    if id(block) in known:
        return known[id(block)]
    made = block
    if block is seen or isinstance(block, ReadsImages):
        made = (Unseen if block is seen else Unused)(block.name, block.parts())
    elif isinstance(block, Stack):
        layers = tuple(_without(layer, seen, known) for layer in block.layers)
        made = (
            block if all(a is b for a, b in zip(layers, block.layers, strict=True)) else replace(block, layers=layers)
        )
    elif isinstance(block, Sequence):
        blocks = tuple(_without(part, seen, known) for part in block.blocks)
        made = (
            block if all(a is b for a, b in zip(blocks, block.blocks, strict=True)) else replace(block, blocks=blocks)
        )
    known[id(block)] = made
    return made


def shown(run: Run, seen: Images) -> int:
    """How many images a sequence holds: as asked, else one where their size is known and their tower's steps are."""
    if not seen.scattered or not (seen.image or run.image_size):
        return 0
    return 1 if run.images is None else run.images


def tokens(run: Run, seen: Images) -> int:
    """How many tokens of the text one image, or video, becomes."""
    if seen.crops and run.image_size:
        return seen.crops.tokens(run.image_size)
    if seen.grid and run.image_size:
        return prod(seen.grid.of(run.image_size, run.frames or 1)) // seen.grid.merge**2
    if seen.shrinks and run.image_size:
        return prod(side // seen.shrinks for side in run.image_size) + 1
    return seen.tokens


def remarks(run: Run, model: Model, length: int) -> Iterator[tuple[bool, str, str, str]]:
    """(whether it is a warning, key, code, sentence) of what is assumed of a model's images."""
    seen = tower(model.body)
    if seen is None:
        return
    count = shown(run, seen)
    if not seen.scattered and run.images:
        yield True, "images", "tower-not-followed", "what the image tower keeps of its images is not counted"
    if not count:
        if run.images is None:
            sized = " (image_size says how large they are)" if seen.scattered else ""
            alone = f"activations are those of a batch of text alone; the image tower counts with what persists of it{sized}"
            yield False, "images" if seen.scattered else "model", "text-alone", alone
        return
    each = tokens(run, seen)
    if run.images is None:
        shape = " x ".join(map(str, (3, *run.image_size) if run.image_size else seen.image))
        room = f", which takes {each} of its tokens" if each else ""
        yield False, "images", "default", f"every sequence holds one image of {shape}{room}"
    if count * each > length:
        yield (
            True,
            "images",
            "beyond-the-sequence",
            f"the images of a sequence take {count * each} tokens, more than its {length}",
        )
