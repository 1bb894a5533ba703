"""An endless, shuffled stream of training views, the same for a seed wherever it is resumed."""

from __future__ import annotations

import signal
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mask2former.data import transforms
from mask2former.data.dataset import Dataset, labels_of
from mask2former.data.transforms import TrainView
from mask2former.imaging import normalize
from mask2former.structures import Batch, Targets, View


@dataclass(frozen=True, kw_only=True)
class Example:
    """One normalised training view."""

    image: Float[Tensor, "3 H W"]
    targets: Targets
    name: str


class Stream(TorchDataset[Example]):
    """Item t is the t-th view of the training, a function of (seed, t) alone.

    Every pass over the data set has its own order. So resuming at step s needs no saved state.
    Above 0, `repeat_threshold` shows images of rare classes several times a pass: those of classes
    that are in a smaller share of the images than it. See `repeat_factors`.
    """

    def __init__(
        self,
        dataset: Dataset,
        view: TrainView,
        test_view: View,
        seed: int,
        repeat_threshold: float = 0.0,
    ) -> None:
        """ValueError if there is no image, or none that tells its labels where these are needed."""
        if len(dataset) == 0:
            raise ValueError("the training data set holds no image")
        self.dataset, self.view, self.test_view, self.seed = dataset, view, test_view, seed
        self.factors = repeat_factors(dataset, repeat_threshold) if repeat_threshold > 0 else None
        self.starts = [0]  # the t at which each pass begins, of those that were asked for
        self.order: tuple[int, np.ndarray] | None = None  # of the current pass

    def __getitem__(self, t: int) -> Example:
        epoch, position = self._place(t)
        if self.order is None or self.order[0] != epoch:
            images = np.arange(len(self.dataset))
            if self.factors is not None:
                images = np.repeat(images, self._times(self.factors, epoch))
            order = np.random.default_rng([self.seed, 1, epoch]).permutation(images)
            self.order = (epoch, order)
        sample = self.dataset[int(self.order[1][position])]
        rng = np.random.default_rng([self.seed, 2, t])
        image, targets = transforms.apply(sample, self.view, rng)
        normalized = normalize(image, self.test_view.mean, self.test_view.std)
        return Example(image=normalized, targets=targets, name=sample.name)

    def _place(self, t: int) -> tuple[int, int]:
        """The pass that view t belongs to, and which of its views it is."""
        if self.factors is None:
            return divmod(t, len(self.dataset))
        while self.starts[-1] <= t:
            length = int(self._times(self.factors, len(self.starts) - 1).sum())
            self.starts.append(self.starts[-1] + length)
        epoch = bisect_right(self.starts, t) - 1
        return epoch, t - self.starts[epoch]

    def _times(self, factors: Float64[np.ndarray, "images"], epoch: int) -> Int64[np.ndarray, "_"]:
        """How often each image is shown in a pass: its factor, up or down by chance."""
        chance = np.random.default_rng([self.seed, 3, epoch]).random(len(factors))
        return np.floor(factors + chance).astype(np.int64)


def repeat_factors(dataset: Dataset, threshold: float) -> Float64[np.ndarray, "images"]:
    """How often each image is to be shown a pass, on average (Gupta et al., CVPR 2019).

    A class in a share f of the images asks for max(1, sqrt(threshold / f)); an image takes the most
    that one of its classes asks for. ValueError if the data set cannot tell its images' labels.
    """
    labels = [labels_of(dataset, index) for index in range(len(dataset))]
    images_with = Counter(label for present in labels for label in present)
    factor = {
        label: max(1.0, (threshold * len(labels) / count) ** 0.5)
        for label, count in images_with.items()
    }
    return np.array([max((factor[label] for label in present), default=1.0) for present in labels])


def collate(examples: list[Example], divisor: int) -> Batch:
    """Images and masks zero-padded at bottom and right to the largest, rounded up to `divisor`."""
    height = max(example.image.shape[1] for example in examples)
    width = max(example.image.shape[2] for example in examples)
    height, width = height + -height % divisor, width + -width % divisor

    def pad(x: Tensor) -> Tensor:
        return F.pad(x, (0, width - x.shape[-1], 0, height - x.shape[-2]))

    targets = tuple(
        Targets(
            labels=example.targets.labels,
            masks=pad(example.targets.masks),
            ignore=None if example.targets.ignore is None else pad(example.targets.ignore),
        )
        for example in examples
    )
    return Batch(
        images=torch.stack([pad(example.image) for example in examples]),
        targets=targets,
        names=tuple(example.name for example in examples),
    )


class Batches(Iterator[Batch]):
    """What a `DataLoader` makes. Close it where it is not read to its end: its workers end, too.

    An error's traceback holds on to the loader, so that they would live on; and at the end of the
    program multiprocessing sends them a signal, which they ignore, and waits for them.
    """

    def __init__(self, loader: DataLoader[Example]) -> None:
        """Workers begin at once: whoever reads may have threads later, which do not fork well."""
        self._iterator: Any = iter(loader)

    def __next__(self) -> Batch:
        batch: Batch = next(self._iterator)
        return batch

    def close(self) -> None:
        end = getattr(self._iterator, "_shutdown_workers", None)
        if end is None:  # without workers
            return
        end()  # waits some seconds for each
        for worker in self._iterator._workers:
            if worker.is_alive():
                worker.kill()


def batches(
    stream: Stream,
    *,
    batch_size: int,
    first: int,
    last: int,
    workers: int,
    rank: int = 0,
    ranks: int = 1,
) -> Batches:
    """The batches of the steps `first` .. `last` - 1; `batch_size` images a rank."""
    indices = (
        [(step * ranks + rank) * batch_size + i for i in range(batch_size)]
        for step in range(first, last)
    )
    divisor = stream.test_view.size_divisor
    loader = DataLoader(
        stream,
        batch_sampler=indices,
        num_workers=workers,
        collate_fn=lambda examples: collate(examples, divisor),
        worker_init_fn=_ignore_signals,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
    )
    return Batches(loader)


def _ignore_signals(worker: int) -> None:
    """A terminal or a cluster signals all processes; the training that reads from this one decides.

    A worker ends when it is told to through its queue (`Batches.close`), or finds its parent gone.
    """
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGUSR1", signal.SIGTERM)):
        signal.signal(number, signal.SIG_IGN)
