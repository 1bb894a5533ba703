"""From files, arrays, PIL images or tensors to segments, in one call."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard, overload

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from mask2former.allocator import keep_freed_memory
from mask2former.imaging import (
    as_rgb,
    contrast_table,
    normalize,
    read_image,
    resize_image,
    shortest_side_size,
    stretch_contrast,
)
from mask2former.inference.postprocess import segment, semantic
from mask2former.inference.resample import Sizes
from mask2former.inference.tiling import Mosaic, Tiling, release, tiles_of
from mask2former.modeling.mask2former import Mask2Former
from mask2former.structures import (
    TASKS,
    Category,
    LargeSegmentation,
    Output,
    Segmentation,
    Semantic,
    Task,
    View,
)
from mask2former.weights import load
from mask2former.weights.download import cache_folder

CONTRAST_PIXELS = 1 << 22  # that a large image's percentiles are taken of
ImageLike = str | Path | np.ndarray | Image.Image | Tensor


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The views that `Segmenter.augmented` takes the mean of; these are the official code's."""

    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)  # of the view's shortest side
    flip: bool = True  # each view mirrored, too

    def views(self, view: View) -> list[View]:
        """One for each scale; the longest side may grow as far as the largest of them."""
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales {self.scales}: name one or more numbers above 0")
        longest = round(view.longest_side * max(self.scales))
        return [
            replace(view, shortest_side=round(view.shortest_side * scale), longest_side=longest)
            for scale in self.scales
        ]


class Segmenter:
    """A model and its test view; call it with an image or with a list of images."""

    def __init__(
        self,
        model: Mask2Former,
        *,
        batch_size: int = 1,
        compile: bool = False,
        canvas_step: int | None = None,
    ) -> None:
        """Take a model as it is: its device and dtype are those that images are moved to.

        `compile` and `canvas_step` as for `from_pretrained`.
        """
        divisor = model.config.view.size_divisor
        if canvas_step is not None and (canvas_step < 1 or canvas_step % divisor):
            raise ValueError(f"canvas_step {canvas_step}: choose a multiple of {divisor}")
        self.model = model.eval()
        self.network: nn.Module = compiled(model) if compile else model
        self.batch_size = batch_size
        self.canvas_step = canvas_step

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        classes: str | tuple[str, ...] | None = None,
        device: str | torch.device = "auto",
        dtype: torch.dtype = torch.float32,
        batch_size: int = 1,
        compile: bool = False,
        canvas_step: int | None = None,
    ) -> Segmenter:
        """Load a model: the name of an embedded one (as "scenes") or the path of another.

        `classes` names the classes of a checkpoint that does not; see `mask2former.weights`.
        `device="auto"` takes CUDA, then MPS, then the CPU. `batch_size` images go through the
        model together, padded to the largest of them.

        On a CPU, freed memory stays with the process (see `allocator.py`) for the next image.

        `compile` hands the model to `torch.compile`: see `compiled`. Every new size of the padded
        images, the canvas, is compiled for; `canvas_step` rounds its sides up to multiples of so
        many pixels (the view's divisor if left out) and so makes the sizes few. The model sees the
        padding, so a larger step changes results a little.
        """
        device = pick_device(device)
        if device.type == "cpu":
            keep_freed_memory()
        model = load(name_or_path, classes=classes)
        model = model.to(device=device, dtype=dtype)
        # 1x1 convolutions are plain products then, on CPUs and on tensor cores alike.
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(model, batch_size=batch_size, compile=compile, canvas_step=canvas_step)

    @property
    def categories(self) -> tuple[Category, ...]:
        return self.model.config.categories

    @overload
    def __call__(
        self,
        images: list[ImageLike] | tuple[ImageLike, ...],
        task: Task | Collection[Task] | None = None,
    ) -> list[Segmentation]: ...

    @overload
    def __call__(
        self, images: ImageLike, task: Task | Collection[Task] | None = None
    ) -> Segmentation: ...

    def __call__(
        self,
        images: ImageLike | list[ImageLike] | tuple[ImageLike, ...],
        task: Task | Collection[Task] | None = None,
    ) -> Segmentation | list[Segmentation]:
        """Segment one image, or a list of images of any sizes.

        Arrays are [H, W] or [H, W, 3], tensors may be [3, H, W] too; they hold uint8, uint16 or
        float in [0, 1].
        `task` is "panoptic", "instance", "semantic", several of them, or None for all three; one
        forward pass serves them all. Results lie on the CPU and have each image's own size.
        ValueError or FileNotFoundError name the image that cannot be read.
        """
        if isinstance(images, list | tuple):
            return list(self.stream(images, task))
        return next(self.stream([images], task))

    def stream(
        self,
        images: Sequence[ImageLike],
        task: Task | Collection[Task] | None = None,
    ) -> Iterator[Segmentation]:
        """As calling with a list, one result at a time."""
        tasks = tasks_of(task)
        for start in range(0, len(images), self.batch_size):
            chunk = images[start : start + self.batch_size]
            names = [
                str(image) if isinstance(image, str | Path) else f"image {start + i}"
                for i, image in enumerate(chunk)
            ]
            yield from self.segment([to_array(image) for image in chunk], names, tasks)

    @torch.inference_mode()
    def segment(
        self,
        images: Sequence[UInt8[np.ndarray, "H W 3"]],
        names: Sequence[str],
        tasks: Sequence[Task],
        contrast: UInt8[np.ndarray, "256"] | None = None,
    ) -> list[Segmentation]:
        """One batch: prepare, one forward pass, and each image's results at its own size.

        `contrast` as for `prepare`.
        """
        prepared = [self.prepare(image, contrast) for image in images]
        canvas = self.canvas([x.shape[-2:] for x in prepared])
        parameter = next(self.model.parameters())
        batch = torch.zeros(len(prepared), 3, *canvas)
        for row, x in zip(batch, prepared, strict=True):
            row[:, : x.shape[1], : x.shape[2]] = x
        output: Output = self.network(batch.to(parameter.device, parameter.dtype))
        class_logits, mask_logits = output.class_logits, output.mask_logits
        config = self.model.config
        results = []
        for i, (image, x, name) in enumerate(zip(images, prepared, names, strict=True)):
            sizes = Sizes(
                padded=canvas,
                image=(x.shape[1], x.shape[2]),
                output=(image.shape[0], image.shape[1]),
            )
            result = segment(
                class_logits[i],
                mask_logits[i],
                sizes,
                config.categories,
                config.view,
                tasks,
                name=name,
            )
            results.append(result.to("cpu"))
        return results

    def tiled(
        self,
        image: ImageLike,
        task: Task | Collection[Task] | None = None,
        *,
        tile: int | None = None,
        overlap: int | None = None,
        min_score: float = 0.5,
        name: str | None = None,
        progress: bool = True,
    ) -> LargeSegmentation:
        """Segment an image of any size tile by tile, in bounded memory; see `inference.tiling`.

        A tile of `tile` pixels is shown to the model as an image of its own: choose it so that
        objects look as large in it as in the images that the model was trained on (if left out:
        the view's shortest side, so that nothing is scaled). Neighbours share `overlap` pixels (a
        quarter of a tile if left out), best a little more than the objects measure. An array
        [H, W, 3] uint8 may be a `numpy.memmap`, of which no more than a row of tiles is in memory;
        a path is read whole. Instances below `min_score` are left out.
        """
        from rich.progress import track  # here: it takes longer to import than all of this module

        tasks = tasks_of(task)
        name = name or (str(image) if isinstance(image, str | Path) else "image 0")
        pixels = image if _is_plain(image) else to_array(image)
        height, width = pixels.shape[:2]
        size = tile or self.model.config.view.shortest_side
        tiling = Tiling(size=size, overlap=size // 4 if overlap is None else overlap)
        contrast = None
        percentiles = self.model.config.view.contrast_percentiles
        if percentiles is not None:  # of the whole image: tiles of their own would not fit together
            step = max(1, math.isqrt(height * width // CONTRAST_PIXELS))
            contrast = contrast_table(np.ascontiguousarray(pixels[::step, ::step]), percentiles)
        mosaic = Mosaic((height, width), self.categories, tasks, min_score=min_score)
        tiles = list(tiles_of(height, width, tiling))
        for start in track(
            range(0, len(tiles), self.batch_size), "tiles", disable=not progress, transient=True
        ):
            chunk = tiles[start : start + self.batch_size]
            if chunk[0].columns.start == 0:
                release(pixels)
            parts = [np.ascontiguousarray(pixels[t.rows, t.columns]) for t in chunk]
            results = self.segment(parts, [name] * len(parts), tasks, contrast)
            for part, result in zip(chunk, results, strict=True):
                mosaic.add(part, result)
        return mosaic.result(name)

    @torch.inference_mode()
    def augmented(
        self,
        image: ImageLike,
        augmentation: Augmentation | None = None,
        *,
        name: str | None = None,
    ) -> Segmentation:
        """The semantic result from the mean of the scores of several views: scales, mirrored.

        As `SemanticSegmentorWithTTA` of the official code does it. In memory are twice the scores
        of every class at the image's size.
        """
        pixels, config = to_array(image), self.model.config
        parameter = next(self.model.parameters())
        augmentation = augmentation or Augmentation()
        size = (pixels.shape[0], pixels.shape[1])
        mean: Float[Tensor, "K H W"] = torch.zeros(len(config.categories), *size)
        for view in augmentation.views(config.view):
            prepared = self.prepare(pixels, view=view)
            height, width = prepared.shape[1:]
            canvas = self.canvas([(height, width)])
            for mirrored in (False, True)[: 1 + augmentation.flip]:
                batch = torch.zeros(1, 3, *canvas)
                batch[0, :, :height, :width] = prepared.flip(-1) if mirrored else prepared
                output: Output = self.network(batch.to(parameter.device, parameter.dtype))
                scores = semantic(
                    output.class_logits[0],
                    output.mask_logits[0],
                    Sizes(padded=canvas, image=(height, width), output=size),
                    config.categories,
                    keep_scores=True,
                    resize_scores=view.resize_semantic_scores,
                ).scores
                assert scores is not None
                mean += (scores.flip(-1) if mirrored else scores).cpu()
        mean /= len(augmentation.scales) * (1 + augmentation.flip)
        result = Semantic(labels=mean.argmax(0), categories=config.categories)
        name = name or (str(image) if isinstance(image, str | Path) else "image 0")
        return Segmentation(size=size, name=name, semantic=result)

    def prepare(
        self,
        image: UInt8[np.ndarray, "H W 3"],
        contrast: UInt8[np.ndarray, "256"] | None = None,
        view: View | None = None,
    ) -> Float[Tensor, "3 h w"]:
        """Stretch, resize and normalise as the model's view says, or another.

        `contrast` is a table of values in place of a stretch by the image's own percentiles.
        """
        view = view or self.model.config.view
        if contrast is not None:
            image = np.take(contrast, image)
        elif view.contrast_percentiles is not None:
            image = stretch_contrast(image, view.contrast_percentiles)
        size = shortest_side_size(image.shape[:2], view.shortest_side, view.longest_side)
        prepared: Tensor = normalize(resize_image(image, size), view.mean, view.std)
        return prepared

    def canvas(self, sizes: Sequence[Sequence[int]]) -> tuple[int, int]:
        """The largest height and width, rounded up to the canvas step or the view's divisor."""
        step = self.canvas_step or self.model.config.view.size_divisor
        height, width = max(s[0] for s in sizes), max(s[1] for s in sizes)
        return height + -height % step, width + -width % step


def compiled(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> nn.Module:
    """The model through `torch.compile`, for each size of images when it is first met.

    On CUDA it searches for the fastest kernels and replays CUDA graphs. What was compiled lies in
    the user's cache (or in $TORCHINDUCTOR_CACHE_DIR), where the next process finds it. After 8
    sizes (torch's own limit) others run uncompiled. ValueError if a CPU has no C++ compiler.
    """
    device = next(model.parameters()).device
    if backend == "inductor" and device.type == "cpu":
        names = [os.environ.get("CXX"), "g++", "clang++", "cl"]
        if not any(shutil.which(name) for name in names if name):
            raise ValueError(
                "compile: on a CPU torch.compile wants a C++ compiler, and neither g++ nor clang++"
                " is found; install one, name it in $CXX, or do without"
            )
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    mode = "max-autotune" if backend == "inductor" and device.type == "cuda" else None
    network: nn.Module = torch.compile(model, backend=backend, mode=mode, dynamic=False)  # type: ignore[assignment]
    return network


def tasks_of(task: Task | Collection[Task] | None) -> tuple[Task, ...]:
    """All tasks for None, else those that are named."""
    return TASKS if task is None else (task,) if isinstance(task, str) else tuple(task)


def _is_plain(image: ImageLike) -> TypeGuard[np.ndarray]:
    """Whether an array can be read part by part as it is."""
    return isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,)


def to_array(image: ImageLike) -> UInt8[np.ndarray, "H W 3"]:
    return read_image(image) if isinstance(image, str | Path) else as_rgb(image)


def pick_device(device: str | torch.device) -> torch.device:
    """`device`, or the best there is for "auto"."""
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
