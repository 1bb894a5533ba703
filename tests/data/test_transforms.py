from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mask2former.data.transforms import PAD, TrainView, apply, distort_color, random_crop
from mask2former.imaging import stretch_contrast
from mask2former.masks import IdMapMasks
from mask2former.structures import Sample, Targets

HEIGHT, WIDTH = 90, 120
PLAIN = TrainView(size=120, scale=(1.0, 1.0), crop=(HEIGHT, WIDTH), flip=False)


def scene(crowds: tuple[int, ...] = (), void: bool = False) -> Sample:
    """A red disc, a green box and a blue bar on black: each mask can be read off the colours.

    With `void` the lower right corner is void (and black).
    """
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    ids = np.zeros((HEIGHT, WIDTH), np.int32)
    ids[(x - 35) ** 2 + (y - 40) ** 2 < 25**2] = 1
    ids[10:50, 75:110] = 2
    ids[70:82, 5:70] = 3
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for channel in range(3):
        image[..., channel] = 255 * (ids == channel + 1)
    corner = (y >= 60) & (x >= 80)
    return Sample(
        image=image,
        labels=np.array([7, 5, 6]),
        masks=IdMapMasks(ids, [1, 2, 3]),
        is_crowd=np.array([i in crowds for i in range(3)]),
        image_id=1,
        name="scene",
        void=IdMapMasks(corner.astype(np.int32), [1]) if void else None,
    )


def view_of(sample: Sample, view: TrainView, seed: int) -> tuple[np.ndarray, Targets]:
    return apply(sample, view, np.random.default_rng(seed))


CHANNEL = {7: 0, 5: 1, 6: 2}
VIEWS = {
    "jitter inside": TrainView(size=110, scale=(0.4, 2.0), crop=(100, 100)),
    "jitter by the shortest side": TrainView(
        size=80, scale=(0.5, 2.0), fit="shortest_side", crop=(70, 130), flip=False
    ),
    "turned": TrainView(size=120, scale=(0.8, 1.5), crop=(96, 96), turn=True),
    "as it is": PLAIN,
}


def shown(image: np.ndarray, label: int) -> np.ndarray:
    """Where the image shows the object: its colour is brighter than the grey of the padding."""
    return image[..., CHANNEL[label]] > PAD


def widened(mask: np.ndarray) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


@pytest.mark.parametrize("name", VIEWS)
def test_masks_lie_where_the_image_shows_the_objects(name: str) -> None:
    offsets = []
    for seed in range(25):
        image, targets = view_of(scene(), VIEWS[name], seed)
        assert image.shape == (*VIEWS[name].crop, 3)
        assert image.dtype == np.uint8
        assert targets.masks.shape == (len(targets.labels), 1, *VIEWS[name].crop)
        for label, mask in zip(targets.labels.tolist(), targets.masks[:, 0].numpy(), strict=True):
            seen = shown(image, label)
            # Nearest and bilinear may disagree about a pixel at the edge, no further.
            assert not (seen & ~widened(mask)).any(), f"seed {seed}, label {label}"
            assert not (mask & ~widened(seen)).any(), f"seed {seed}, label {label}"
            if mask.sum() > 50:
                offsets.append(np.argwhere(seen).mean(0) - np.argwhere(mask).mean(0))
    assert len(offsets) > 40
    assert np.abs(offsets).max() < 0.6
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.08  # to no side more than to the other


def test_as_it_is_nothing_changes() -> None:
    sample = scene()
    image, targets = view_of(sample, PLAIN, 0)
    np.testing.assert_array_equal(image, sample.image)
    assert targets.labels.tolist() == [7, 5, 6]
    box = (0.0, 0.0, float(WIDTH), float(HEIGHT))
    np.testing.assert_array_equal(targets.masks[:, 0], sample.masks.render(box, (HEIGHT, WIDTH)))
    assert targets.ignore is None


def test_same_random_numbers_same_view() -> None:
    view = replace(VIEWS["turned"], color=True, invert=0.5)
    (a, ta), (b, tb) = view_of(scene(), view, 3), view_of(scene(), view, 3)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(ta.masks, tb.masks)
    assert not np.array_equal(a, view_of(scene(), view, 4)[0])


@pytest.mark.parametrize(
    ("view", "count"),
    [
        (replace(PLAIN, crop=(120, 120)), 1),
        (replace(PLAIN, crop=(120, 120), flip=True), 2),
        (replace(PLAIN, crop=(120, 120), turn=True, flip=True), 8),
        (replace(PLAIN, turn=True, flip=True), 4),  # an oblong cannot be turned by a quarter
    ],
)
def test_all_ways_round_occur(view: TrainView, count: int) -> None:
    seen = {view_of(scene(), view, seed)[0].tobytes() for seed in range(80)}
    assert len(seen) == count


# --- which objects are targets -------------------------------------------------------------------


def test_crowds_are_no_targets() -> None:
    _, targets = view_of(scene(crowds=(1,)), PLAIN, 0)
    assert targets.labels.tolist() == [7, 6]
    assert targets.ignore is None


def test_void_and_crowds_are_ignored_if_asked_for() -> None:
    sample = scene(crowds=(1,), void=True)
    _, targets = view_of(sample, replace(PLAIN, ignore_void=True), 0)
    assert targets.ignore is not None
    expected = sample.image[..., 1] > 0
    expected[60:, 80:] = True
    np.testing.assert_array_equal(targets.ignore[0], expected)
    _, targets = view_of(scene(), replace(PLAIN, ignore_void=True), 0)
    assert targets.ignore is not None
    assert not targets.ignore.any()


@pytest.mark.parametrize("seed", range(8))
def test_ignored_pixels_move_with_the_image(seed: int) -> None:
    view = replace(VIEWS["turned"], ignore_void=True)
    image, targets = view_of(scene(crowds=(1,)), view, seed)
    assert targets.ignore is not None
    seen, ignore = shown(image, 5), targets.ignore[0].numpy()
    assert not (seen & ~widened(ignore)).any()
    assert not (ignore & ~widened(seen)).any()


def test_objects_outside_the_crop_are_dropped() -> None:
    counts = set()
    for seed in range(40):
        view = TrainView(size=120, scale=(2.0, 2.0), crop=(50, 50), flip=False)
        _, targets = view_of(scene(), view, seed)
        assert targets.masks.flatten(1).any(1).all()
        counts.add(len(targets.labels))
        assert targets.masks.shape[1:] == (1, 50, 50)
    assert 0 in counts
    assert max(counts) >= 1


# --- scale and place -----------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["inside", "shortest_side"])
def test_scale_is_drawn_from_its_range_and_crops_from_the_whole_image(fit: str) -> None:
    view = TrainView(size=100, scale=(0.5, 2.0), fit=fit, crop=(80, 80))  # type: ignore[arg-type]
    side = max(HEIGHT, WIDTH) if fit == "inside" else min(HEIGHT, WIDTH)
    rng = np.random.default_rng(0)
    scales, left, right = [], [], []
    for _ in range(500):
        (x0, y0, x1, y1), (h, w) = random_crop((HEIGHT, WIDTH), view, rng)
        assert 0 < h <= 80
        assert 0 < w <= 80
        assert 0 <= x0 < x1 <= WIDTH + 1e-9
        assert 0 <= y0 < y1 <= HEIGHT + 1e-9
        scales += [w / (x1 - x0) * side / 100, h / (y1 - y0) * side / 100]
        left.append(x0)
        right.append(x1)
    assert 0.48 < min(scales) < 0.56
    assert 1.9 < max(scales) < 2.03
    assert min(left) == 0
    assert max(right) == pytest.approx(WIDTH)
    assert max(left) > 40


def test_small_image_is_padded_with_grey_and_background() -> None:
    view = TrainView(size=60, scale=(1.0, 1.0), crop=(100, 100), flip=False)
    image, targets = view_of(scene(), view, 0)
    assert (image[45:] == PAD).all()
    assert (image[:, 60:] == PAD).all()
    assert (image[:45, :60] != PAD).mean() > 0.9
    assert not targets.masks[..., 45:, :].any()
    assert not targets.masks[..., 60:].any()


def test_every_size_of_image_can_be_cropped() -> None:
    """Rounding must not put a crop's edge outside the image."""
    rng = np.random.default_rng(1)
    view = TrainView(size=37, scale=(0.1, 3.0), crop=(23, 31))
    for height in (1, 2, 3, 7, 50, 333):
        for width in (1, 2, 3, 11, 67):
            sample = Sample(
                image=np.zeros((height, width, 3), np.uint8),
                labels=np.array([0]),
                masks=IdMapMasks(np.ones((height, width), np.int32), [1]),
                is_crowd=np.array([False]),
                image_id=0,
                name="x",
            )
            for _ in range(5):
                image, targets = apply(sample, view, rng)
                assert image.shape == (23, 31, 3)
                black = (image == 0).all(-1)
                np.testing.assert_array_equal(targets.masks[0, 0], black)


# --- colour --------------------------------------------------------------------------------------


def test_contrast_is_stretched_before_the_crop() -> None:
    dim = replace(scene(), image=scene().image // 10)
    view = replace(PLAIN, contrast_percentiles=(0.0, 100.0))
    image, _ = view_of(dim, view, 0)
    np.testing.assert_array_equal(image, stretch_contrast(dim.image, (0.0, 100.0)))
    assert image.max() == 255


def test_negatives() -> None:
    image, _ = view_of(scene(), replace(PLAIN, invert=1.0), 0)
    np.testing.assert_array_equal(image, 255 - scene().image)
    seen = [view_of(scene(), replace(PLAIN, invert=0.25), seed)[0][0, 0, 0] for seed in range(200)]
    assert np.mean(seen) / 255 == pytest.approx(0.25, abs=0.1)


def test_colour_distortion_stays_within_its_bounds() -> None:
    """Grey has neither hue nor saturation: brightness adds up to 32, contrast scales 0.5 to 1.5."""
    grey = np.full((4, 4, 3), 100, np.uint8)
    means = []
    for seed in range(300):
        out = distort_color(grey, np.random.default_rng(seed))
        assert out.dtype == np.uint8
        assert np.ptp(out.astype(int)) <= 1
        means.append(out.mean())
    assert 34 <= min(means) < 60
    assert 150 < max(means) <= 198
    assert sum(abs(mean - 100) <= 1 for mean in means) > 40  # each is left out half of the time


def test_hue_turns_by_36_degrees_at_most() -> None:
    red = np.full((2, 2, 3), (200, 0, 0), np.uint8)
    turned = 0
    for seed in range(200):
        r, g, b = distort_color(red, np.random.default_rng(seed))[0, 0].astype(int)
        assert r >= g
        assert r >= b
        assert min(g, b) <= 0.75 * r  # brightness and saturation may wash it out, not more
        turned += abs(g - b) > 5
    assert turned > 50


# --- sizes ---------------------------------------------------------------------------------------


def scaled(view: TrainView, size: tuple[int, int], seed: int) -> tuple[int, int]:
    """What an image is scaled to, read off a crop that is larger than it."""
    whole = replace(view, crop=(10_000, 10_000))
    return random_crop(size, whole, np.random.default_rng(seed))[1]


def test_sides_are_drawn_from_a_list() -> None:
    view = TrainView(sizes=(30, 45, 60), fit="shortest_side")
    found = {scaled(view, (90, 120), seed) for seed in range(50)}
    assert found == {(30, 40), (45, 60), (60, 80)}


def test_elongated_images_keep_to_the_longest_side() -> None:
    view = TrainView(sizes=(60,), fit="shortest_side", longest_side=240)
    assert scaled(view, (100, 400), 0) == (60, 240)
    assert scaled(view, (100, 800), 0) == (30, 240)
    assert scaled(view, (800, 100), 0) == (240, 30)


def test_without_the_whole_canvas_nothing_is_padded() -> None:
    view = TrainView(size=60, scale=(1.0, 1.0), crop=(100, 40), whole_canvas=False, turn=True)
    for seed in range(4):  # an oblong view cannot be turned by a quarter
        image, targets = view_of(scene(), view, seed)
        assert image.shape == (45, 40, 3)
        assert targets.masks.shape[-2:] == (45, 40)
        assert (image != PAD).mean() > 0.9
