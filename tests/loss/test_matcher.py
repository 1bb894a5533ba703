from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny
from mask2former.loss.matcher import Matcher, Places, cross_entropy_cost, dice_cost
from mask2former.loss.truth import Coverage, Truth
from mask2former.structures import Prediction, Targets

CLASSES = 5


def perfect(targets: Targets, order: list[int], queries: int = 6) -> Prediction:
    """Query `order[i]` answers for object i as well as can be; the others say "no object"."""
    count = len(targets.labels)
    class_logits = torch.zeros(1, queries, CLASSES + 1)
    class_logits[..., -1] = 8.0
    cells = F.avg_pool2d(targets.masks[:, 0].float().unsqueeze(1), 4).squeeze(1)
    features = (cells - 0.5) * 20  # one channel an object
    embeddings = torch.full((1, queries, count), -1.0)
    for i, query in enumerate(order):
        class_logits[0, query, targets.labels[i]] = 12.0
        embeddings[0, query] = F.one_hot(torch.tensor(i), count).float()
    return Prediction(
        class_logits=class_logits,
        mask_embeddings=embeddings,
        mask_features=features[None, :, None],
    )


def match(
    prediction: Prediction, targets: Targets, on: Places = "points", points: int = 256
) -> tuple[list[int], list[int]]:
    torch.manual_seed(0)
    cells = (prediction.mask_features.shape[-2], prediction.mask_features.shape[-1])
    truth = Truth.of(targets, points=on == "points", cells=cells if on == "masks" else None)
    matcher = Matcher(points=points, on=on)
    pixels = prediction.mask_features.movedim(1, -1).unbind()
    (found,) = matcher(prediction, pixels, (truth,), "prediction 3 of 4", ("street.jpg",))
    return found.queries.tolist(), found.objects.tolist()


@pytest.mark.parametrize("on", ["points", "masks"])
def test_each_object_goes_to_the_query_that_answers_for_it(on: Places) -> None:
    targets = tiny.targets()[0]
    assert match(perfect(targets, [4, 0, 2]), targets, on) == ([0, 2, 4], [1, 2, 0])


@pytest.mark.parametrize("on", ["points", "masks"])
def test_image_without_objects(on: Places) -> None:
    prediction = perfect(tiny.targets()[0], [0, 1, 2])
    assert match(prediction, tiny.nothing(), on) == ([], [])


def test_more_objects_than_queries() -> None:
    targets = tiny.targets()[0]
    prediction = perfect(targets, [1, 0, 1], queries=2)
    queries, objects = match(prediction, targets)
    assert queries == [0, 1]
    assert len(set(objects)) == 2


def test_class_decides_between_equal_masks() -> None:
    targets = replace(
        tiny.targets()[0],
        masks=tiny.discs([(40, 30, 20)] * 3),
        labels=torch.tensor([2, 0, 1]),
    )
    assert match(perfect(targets, [1, 3, 5]), targets) == ([1, 3, 5], [0, 1, 2])


def test_costs_of_pairs_are_those_of_the_plain_formulas() -> None:
    logits, truth = tiny.wave(4 * 50, 1.0).view(4, 50) * 5, tiny.wave(3 * 50, 2.0).view(3, 50) > 0
    truth = truth.float()
    entropy, dice = cross_entropy_cost(logits, truth), dice_cost(logits, truth)
    for q in range(4):
        for n in range(3):
            expected = F.binary_cross_entropy_with_logits(logits[q], truth[n])
            assert entropy[q, n].item() == pytest.approx(expected.item(), rel=1e-5)
            p = logits[q].sigmoid()
            overlap = (2 * (p * truth[n]).sum() + 1) / (p.sum() + truth[n].sum() + 1)
            assert dice[q, n].item() == pytest.approx(1 - overlap.item(), rel=1e-5)


@pytest.mark.parametrize("on", ["points", "masks"])
def test_ignored_pixels_do_not_count(on: Places) -> None:
    """Two queries: one right where it counts, one right everywhere else."""
    left = torch.zeros(1, 1, tiny.HEIGHT, tiny.WIDTH, dtype=torch.bool)
    left[..., :32] = True
    ignore = torch.zeros(1, tiny.HEIGHT, tiny.WIDTH, dtype=torch.bool)
    ignore[..., 48:] = True
    features = torch.full((1, 2, 1, 16, 24), -9.0)
    features[:, 0, :, :, :8] = 9.0
    features[:, 0, :, :, 12:] = 9.0  # wrong, but void
    features[:, 1, :, :, :10] = 9.0  # wrong in two columns that count
    prediction = Prediction(
        class_logits=torch.zeros(1, 2, 6),
        mask_embeddings=torch.eye(2)[None],
        mask_features=features,
    )
    targets = Targets(labels=torch.tensor([0]), masks=left)
    assert match(prediction, targets, on)[0] == [1]
    assert match(prediction, replace(targets, ignore=ignore), on)[0] == [0]
    everything = replace(targets, ignore=torch.ones_like(ignore))
    assert len(match(prediction, everything, on)[0]) == 1


def damaged(**tensors: Tensor) -> Prediction:
    return replace(perfect(tiny.targets()[0], [0, 1, 2]), **tensors)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("class_logits", float("nan"), ("class cost", "class logits")),
        ("mask_embeddings", float("nan"), ("mask cost", "mask embeddings")),
        ("mask_features", float("inf"), ("mask cost", "mask features")),
    ],
)
@pytest.mark.parametrize("on", ["points", "masks"])
def test_error_names_image_layer_and_term(
    field: str, value: float, words: tuple[str, str], on: Places
) -> None:
    sound = perfect(tiny.targets()[0], [0, 1, 2])
    tensor = getattr(sound, field).clone()
    tensor[0, 0] = value
    with pytest.raises(ValueError, match=r"^street\.jpg: .* of prediction 3 of 4 ") as caught:
        match(damaged(**{field: tensor}), tiny.targets()[0], on)
    for word in (*words, "learning rate"):
        assert word in str(caught.value)


def test_nan_is_found_without_objects_too() -> None:
    class_logits = torch.full((1, 6, CLASSES + 1), float("nan"))
    with pytest.raises(ValueError, match=r"street\.jpg: the class cost"):
        match(damaged(class_logits=class_logits), tiny.nothing())


def test_coverage_is_the_covered_share_of_each_cell() -> None:
    masks = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    masks[..., :4, :2] = True
    ignore = torch.zeros(1, 8, 8, dtype=torch.bool)
    ignore[:, 4:, 4:7] = True
    cells = Coverage.of(
        Targets(labels=torch.tensor([0]), masks=masks, ignore=ignore), torch.Size((2, 2))
    )
    assert cells.truth.tolist() == [[[[0.5, 0.0], [0.0, 0.0]]]]
    assert cells.valid is not None
    assert cells.valid.tolist() == [[[True, True], [True, False]]]


@pytest.mark.parametrize("on", ["points", "masks"])
def test_a_clip_is_matched_over_all_its_frames(on: Places) -> None:
    """Two objects that are alike in the first frame and apart in the second."""
    first = tiny.discs([(30, 30, 15)] * 2)
    second = tiny.discs([(20, 20, 12), (70, 40, 12)])
    targets = Targets(labels=torch.tensor([1, 1]), masks=torch.cat((first, second), 1))
    cells = F.avg_pool2d(targets.masks.float(), 4)
    prediction = Prediction(
        class_logits=torch.zeros(1, 2, CLASSES + 1),
        mask_embeddings=torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]),
        mask_features=((cells - 0.5) * 20)[None],
        is_clip=True,
    )
    assert match(prediction, targets, on) == ([0, 1], [1, 0])
