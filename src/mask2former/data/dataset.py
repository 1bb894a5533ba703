"""The contract of a data set, and what its readers share."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from mask2former.archive import AnyPath, is_file
from mask2former.imaging import read_image
from mask2former.structures import Category, Sample, Task


class Dataset(Protocol):
    """Annotated images, read one by one; a sample's labels are indices into `categories`."""

    @property
    def categories(self) -> tuple[Category, ...]: ...

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What its annotation can measure: panoptic segments all three, others their own alone."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@runtime_checkable
class Labelled(Protocol):
    """A data set that may have this beside what `Dataset` asks for."""

    def labels_of(self, index: int) -> set[int]:
        """The labels of an image's sample, crowds' too, without reading the image."""


def labels_of(dataset: Dataset, index: int) -> set[int]:
    """The labels in an image. ValueError if the data set cannot tell without reading the image."""
    if not isinstance(dataset, Labelled):
        raise ValueError(
            f"{type(dataset).__name__} data sets do not tell which classes are in an image without"
            " reading it; set repeat_threshold=0, or convert the data set to COCO's format"
        )
    return dataset.labels_of(index)


def tells_labels(dataset: Dataset) -> bool:
    """Whether `labels_of` has an answer; a view has one if what it views has."""
    viewed = getattr(dataset, "dataset", None)
    return isinstance(dataset, Labelled) and (viewed is None or tells_labels(viewed))


def record_of(dataset: Dataset, index: int) -> str:
    """What findings call an image that is not read: its file's name if the data set tells."""
    name_of = getattr(dataset, "name_of", None)
    return f"sample {index}" if name_of is None else str(name_of(index))


FEDERATED = ("frequency", "federated")  # what LVIS has beside, by class and by image id


class Part:
    """The images of a data set at some indices; of LVIS's it is evaluated as LVIS is."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices
        for name in FEDERATED:
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))

    @property
    def categories(self) -> tuple[Category, ...]:
        return self.dataset.categories

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.dataset.tasks

    def __len__(self) -> int:
        return len(self.indices)

    def labels_of(self, index: int) -> set[int]:
        return labels_of(self.dataset, self.indices[index])

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} is not among the {len(self)} of this part")
        return self.dataset[self.indices[index]]


class First(Part):
    """The first `count` images of a data set."""

    def __init__(self, dataset: Dataset, count: int) -> None:
        super().__init__(dataset, range(min(count, len(dataset))))


def generated_color(index: int) -> tuple[int, int, int]:
    """A colour (RGB, 0..255) for the category at `index`, unlike those of its neighbours."""
    hue = index * 0.618034 % 1  # the golden ratio never comes back to a hue
    saturation, value = (0.85, 0.6, 0.75)[index % 3], (0.95, 0.8)[index % 2]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def web_color(given: object) -> tuple[int, int, int] | None:
    """A colour that is written as #c80000; None if it is not."""
    if not (isinstance(given, str) and re.fullmatch("#[0-9a-fA-F]{6}", given)):
        return None
    red, green, blue = bytes.fromhex(given[1:])
    return red, green, blue


def require_file(path: AnyPath, record: str) -> None:
    """Raise FileNotFoundError if the file that a record names is missing."""
    if not is_file(path):
        raise FileNotFoundError(
            f"{record}: its file {path} does not exist; correct file_name or the folder, or restore"
            " the file"
        )


class SizeMismatchError(ValueError):
    """An image or a map is not of the size that its annotation says."""


def read_annotated_image(
    path: AnyPath, size: tuple[int, int], record: str
) -> UInt8[np.ndarray, "H W 3"]:
    """Read the image of an annotation `record`, which says that its size is (H, W).

    Raises FileNotFoundError if it is missing, ValueError if it is unreadable or of another size.
    """
    require_file(path, record)
    image = read_image(path)
    if image.shape[1::-1] == size and size[0] != size[1]:
        # Some tools annotate the stored pixels of a photograph that its camera noted as turned.
        image = read_image(path, apply_orientation=False)
    if image.shape[:2] != size:
        raise SizeMismatchError(
            f"{record}: height {size[0]}, width {size[1]}, but {path} has height {image.shape[0]},"
            f" width {image.shape[1]}; restore the image that was annotated"
        )
    return image
