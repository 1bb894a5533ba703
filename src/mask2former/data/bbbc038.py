"""The nuclei of BBBC038 (Data Science Bowl 2018): a folder per image, a PNG per nucleus."""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Bool
from PIL import Image, UnidentifiedImageError

from mask2former.archive import AnyPath, any_path, relative
from mask2former.data.dataset import generated_color
from mask2former.data.format import NO_SPLIT, Format
from mask2former.imaging import SUFFIXES, read_image
from mask2former.masks import EncodedMasks, encode_rle
from mask2former.structures import TASKS, Category, Sample, Task


class Bbbc038:
    """`<folder>/<image>/images/*.png` and `<folder>/<image>/masks/*.png`, one mask per nucleus.

    With `background`, the pixels outside of all masks are one more segment, of a stuff class.
    """

    categories: tuple[Category, ...]

    def __init__(self, folder: str | AnyPath, *, background: bool = False) -> None:
        """List the images; raises ValueError if there are none, or one has no masks folder."""
        self.folder, self.background = any_path(folder), background
        self._entries = sorted(e for e in self.folder.iterdir() if (e / "images").is_dir())
        if not self._entries:
            raise ValueError(
                f"{self.folder}: no nuclei here: expected <image>/images/*.png and"
                " <image>/masks/*.png"
            )
        for entry in self._entries:
            if not (entry / "masks").is_dir():
                raise ValueError(
                    f"{entry}: has images but no folder 'masks'; add the masks or move it away"
                    " (test images are predicted on as files)"
                )
        nucleus = Category(id=1, name="nucleus", is_thing=True, color=generated_color(0))
        stuff = Category(id=2, name="background", is_thing=False, color=generated_color(1))
        self.categories = (nucleus, stuff) if background else (nucleus,)
        self.tasks: tuple[Task, ...] = TASKS if background else ("instance",)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self._entries[index]
        files = _images(entry)
        if len(files) != 1:
            raise ValueError(f"{entry / 'images'}: holds {len(files)} images; leave only one there")
        image = read_image(files[0])
        size = image.shape[0], image.shape[1]
        free = np.ones(size, bool)
        masks: list[dict[str, object]] = []
        paths = sorted(path for path in (entry / "masks").glob("*.png") if path.name[0] != ".")
        for path in paths:
            mask = _read_mask(path, size)
            free &= ~mask
            masks.append(encode_rle(mask))
        labels = [0] * len(masks)
        if self.background and free.any():
            masks.append(encode_rle(free))
            labels.append(1)
        return Sample(
            image=image,
            labels=np.array(labels, np.int64),
            masks=EncodedMasks(size, masks),
            is_crowd=np.zeros(len(masks), bool),
            image_id=entry.name,
            name=str(relative(files[0], self.folder)),
        )


def is_bbbc038(folder: AnyPath) -> bool:
    """Whether a subfolder holds one image, and masks, in this layout."""
    if not folder.is_dir():
        return False
    both = (e for e in folder.iterdir() if (e / "images").is_dir() and (e / "masks").is_dir())
    first = next(both, None)
    if first is None:
        return False
    if first.name in ("train", "val", "valid", "test"):  # splits of label maps, with one image
        return False
    return len(_images(first)) == 1  # with more it is a split of a set of label maps


def _images(entry: AnyPath) -> list[AnyPath]:
    return [
        path
        for path in (entry / "images").iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    ]


def _read_mask(path: AnyPath, size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            mask: Bool[np.ndarray, "H W"] = np.asarray(image.convert("L")) != 0
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: this mask cannot be read: {error}; restore it") from error
    if mask.shape != size:
        raise ValueError(
            f"{path}: this mask has height {mask.shape[0]}, width {mask.shape[1]}, but its image"
            f" has height {size[0]}, width {size[1]}; restore the mask of this image"
        )
    return mask


def _splits(folder: AnyPath) -> tuple[str, ...]:
    if is_bbbc038(folder):
        return (NO_SPLIT,)
    return tuple(sorted(sub.name for sub in folder.iterdir() if is_bbbc038(sub)))


def _open(folder: AnyPath, split: str, task: Task) -> Bbbc038:
    return Bbbc038(folder / split if split else folder, background=task != "instance")


FORMAT = Format(
    name="bbbc038",
    title="BBBC038 (Data Science Bowl 2018)",
    layout=("[<s>/]<image>/images/*.png with <image>/masks/*.png",),
    tasks=TASKS,
    splits=_splits,
    open=_open,
)
