"""Pictures whose pixels are numbers: class values, palette indices, colours or instance ids."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Int, Int32
from PIL import Image, UnidentifiedImageError

from mask2former.archive import AnyPath
from mask2former.imaging import SUFFIXES
from mask2former.masks import ids_of_colors

MAP_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")  # a JPEG would blur the numbers
MASK_ENDINGS = (  # of a stem; the longer before the shorter
    *("_segmentation", "_annotation", "_labels", "_label", "_masks", "_mask", "_seg", "_gt"),
    *("_L", "_P"),
)
IMAGE_ENDINGS = ("_image", "_img", "_rgb", "_sat")

_WHOLE_NUMBERS = ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N")
_GREY_DEPTHS = {2: 85, 4: 17}  # Pillow stretches grey PNGs of so few bits to 0..255
_TRIES = 10  # masks that are looked at to see whether two folders belong together


@dataclass(frozen=True, kw_only=True)
class Pair:
    """An image and the picture of numbers that annotates it."""

    id: str
    image: AnyPath
    mask: AnyPath


@dataclass(frozen=True, kw_only=True)
class PixelMap:
    """A picture of numbers; a colour is red + 256 green + 65536 blue."""

    values: Int[np.ndarray, "H W"]  # grey values, palette indices, or colours
    is_color: bool
    palette: Int32[np.ndarray, "256"] | None = None  # the colour of each index

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        height, width = self.values.shape
        return height, width


def read_map(path: AnyPath) -> PixelMap:
    """Read a picture of numbers, 1 to 32 bits, exactly as its file has them.

    Raises FileNotFoundError or ValueError naming the file and the cure.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this mask does not exist; restore it")
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content)) as image:
            mode, palette = image.mode, image.getpalette("RGB")
            pixels = np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: this mask cannot be read: {error}; restore it") from error
    if mode in ("RGB", "RGBA"):
        return PixelMap(values=ids_of_colors(pixels), is_color=True)
    if mode not in _WHOLE_NUMBERS:
        raise ValueError(
            f"{path}: this mask has mode {mode}; store it as grey values, with a palette, or as RGB"
        )
    if mode == "1":
        pixels = pixels.astype(np.uint8)
    if mode == "L" and content[:4] == b"\x89PNG" and content[24] in _GREY_DEPTHS:
        pixels = pixels // np.uint8(_GREY_DEPTHS[content[24]])
    colors = None
    if mode == "P" and palette is not None:
        entries = np.zeros((1, 256, 3), np.uint8)
        entries[0].flat[: len(palette)] = palette
        colors = ids_of_colors(entries)[0]
    return PixelMap(values=pixels, is_color=False, palette=colors)


def used_values(values: Int[np.ndarray, "H W"]) -> list[int]:
    """The numbers of a map, ascending."""
    flat = values.ravel()
    starts = np.concatenate([flat[:1], flat[1:][flat[1:] != flat[:-1]]])  # few, quick to sort
    found: list[int] = np.unique(starts).tolist()
    return found


def recode(values: Int[np.ndarray, "H W"], new: Mapping[int, int]) -> Int32[np.ndarray, "H W"]:
    """A map with other numbers: each of its own has an entry in `new`."""
    old = np.array(sorted(new), np.int64)
    table = np.array([new[value] for value in old.tolist()], np.int32)
    if len(old) and old[0] >= 0 and old[-1] < 1 << 16:
        lookup = np.zeros(old[-1] + 1, np.int32)
        lookup[old] = table
        return np.take(lookup, values)
    return np.take(table, np.searchsorted(old, values))


# --- which mask belongs to which image --------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Which image has which mask, and what stands alone."""

    pairs: list[Pair]
    faults: list[FileNotFoundError | ValueError]  # of files that are not clear, or not there
    without_mask: list[AnyPath]  # images
    without_image: list[AnyPath]  # masks


def pair_files(images: AnyPath, masks: AnyPath, stems: Sequence[str] | None = None) -> list[Pair]:
    """Every image of a folder with the mask of the same stem, sorted by it; see `match_files`.

    Raises FileNotFoundError naming those that lack one, ValueError if a stem stands twice, or an
    image has two masks.
    """
    found = match_files(images, masks, stems)
    for fault in found.faults:
        raise fault
    lacking = found.without_mask
    if lacking or not found.pairs:
        names = ", ".join(path.name for path in lacking[:3])
        raise FileNotFoundError(
            f"{masks}: {len(lacking)} of the {len(lacking) + len(found.pairs)} images in {images}"
            f" have no mask here ({names}); {LACKING}"
        )
    return found.pairs


LACKING = (
    f"a mask has the stem of its image and is one of {', '.join(MAP_SUFFIXES)}; add it, or move the"
    " image away"
)


def match_files(images: AnyPath, masks: AnyPath, stems: Sequence[str] | None = None) -> Matched:
    """The images of a folder and the masks of the same stems; nothing is raised.

    Endings of stems as in `MASK_ENDINGS` and `IMAGE_ENDINGS` make no difference. `stems` names the
    images; without them every one needs a mask. Both folders may be one: then masks need an ending,
    and an image that has the rest of their stem.
    """
    if stems is not None:
        return _match_named(images, masks, stems)
    image_files = _files(images, SUFFIXES)
    mask_files = _files(masks, MAP_SUFFIXES)
    if images == masks:
        mask_files = _masks_beside(image_files, mask_files)
        image_files = [path for path in image_files if path not in set(mask_files)]
    named = {path.stem for path in image_files}
    masks_of: dict[str, list[AnyPath]] = {}
    for mask in mask_files:
        stem = mask.stem if mask.stem in named else _key(mask.stem, MASK_ENDINGS)
        masks_of.setdefault(stem, []).append(mask)
    first_of: dict[str, AnyPath] = {}
    claimed: set[AnyPath] = set()
    found = Matched(pairs=[], faults=[], without_mask=[], without_image=[])
    for image in image_files:
        stem = image.stem
        first = first_of.setdefault(stem, image)
        if first != image:
            message = f"{image}: {first.name} has the same stem; rename one"
            found.faults.append(ValueError(message))
            continue
        short = _key(stem, IMAGE_ENDINGS)
        own = [*masks_of.get(stem, ()), *(masks_of.get(short, ()) if short not in named else ())]
        claimed.update(own)
        if len(own) > 1:
            message = (
                f"{image}: has two masks, {own[0]} and {own[1]}; move away the one that is not its"
                " own, or rename it"
            )
            found.faults.append(ValueError(message))
        elif own:
            found.pairs.append(Pair(id=stem, image=image, mask=own[0]))
        else:
            found.without_mask.append(image)
    found.without_image.extend(mask for mask in mask_files if mask not in claimed)
    return found


def _match_named(images: AnyPath, masks: AnyPath, stems: Sequence[str]) -> Matched:
    found = Matched(pairs=[], faults=[], without_mask=[], without_image=[])
    for stem in stems:
        try:
            found.pairs.append(_named_pair(images, masks, stem))
        except FileNotFoundError as error:
            found.faults.append(error)
    return found


def holds_pairs(images: AnyPath, masks: AnyPath) -> bool:
    """Whether two folders are images and their masks, to judge by the first few masks."""
    if not images.is_dir() or not masks.is_dir():
        return False
    candidates = (path for path in masks.iterdir() if _is_file(path, MAP_SUFFIXES))
    for mask in islice(candidates, _TRIES):
        key = _key(mask.stem, MASK_ENDINGS)
        if images != masks and _image_named(images, mask.stem) is not None:
            return True
        if key != mask.stem and _image_named(images, key) is not None:
            return True
    return False


def why_no_pairs(images: AnyPath, masks: AnyPath) -> str | None:
    """What stands in the way, and the cure, where one folder holds images and the other masks."""
    if not images.is_dir() or not masks.is_dir() or images == masks:
        return None
    image, mask = (next(iter(_files(folder, SUFFIXES)), None) for folder in (images, masks))
    if image is None or mask is None or holds_pairs(images, masks):
        return None
    if mask.suffix.lower() not in MAP_SUFFIXES:
        return f"{mask} is no file that keeps numbers of classes: export the masks again, as PNG"
    return (
        f"no mask in {masks} has the stem of an image in {images} ({mask.name}, {image.name}):"
        " name each mask as its image"
    )


def _is_file(path: AnyPath, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes and not path.name.startswith(".")


def _files(folder: AnyPath, suffixes: Sequence[str]) -> list[AnyPath]:
    return sorted(path for path in folder.iterdir() if _is_file(path, suffixes))


def _masks_beside(images: Sequence[AnyPath], candidates: Sequence[AnyPath]) -> list[AnyPath]:
    """Which files of one folder are masks: an image has their stem without its ending.

    A file of such a stem that has a mask itself is an image: eye_L.png beside eye_L_mask.png.
    """
    stems = {path.stem for path in images}
    known = stems | {_key(stem, IMAGE_ENDINGS) for stem in stems}
    annotated = {_key(path.stem, MASK_ENDINGS) for path in candidates}
    return [
        path
        for path in candidates
        if (key := _key(path.stem, MASK_ENDINGS)) != path.stem
        and key in known
        and path.stem not in annotated
    ]


def _key(stem: str, endings: Sequence[str]) -> str:
    ending = next((end for end in endings if stem.endswith(end) and stem != end), "")
    return stem.removesuffix(ending)


def _named_pair(images: AnyPath, masks: AnyPath, stem: str) -> Pair:
    image = _image_named(images, stem)
    names = (stem + ending + suffix for ending in ("", *MASK_ENDINGS) for suffix in MAP_SUFFIXES)
    mask = _first_file(masks, names)
    if image is None or mask is None:
        what, folder = ("image", images) if image is None else ("mask", masks)
        raise FileNotFoundError(
            f"{folder}: there is no {what} of the stem {stem!r}, which the list of the split names;"
            " restore it, or take the stem off the list"
        )
    return Pair(id=stem, image=image, mask=mask)


def _image_named(images: AnyPath, stem: str) -> AnyPath | None:
    suffixes = [form for suffix in SUFFIXES for form in (suffix, suffix.upper())]
    return _first_file(
        images, (stem + ending + suffix for ending in ("", *IMAGE_ENDINGS) for suffix in suffixes)
    )


def _first_file(folder: AnyPath, names: Iterable[str]) -> AnyPath | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
