"""Results in the formats that benchmarks' servers take."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np

from mask2former.inference.writers import ResultWriter, encode_image, write_whole
from mask2former.structures import Category, Segmentation

Benchmark = Literal["coco", "ade20k", "cityscapes"]


class Submission(Protocol):
    """Takes results one by one; to be used in a `with` statement."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def write(self, result: Segmentation, name: str, image_id: int | str) -> None:
        """`name` is the image's file name, `image_id` the data set's own."""


def open_submission(
    benchmark: Benchmark, folder: str | Path, categories: tuple[Category, ...]
) -> Submission:
    if benchmark == "coco":
        return CocoSubmission(folder, categories)
    if benchmark == "ade20k":
        return Ade20kSubmission(folder, categories)
    return CityscapesSubmission(folder, categories)


class CocoSubmission(ResultWriter):
    """`instances.json`, `panoptic.json` with panoptic/, and label maps; no pictures."""

    def write(self, result: Segmentation, name: str, image_id: int | str) -> None:
        self.add(result, None, name, image_id=image_id)


class _Files:
    """A folder that is written image by image."""

    def __init__(self, folder: str | Path, categories: tuple[Category, ...]) -> None:
        self.folder, self.categories = Path(folder), categories
        self.folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Every file is written already."""

    def save(self, name: str, pixels: np.ndarray) -> None:
        write_whole(self.folder / name, encode_image(pixels, Path(name).suffix))


class Ade20kSubmission(_Files):
    """One PNG an image, called as it is: label + 1, as 0 is what the benchmark does not score."""

    def __init__(self, folder: str | Path, categories: tuple[Category, ...]) -> None:
        if len(categories) > 255:
            raise ValueError(
                f"the benchmark's PNGs hold 255 classes at most, the model has {len(categories)};"
                " write another format"
            )
        super().__init__(folder, categories)

    def write(self, result: Segmentation, name: str, image_id: int | str) -> None:
        if result.semantic is not None:
            labels = result.semantic.labels.cpu().numpy()
            self.save(f"{Path(name).stem}.png", (labels + 1).astype(np.uint8))


class CityscapesSubmission(_Files):
    """semantic/<stem>.png: label ids; instances/<stem>.txt: "mask.png id score", and the masks.

    Ids are those of `Category.id`, which are Cityscapes' own in its list of classes.
    """

    def write(self, result: Segmentation, name: str, image_id: int | str) -> None:
        stem = Path(name).stem
        if result.semantic is not None:
            ids = np.array([category.id for category in self.categories])
            labels = result.semantic.labels.cpu().numpy()
            self.save(f"semantic/{stem}.png", ids[labels].astype(np.uint8))
        if result.instances is None:
            return
        lines = []
        rows = zip(
            result.instances.masks.cpu().numpy(),
            result.instances.labels.tolist(),
            result.instances.scores.tolist(),
            strict=True,
        )
        for number, (mask, label, score) in enumerate(rows):
            if self.categories[label].is_thing:
                file = f"{stem}_{number}.png"
                self.save(f"instances/{file}", mask.astype(np.uint8) * 255)
                lines.append(f"{file} {self.categories[label].id} {score:.6f}\n")
        write_whole(self.folder / "instances" / f"{stem}.txt", "".join(lines).encode())
