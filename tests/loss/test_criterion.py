from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny
from mask2former.loss import criterion as criterion_module
from mask2former.loss.criterion import Criterion, LossConfig, Losses, mask_losses
from mask2former.loss.matcher import Places
from mask2former.structures import Output, Prediction, Targets

CLASSES = 5
PLACES: list[Places] = ["points", "masks"]
everywhere = pytest.mark.parametrize("on", PLACES)


def criterion(on: Places = "points", **fields: float) -> Criterion:
    config = LossConfig(points=128, matching_on=on, loss_on=on)
    return Criterion(replace(config, **fields), tiny.categories(CLASSES))


def output(layers: int = 2, queries: int = 4, frames: int = 1, seed: int = 0) -> Output:
    """Predictions by formula for two images, as leaves of the graph."""

    def numbers(*shape: int, start: float) -> Tensor:
        return tiny.wave(math.prod(shape), seed + start).view(shape).clone().requires_grad_()

    features = numbers(2, 8, frames, 16, 24, start=0.1)
    return Output(
        predictions=tuple(
            Prediction(
                class_logits=numbers(2, queries, CLASSES + 1, start=1.0 + i),
                mask_embeddings=numbers(2, queries, 8, start=20.0 + i),
                mask_features=features,
                is_clip=frames > 1,
            )
            for i in range(layers)
        )
    )


def leaves(out: Output) -> list[Tensor]:
    found = [out.predictions[0].mask_features]
    for prediction in out.predictions:
        found += [prediction.class_logits, prediction.mask_embeddings]
    return found


def losses(
    out: Output, targets: tuple[Targets, ...], on: Places = "points", **fields: float
) -> Losses:
    torch.manual_seed(0)
    return criterion(on, **fields)(out, targets)


@everywhere
def test_terms_of_every_prediction_weighted_and_summed(on: Places) -> None:
    found = losses(output(3), tiny.targets(), on)
    assert found.classification.shape == found.mask.shape == found.dice.shape == (3,)
    total = 2 * found.classification.sum() + 5 * found.mask.sum() + 5 * found.dice.sum()
    torch.testing.assert_close(found.total, total)
    weighted = losses(output(3), tiny.targets(), on, class_weight=0.0, mask_weight=0.0)
    # The weights of the matching are the same ones: only a layer's matches may differ.
    torch.testing.assert_close(weighted.total, 5 * weighted.dice.sum())
    found.total.backward()


@everywhere
def test_every_input_gets_a_gradient(on: Places) -> None:
    out = output()
    losses(out, tiny.targets(), on).total.backward()
    for x in leaves(out):
        assert x.grad is not None
        assert x.grad.isfinite().all()
        assert x.grad.any()


def test_class_term_is_weighted_cross_entropy() -> None:
    """Unmatched queries count a tenth, and the mean is over the weights."""
    out, targets = output(1), (tiny.nothing(), tiny.targets()[1])
    found = losses(out, targets).classification[0]
    candidates = []
    for query in range(4):
        labels = torch.full((2, 4), CLASSES)
        labels[1, query] = targets[1].labels[0]
        weights = torch.where(labels == CLASSES, 0.1, 1.0)
        each = F.cross_entropy(out.class_logits.flatten(0, 1), labels.flatten(), reduction="none")
        candidates.append((each * weights.flatten()).sum() / weights.sum())
    assert any(torch.isclose(found, c, rtol=1e-6) for c in candidates)


@everywhere
def test_perfect_prediction_costs_next_to_nothing(on: Places) -> None:
    targets = tiny.targets()
    cells = [F.avg_pool2d(t.masks[:, 0].float(), 4) for t in targets]
    features = torch.full((2, 4, 1, 16, 24), -9.0)
    class_logits = torch.zeros(2, 4, CLASSES + 1)
    for image, (target, cell) in enumerate(zip(targets, cells, strict=True)):
        features[image, : len(cell), 0] = cell.clamp(1e-4, 1 - 1e-4).logit()
        class_logits[image, :, -1] = 20.0
        for query, label in enumerate(target.labels):
            class_logits[image, query, label] = 40.0
    out = Output(
        predictions=(
            Prediction(
                class_logits=class_logits,
                mask_embeddings=torch.eye(4).expand(2, -1, -1),
                mask_features=features,
            ),
        )
    )
    found = losses(out, targets, on)
    assert found.classification.item() < 1e-6
    # What is left is the edges, where a cell is half an object's: most points lie there.
    limit = {"points": (0.15, 0.2), "masks": (0.06, 0.12)}[on]
    assert found.mask.item() < limit[0]
    assert found.dice.item() < limit[1]
    bad = losses(output(1), targets, on)
    assert bad.mask.item() > 0.6
    assert bad.dice.item() > 0.3


# --- few objects, many objects -------------------------------------------------------------------


@everywhere
def test_image_without_objects_adds_no_mask_terms(on: Places) -> None:
    out = output()
    found = losses(out, (tiny.nothing(), tiny.targets()[1]), on)
    assert found.total.isfinite()
    assert (found.mask > 0).all()
    found.total.backward()
    assert out.predictions[0].mask_embeddings.grad is not None
    assert not out.predictions[0].mask_embeddings.grad[0].any()


@everywhere
@pytest.mark.parametrize("frames", [1, 2])
def test_batch_without_any_object(on: Places, frames: int) -> None:
    """The mask terms are 0 and every parameter still gets a gradient, as DDP needs."""
    out = output(frames=frames)
    empty = replace(
        tiny.nothing(), masks=torch.zeros(0, frames, tiny.HEIGHT, tiny.WIDTH, dtype=torch.bool)
    )
    found = losses(out, (empty, empty), on)
    assert not found.mask.any()
    assert not found.dice.any()
    assert (found.classification > 0).all()
    found.total.backward()
    for x in leaves(out):
        assert x.grad is not None
        assert x.grad.isfinite().all()


@everywhere
def test_more_objects_than_queries(on: Places) -> None:
    found = losses(output(queries=2), tiny.targets(), on)
    assert found.total.isfinite()
    out = output(queries=2)
    losses(out, tiny.targets(), on).total.backward()
    grad = out.predictions[0].mask_embeddings.grad
    assert grad is not None
    assert grad[0].any(dim=-1).all()  # both queries of the first image have found an object


def test_mask_terms_are_per_object_of_the_batch() -> None:
    """An object more in another image halves what one object costs."""
    one = losses(output(1, queries=1), (tiny.nothing(), tiny.targets()[1]), "masks")
    both = (tiny.targets()[1], tiny.targets()[1])
    out = output(1, queries=1)
    for x in leaves(out):
        x.data[0] = x.data[1]
    torch.testing.assert_close(losses(out, both, "masks").mask, one.mask)


# --- parts of a batch ----------------------------------------------------------------------------


@everywhere
@pytest.mark.parametrize("queries", [4, 2])  # 2: an object of the first image is left over
def test_losses_of_parts_add_up(on: Places, queries: int) -> None:
    """Image by image, knowing how many objects all have: the losses and gradients of the whole."""
    whole, targets, seeds = output(queries=queries), tiny.targets(), (11, 12)
    found = criterion(on)(whole, targets, seeds=seeds)
    found.total.backward()
    parts = output(queries=queries)
    terms = []
    for image in range(2):
        one = Output(
            predictions=tuple(
                replace(
                    p,
                    class_logits=p.class_logits[image : image + 1],
                    mask_embeddings=p.mask_embeddings[image : image + 1],
                    mask_features=p.mask_features[image : image + 1],
                )
                for p in parts.predictions
            )
        )
        losses = criterion(on)(
            one, targets[image : image + 1], counts=[3, 1], seeds=seeds[image : image + 1]
        )
        losses.total.backward()
        terms.append(losses)
    for name in ("classification", "mask", "dice", "total"):
        added = getattr(terms[0], name) + getattr(terms[1], name)
        torch.testing.assert_close(added, getattr(found, name))
    for ours, theirs in zip(leaves(parts), leaves(whole), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_seeds_are_all_that_points_depend_on() -> None:
    torch.manual_seed(1)
    a = criterion()(output(), tiny.targets(), seeds=(1, 2)).total
    torch.manual_seed(2)
    assert torch.equal(criterion()(output(), tiny.targets(), seeds=(1, 2)).total, a)
    assert not torch.equal(criterion()(output(), tiny.targets(), seeds=(1, 3)).total, a)


# --- void ----------------------------------------------------------------------------------------


def with_void(targets: tuple[Targets, ...], void: Tensor, fill: bool) -> tuple[Targets, ...]:
    """The same targets with `void` left out, and every mask set to `fill` under it."""
    return tuple(
        replace(t, masks=torch.where(void, torch.tensor(fill), t.masks), ignore=void)
        for t in targets
    )


@everywhere
def test_masks_under_void_pixels_do_not_matter(on: Places) -> None:
    """Of both matching and loss: the same terms, whatever the targets say under void."""
    void = torch.zeros(1, tiny.HEIGHT, tiny.WIDTH, dtype=torch.bool)
    void[:, 16:48, 40:72] = True
    targets = tiny.targets()
    empty, full = (losses(output(), with_void(targets, void, x), on) for x in (False, True))
    plain = losses(output(), targets, on)
    # A point less than half a pixel outside still reads a bit of the pixel inside.
    tolerance = {"masks": 1e-6, "points": 0.05}[on]
    for a, b in zip(vars(empty).values(), vars(full).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=0)
    assert not torch.allclose(empty.mask, plain.mask, rtol=1e-3)


@everywhere
def test_gradient_is_zero_under_void(on: Places) -> None:
    void = torch.zeros(1, tiny.HEIGHT, tiny.WIDTH, dtype=torch.bool)
    void[..., 48:] = True
    out = output()
    losses(out, with_void(tiny.targets(), void, False), on).mask.sum().backward()
    grad = out.predictions[0].mask_features.grad
    assert grad is not None
    assert not grad[..., 13:].any()  # cell 12 is still read by points just left of the border
    assert grad[..., :12].any()


@everywhere
def test_void_in_one_image_of_the_batch(on: Places) -> None:
    void = torch.ones(1, tiny.HEIGHT, tiny.WIDTH, dtype=torch.bool)
    first, second = tiny.targets()
    mixed = losses(output(), (replace(first, ignore=void), second), on)
    assert mixed.total.isfinite()
    three_less = losses(output(), (tiny.nothing(), second), on)
    if on == "masks":  # where nothing is drawn at random
        torch.testing.assert_close(mixed.mask * 4, three_less.mask)


def test_mask_losses_with_nothing_valid_are_zero() -> None:
    entropy, dice = mask_losses(torch.ones(2, 5), torch.ones(2, 5), torch.zeros(2, 5).bool())
    assert entropy.item() == 0
    assert dice.item() == 0


# --- precision, clips, errors --------------------------------------------------------------------


def test_losses_are_fp32_whatever_the_model_computed_in() -> None:
    exact = output()
    half = Output(
        predictions=tuple(
            replace(
                p,
                class_logits=p.class_logits.bfloat16(),
                mask_embeddings=p.mask_embeddings.bfloat16(),
                mask_features=exact.predictions[0].mask_features.bfloat16(),
            )
            for p in exact.predictions
        )
    )
    found = losses(half, tiny.targets(), "masks")
    assert found.total.dtype == torch.float32
    rounded = Output(
        predictions=tuple(
            replace(
                p,
                class_logits=p.class_logits.float(),
                mask_embeddings=p.mask_embeddings.float(),
                mask_features=p.mask_features.float(),
            )
            for p in half.predictions
        )
    )
    torch.testing.assert_close(found.total, losses(rounded, tiny.targets(), "masks").total)
    found.total.backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = losses(rounded, tiny.targets(), "masks")
    torch.testing.assert_close(inside.total, found.total)


@everywhere
def test_clip_terms_are_summed_over_frames(on: Places) -> None:
    """Three frames that are alike cost three times what one costs; the class term is the same."""
    one = output(1)
    features = one.predictions[0].mask_features.detach().expand(-1, -1, 3, -1, -1)
    three = Output(predictions=(replace(one.predictions[0], mask_features=features, is_clip=True),))
    clips = tuple(replace(t, masks=t.masks.expand(-1, 3, -1, -1)) for t in tiny.targets())
    single, triple = losses(one, tiny.targets(), on), losses(three, clips, on)
    torch.testing.assert_close(triple.classification, single.classification)
    tolerance = 1e-5 if on == "masks" else 0.1
    torch.testing.assert_close(triple.mask, 3 * single.mask, rtol=tolerance, atol=0)


def test_error_names_the_image_and_the_prediction() -> None:
    out = output(3)
    with torch.no_grad():
        out.predictions[1].class_logits[1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"b\.png: the class cost of prediction 1 of 3"):
        criterion()(out, tiny.targets(), ("a.png", "b.png"))
    with pytest.raises(ValueError, match="image 1: the class cost of prediction 1 of 3"):
        criterion()(out, tiny.targets())


def test_maps_of_chosen_queries() -> None:
    model_output = tiny.model().eval()(tiny.images())
    prediction = model_output.predictions[-1]
    pixels = prediction.mask_features.movedim(1, -1)
    chosen = [
        criterion_module.maps_of(prediction.mask_embeddings[image, queries], pixels[image])
        for image, queries in enumerate(([3], [4, 0]))
    ]
    assert [tuple(maps.shape) for maps in chosen] == [(1, 16, 24), (2, 16, 24)]
    wanted = torch.cat((prediction.mask_logits[0, [3]], prediction.mask_logits[1, [4, 0]]))
    torch.testing.assert_close(torch.cat(chosen), wanted)
    assert len(model_output.auxiliary) == len(model_output.predictions) - 1


def test_maps_are_made_for_matched_queries_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    original = criterion_module.maps_of

    def counted(embeddings: Tensor, pixels: Tensor) -> Tensor:
        asked.append(len(embeddings))
        return original(embeddings, pixels)

    def refuse(self: Prediction) -> Tensor:
        raise AssertionError("the maps of all queries were made")

    monkeypatch.setattr(criterion_module, "maps_of", counted)
    monkeypatch.setattr(Prediction, "mask_logits", property(refuse))
    losses(output(2, queries=50), tiny.targets())
    assert asked == [3, 1] * 2


@everywhere
def test_a_loss_without_gradient_is_the_same(on: Places) -> None:
    expected = losses(output(2), tiny.targets(), on).total.item()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert losses(output(2), tiny.targets(), on).total.item() == expected


def test_criterion_has_no_weights_to_save() -> None:
    assert criterion().state_dict() == {}
