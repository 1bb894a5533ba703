from __future__ import annotations

import multiprocessing
import os
import signal
import time
import warnings
from collections import Counter
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from mask2former.data import loader
from mask2former.data.dataset import First, labels_of
from mask2former.data.holdout import hold_out
from mask2former.data.loader import Example, Stream, batches, collate, repeat_factors
from mask2former.data.semantic_view import SemanticView
from mask2former.data.thing_view import ThingView
from mask2former.data.transforms import TrainView
from mask2former.masks import IdMapMasks
from mask2former.structures import Batch, Category, Sample, Targets, View

VIEW = TrainView(size=40, scale=(0.5, 1.5), crop=(40, 40), color=True, ignore_void=True)


class Squares:
    """Seven images of one square each, its place and grey level saying which."""

    categories: tuple[Category, ...] = tiny.categories(7)

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Sample:
        ids = np.zeros((40, 48), np.int32)
        ids[10:30, 2 + 3 * index : 22 + 3 * index] = 1
        image = np.repeat((ids * (20 * index + 100)).astype(np.uint8)[..., None], 3, -1)
        return Sample(
            image=image,
            labels=np.array([index]),
            masks=IdMapMasks(ids, [1]),
            is_crowd=np.array([False]),
            image_id=index,
            name=f"square {index}",
        )


class Nothing(Squares):
    def __len__(self) -> int:
        return 0


def stream(seed: int = 0, view: TrainView = VIEW) -> Stream:
    return Stream(Squares(), view, View(mean=(0.0, 0.0, 0.0), std=(255.0,) * 3), seed)


def equal(a: Batch, b: Batch) -> bool:
    return (
        a.names == b.names
        and torch.equal(a.images, b.images)
        and all(
            torch.equal(x.labels, y.labels)
            and torch.equal(x.masks, y.masks)
            and x.ignore is not None
            and y.ignore is not None
            and torch.equal(x.ignore, y.ignore)
            for x, y in zip(a.targets, b.targets, strict=True)
        )
    )


def run(seed: int = 0, *, first: int = 0, last: int = 6, workers: int = 0) -> list[Batch]:
    return list(batches(stream(seed), batch_size=3, first=first, last=last, workers=workers))


class Broken(Squares):
    def __getitem__(self, index: int) -> Sample:
        raise ValueError(f"square {index}: cannot be read")


class Slow(Squares):
    def __getitem__(self, index: int) -> Sample:
        if index != 0:
            time.sleep(600)
        return super().__getitem__(index)


@pytest.mark.parametrize("dataset", [Squares(), Broken(), Slow()])
def test_workers_end_with_whoever_reads_from_them(
    dataset: Squares, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They ignore signals, and a program waits for its processes before it ends."""
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # its patience
    source = Stream(dataset, VIEW, View(mean=(0.0, 0.0, 0.0), std=(255.0,) * 3), 0)
    loader = batches(source, batch_size=1, first=0, last=10**9, workers=2)
    raised = None
    try:
        with closing(loader):
            workers = multiprocessing.active_children()
            assert len(workers) == 2
            if not isinstance(dataset, Slow):
                next(loader)
            raise ValueError("something else")
    except ValueError as error:
        raised = error  # its traceback holds on to all that was there
    assert raised is not None
    assert ("square" in str(raised)) == isinstance(dataset, Broken)
    for worker in workers:
        worker.join(10)
    assert not any(worker.is_alive() for worker in workers)


def test_a_view_depends_on_seed_and_number_alone() -> None:
    one, other = stream(), stream()
    forward = [one[t] for t in range(20)]
    backward = [other[t] for t in reversed(range(20))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert a.name == b.name
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.targets.masks, b.targets.masks)
    different = [stream(1)[t].image for t in range(20)]
    assert not all(torch.equal(a.image, x) for a, x in zip(forward, different, strict=True))


def test_every_pass_shows_every_image_once_in_an_order_of_its_own() -> None:
    names = [stream()[t].name for t in range(28)]
    passes = [names[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(p) == [f"square {i}" for i in range(7)] for p in passes)
    assert len({tuple(p) for p in passes}) > 1
    again = names.index("square 0", 7)
    assert not torch.equal(stream()[names.index("square 0")].image, stream()[again].image)


def test_resumed_stream_goes_on_where_it_stopped() -> None:
    whole, rest = run(), run(first=4)
    assert len(whole) == 6
    assert len(rest) == 2
    assert all(equal(a, b) for a, b in zip(whole[4:], rest, strict=True))
    assert not equal(whole[0], rest[0])


@pytest.mark.parametrize("workers", [1, 2])
def test_number_of_workers_changes_nothing(workers: int) -> None:
    assert all(equal(a, b) for a, b in zip(run(), run(workers=workers), strict=True))


def test_ranks_share_what_one_would_see() -> None:
    whole = [name for batch in run() for name in batch.names]
    shares = [
        list(batches(stream(), batch_size=1, first=0, last=6, workers=0, rank=r, ranks=3))
        for r in range(3)
    ]
    together = [shares[r][step].names[0] for step in range(6) for r in range(3)]
    assert together == whole


def test_images_are_normalised_as_for_the_test_view() -> None:
    view = TrainView(size=48, scale=(1.0, 1.0), crop=(40, 48), flip=False)
    shown = Stream(Squares(), view, View(mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0)), 0)[0]
    level = Squares()[int(shown.name.split()[1])].image.max()
    mask = shown.targets.masks[0, 0]
    for channel, (mean, std) in enumerate([(10, 2), (20, 4), (30, 5)]):
        assert shown.image[channel][mask].unique().item() == pytest.approx((level - mean) / std)
        assert shown.image[channel][~mask].unique().item() == pytest.approx(-mean / std)


def test_no_warning_while_loading() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(last=2)


def example(height: int, width: int, objects: int, ignore: bool = True) -> Example:
    targets = Targets(
        labels=torch.arange(objects),
        masks=torch.ones(objects, 1, height, width, dtype=torch.bool),
        ignore=torch.ones(1, height, width, dtype=torch.bool) if ignore else None,
    )
    return Example(image=torch.ones(3, height, width), targets=targets, name=f"{height}x{width}")


def test_batch_is_padded_to_the_largest_rounded_up() -> None:
    batch = collate([example(33, 20, 2), example(10, 65, 0), example(64, 64, 1, False)], 32)
    assert batch.images.shape == (3, 3, 64, 96)
    assert batch.names == ("33x20", "10x65", "64x64")
    for i, (height, width, objects) in enumerate([(33, 20, 2), (10, 65, 0), (64, 64, 1)]):
        assert batch.images[i].sum() == 3 * height * width
        assert batch.images[i, :, :height, :width].all()
        masks = batch.targets[i].masks
        assert masks.shape == (objects, 1, 64, 96)
        assert masks.sum() == objects * height * width
        assert masks[..., :height, :width].all()
    assert batch.targets[0].ignore is not None
    assert batch.targets[0].ignore.shape == (1, 64, 96)
    assert batch.targets[0].ignore.sum() == 33 * 20
    assert batch.targets[2].ignore is None


def test_batch_that_fits_is_not_padded() -> None:
    assert collate([example(64, 96, 1)], 32).images.shape == (1, 3, 64, 96)


def test_data_set_without_images() -> None:
    with pytest.raises(ValueError, match="holds no image"):
        Stream(Nothing(), VIEW, View(), 0)


def test_many_steps_are_not_listed_beforehand() -> None:
    first = next(batches(stream(), batch_size=2, first=10**12, last=10**13, workers=0))
    assert len(first.names) == 2


# --- images of rare classes come oftener --------------------------------------------------------


class LongTail(Squares):
    """Class 0 is in six of seven images, class 1 in two, class 2 in one; labels without reading."""

    present: tuple[set[int], ...] = ({0}, {0}, {0}, {0}, {0, 1}, {0, 1, 2}, set())

    def labels_of(self, index: int) -> set[int]:
        return self.present[index]


def long_tail(threshold: float, seed: int = 0) -> Stream:
    return Stream(LongTail(), VIEW, View(mean=(0.0,) * 3, std=(255.0,) * 3), seed, threshold)


def test_factors_are_those_of_the_paper() -> None:
    # Shares of the images: 6/7, 2/7, 1/7; sqrt(0.5 / (2/7)) = 1.3229, sqrt(0.5 / (1/7)) = 1.8708.
    expected = [1, 1, 1, 1, 1.3228757, 1.8708287, 1]
    np.testing.assert_allclose(repeat_factors(LongTail(), 0.5), expected)
    np.testing.assert_array_equal(repeat_factors(LongTail(), 0.001), np.ones(7))


def test_images_are_repeated_as_often_as_their_factors_say() -> None:
    shown = long_tail(0.5)
    passes, counts = 0, np.zeros(7)
    for t in range(3000):
        epoch, position = shown._place(t)
        if position == 0:
            passes = epoch + 1
            counts += shown._times(shown.factors, epoch)  # type: ignore[arg-type]
    assert passes > 350
    np.testing.assert_allclose(counts / passes, [1, 1, 1, 1, 1.3229, 1.8708, 1], atol=0.08)
    names = [shown[t].name for t in range(shown.starts[3])]
    for epoch in range(3):
        found = Counter(names[shown.starts[epoch] : shown.starts[epoch + 1]])
        times = shown._times(shown.factors, epoch)  # type: ignore[arg-type]
        assert [found[f"square {i}"] for i in range(7)] == times.tolist()


def test_repeated_views_depend_on_seed_and_number_alone() -> None:
    forward = [long_tail(0.5)[t] for t in range(30)]
    shown = long_tail(0.5)
    for t in (29, 3, 17, 8):
        assert shown[t].name == forward[t].name
        assert torch.equal(shown[t].image, forward[t].image)
    assert [long_tail(0.5, seed=1)[t].name for t in range(30)] != [e.name for e in forward]


def test_nothing_rare_changes_nothing() -> None:
    plain = [stream()[t].name for t in range(21)]
    assert [long_tail(0.01)[t].name for t in range(21)] == plain


def test_labels_pass_through_what_wraps_a_data_set() -> None:
    assert repeat_factors(First(LongTail(), 5), 0.5).tolist() == [1, 1, 1, 1, (0.5 / 0.2) ** 0.5]
    train, held = hold_out(LongTail(), 7)
    assert [labels_of(held, i) for i in range(len(held))] == [set()]
    assert labels_of(train, 5) == {0, 1, 2}
    assert labels_of(SemanticView(LongTail()), 4) == {0, 1}
    categories = tuple(replace(c, is_thing=c.id != 1) for c in tiny.categories(7))
    things = LongTail()
    things.categories = categories
    kept = [i for i, c in enumerate(categories) if c.is_thing]
    expected = {kept.index(label) for label in (0, 1, 2) if label in kept}
    assert labels_of(ThingView(things), 5) == expected


def test_data_set_that_does_not_tell_its_labels() -> None:
    with pytest.raises(ValueError, match=r"Squares data sets do not tell .* repeat_threshold=0"):
        Stream(Squares(), VIEW, View(), 0, 0.001)
    with pytest.raises(ValueError, match="Squares data sets"):
        Stream(First(Squares(), 3), VIEW, View(), 0, 0.001)


def test_signals_are_for_the_training_to_answer() -> None:
    """A loading process that a terminal's Ctrl-C or a cluster reaches, too, goes on."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    try:
        loader._ignore_signals(0)
        for number in numbers:
            os.kill(os.getpid(), number)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
