"""Against a plain reading of the paper's post-processing, at awkward sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former.inference import resample
from mask2former.inference.postprocess import Sizes, instance, panoptic, segment, semantic
from mask2former.structures import Category, Task, View

CATEGORIES = tuple(
    Category(id=10 * i, name=f"class {i}", is_thing=i < 3, color=(40 * i, 0, 0)) for i in range(5)
)
VIEW = View(object_threshold=0.3, overlap_threshold=0.25, max_detections=12)
SIZES = [
    Sizes(padded=(32, 64), image=(32, 64), output=(32, 64)),
    Sizes(padded=(64, 96), image=(61, 90), output=(70, 102)),
    Sizes(padded=(64, 96), image=(37, 58), output=(13, 21)),
    Sizes(padded=(96, 64), image=(65, 33), output=(311, 157)),
    Sizes(padded=(64, 64), image=(1, 64), output=(1, 200)),
]
every_size = pytest.mark.parametrize("sizes", SIZES, ids=lambda s: f"{s.image}-{s.output}")


def made_up(sizes: Sizes, *, queries: int = 15, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits with confident, unsure and empty queries, overlapping masks and shared classes."""
    generator = torch.Generator().manual_seed(seed)
    class_logits = 2 * torch.randn(queries, len(CATEGORIES) + 1, generator=generator)
    shape = (queries, sizes.padded[0] // 4, sizes.padded[1] // 4)
    mask_logits = 4 * torch.randn(shape, generator=generator)
    mask_logits = F.avg_pool2d(mask_logits, 3, stride=1, padding=1)
    mask_logits[3] = -5
    class_logits[3, 1] = 9
    return class_logits, mask_logits


def two_step_logits(mask_logits: Tensor, sizes: Sizes) -> Tensor:
    height, width = sizes.image
    canvas = F.interpolate(mask_logits[None], sizes.padded, mode="bilinear", align_corners=False)
    cropped = canvas[..., :height, :width]
    return F.interpolate(cropped, sizes.output, mode="bilinear", align_corners=False)[0]


@pytest.fixture(params=[2**20, 700], ids=["one block", "many blocks"])
def block_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "CPU_BLOCK", request.param)


@pytest.mark.usefixtures("block_size")
@every_size
def test_upsampled_equals_resize_crop_resize(sizes: Sizes) -> None:
    _, mask_logits = made_up(sizes)
    blocks = [block for _, block in resample.upsampled(mask_logits, sizes)]
    torch.testing.assert_close(
        torch.cat(blocks, dim=1), two_step_logits(mask_logits, sizes), rtol=0, atol=5e-6
    )


@pytest.mark.usefixtures("block_size")
@every_size
def test_panoptic(sizes: Sizes) -> None:
    class_logits, mask_logits = made_up(sizes)
    scores, labels = class_logits.softmax(-1).max(-1)
    probabilities = two_step_logits(mask_logits, sizes).sigmoid()
    kept = [q for q in range(15) if labels[q] < 5 and scores[q] > VIEW.object_threshold]
    owner = torch.stack([scores[q] * probabilities[q] for q in kept]).argmax(0)
    ids = torch.zeros(sizes.output, dtype=torch.int32)
    expected: list[list[int]] = []  # id, label
    for place, q in enumerate(kept):
        own = probabilities[q] >= 0.5
        seen = own & (owner == place)
        if not seen.any() or (owner == place).sum() / own.sum() < VIEW.overlap_threshold:
            continue
        label = int(labels[q])
        earlier = [id for id, other in expected if other == label and label >= 3]
        if not earlier:
            expected.append([len(expected) + 1, label])
        ids[seen] = earlier[0] if earlier else len(expected)

    result = panoptic(class_logits, mask_logits, sizes, CATEGORIES, VIEW)
    assert len(expected) >= 2
    assert [[s.id, s.label] for s in result.segments] == expected
    assert (result.ids != ids).sum() <= ids.numel() * 1e-4
    for s in result.segments:
        assert s.area == (result.ids == s.id).sum()
        assert s.category is CATEGORIES[s.label]
        assert 0.3 < s.score <= 1


@pytest.mark.usefixtures("block_size")
@pytest.mark.parametrize("things_only", [True, False])
@every_size
def test_instance(sizes: Sizes, things_only: bool) -> None:
    class_logits, mask_logits = made_up(sizes)
    view = View(max_detections=12, instances_of_things_only=things_only)
    logits = two_step_logits(mask_logits, sizes)
    probabilities = class_logits.softmax(-1)[:, :-1]
    pairs = sorted(
        ((float(probabilities[q, k]), q, k) for q in range(15) for k in range(5)), reverse=True
    )
    expected = []
    for probability, q, k in pairs[:12]:
        mask = logits[q] > 0
        if (k < 3 or not things_only) and mask.any():
            score = probability * float(logits[q].sigmoid()[mask].mean())
            expected.append((score, k, mask))
    expected.sort(key=lambda row: -row[0])

    found = instance(class_logits, mask_logits, sizes, CATEGORIES, view)
    assert len(found) == len(expected) > 0
    assert found.labels.tolist() == [k for _, k, _ in expected]
    assert found.scores.tolist() == pytest.approx([score for score, _, _ in expected], abs=1e-6)
    for i, (_, _, mask) in enumerate(expected):
        assert (found.masks[i] != mask).sum() <= mask.numel() * 1e-4
        y, x = found.masks[i].nonzero().T
        box = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        assert found.boxes[i].tolist() == [int(edge) for edge in box]


@pytest.mark.usefixtures("block_size")
@pytest.mark.parametrize("resize_scores", [False, True])
@every_size
def test_semantic(sizes: Sizes, resize_scores: bool) -> None:
    class_logits, mask_logits = made_up(sizes)
    weights = class_logits.softmax(-1)[:, :-1]
    if resize_scores:
        canvas = F.interpolate(mask_logits[None], sizes.padded, mode="bilinear")[0].sigmoid()
        scores = torch.einsum("qk,qhw->khw", weights, canvas)
        scores = scores[None, :, : sizes.image[0], : sizes.image[1]]
        scores = F.interpolate(scores, sizes.output, mode="bilinear")[0]
    else:
        probabilities = two_step_logits(mask_logits, sizes).sigmoid()
        scores = torch.einsum("qk,qhw->khw", weights, probabilities)
    result = semantic(
        class_logits,
        mask_logits,
        sizes,
        CATEGORIES,
        keep_scores=True,
        resize_scores=resize_scores,
    )
    torch.testing.assert_close(result.scores, scores, rtol=0, atol=5e-6)
    assert (result.labels != scores.argmax(0)).sum() <= result.labels.numel() * 1e-4


def test_tasks_together_give_what_each_gives_alone() -> None:
    sizes = SIZES[1]
    logits = made_up(sizes)
    both = segment(*logits, sizes, CATEGORIES, VIEW, ("instance", "panoptic"), name="a.jpg")
    alone = panoptic(*logits, sizes, CATEGORIES, VIEW)
    assert both.name == "a.jpg"
    assert both.size == sizes.output
    assert both.semantic is None
    assert both.panoptic is not None
    assert both.instances is not None
    assert torch.equal(both.panoptic.ids, alone.ids)
    assert both.panoptic.segments == alone.segments
    masks = instance(*logits, sizes, CATEGORIES, VIEW).masks
    assert torch.equal(both.instances.masks, masks)


@pytest.mark.parametrize("tasks", [("semantic",), ("semantic", "panoptic")])
def test_the_view_says_whether_semantic_scores_are_resized(tasks: tuple[Task, ...]) -> None:
    sizes = SIZES[1]
    logits = made_up(sizes)
    for resize in (False, True):
        view = replace(VIEW, resize_semantic_scores=resize)
        found = segment(*logits, sizes, CATEGORIES, view, tasks, keep_scores=True)
        alone = semantic(*logits, sizes, CATEGORIES, keep_scores=True, resize_scores=resize)
        assert found.semantic is not None
        assert torch.equal(found.semantic.scores, alone.scores)
        assert (found.panoptic is None) == ("panoptic" not in tasks)


def test_nothing_above_the_threshold_gives_an_empty_result() -> None:
    class_logits, mask_logits = made_up(SIZES[1])
    class_logits[:, -1] = 30
    result = panoptic(class_logits, mask_logits, SIZES[1], CATEGORIES, VIEW)
    assert result.segments == ()
    assert result.ids.shape == SIZES[1].output
    assert not result.ids.any()


def test_empty_masks_are_no_instances() -> None:
    class_logits, mask_logits = made_up(SIZES[1])
    found = instance(class_logits, mask_logits - 100, SIZES[1], CATEGORIES, VIEW)
    assert len(found) == 0
    assert found.masks.shape == (0, *SIZES[1].output)
    assert found.boxes.shape == (0, 4)


def test_half_precision_is_computed_in_float32_even_under_autocast() -> None:
    class_logits, mask_logits = (x.bfloat16() for x in made_up(SIZES[1]))
    expected = instance(class_logits.float(), mask_logits.float(), SIZES[1], CATEGORIES, VIEW)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = instance(class_logits, mask_logits, SIZES[1], CATEGORIES, VIEW)
    assert torch.equal(found.masks, expected.masks)
    assert torch.equal(found.scores, expected.scores)


def test_bad_arguments_are_named() -> None:
    class_logits, mask_logits = made_up(SIZES[1])
    with pytest.raises(ValueError, match="6 columns, but 3 categories"):
        panoptic(class_logits, mask_logits, SIZES[1], CATEGORIES[:3], VIEW)
    wrong: tuple[Task, ...] = ("panoptik",)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"panoptik.*choose one or more of panoptic"):
        segment(class_logits, mask_logits, SIZES[1], CATEGORIES, VIEW, wrong)
