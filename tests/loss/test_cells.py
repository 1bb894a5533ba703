from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import tiny
from mask2former.loss.cells import cell_labels
from mask2former.loss.criterion import Criterion, LossConfig
from mask2former.loss.truth import Coverage
from mask2former.structures import Targets

NO_OBJECT = 5


def labels_of(*things: tuple[int, slice, slice], stuff: tuple[int, ...] = ()) -> Tensor:
    """Cells [8, 8] of a canvas of 64 x 64 with boxes of (label, rows, columns) on it."""
    masks = torch.zeros(len(things), 1, 64, 64, dtype=torch.bool)
    for mask, (_, rows, columns) in zip(masks, things, strict=True):
        mask[:, rows, columns] = True
    target = Targets(labels=torch.tensor([label for label, _, _ in things]).long(), masks=masks)
    is_thing = torch.tensor([label not in stuff for label, _, _ in things]).bool()
    coverage = Coverage.of(target, (16, 16)).truth
    return cell_labels(target.labels, coverage, is_thing, (8, 8), NO_OBJECT)[0]


def test_a_small_thing_is_the_one_cell_that_its_middle_is_in() -> None:
    found = labels_of((2, slice(10, 14), slice(50, 54)))
    assert found[1, 6] == 2
    assert (found != NO_OBJECT).sum() == 1


def test_a_large_thing_is_the_cells_about_its_middle_and_not_its_border() -> None:
    found = labels_of((1, slice(0, 64), slice(0, 64)))
    labelled = (found == 1).nonzero()
    assert len(labelled) == 4  # within 0.15 * 64 pixels of the middle
    assert labelled.float().mean(0).tolist() == [3.5, 3.5]


def test_the_smaller_of_two_things_has_the_cell() -> None:
    large, small = (0, slice(0, 64), slice(0, 64)), (3, slice(24, 32), slice(24, 32))
    for order in ((large, small), (small, large)):
        found = labels_of(*order)
        assert found[3, 3] == 3
        assert found[4, 4] == 0


def test_stuff_and_what_is_not_visible_are_no_object() -> None:
    assert (labels_of((4, slice(0, 64), slice(0, 64)), stuff=(4,)) == NO_OBJECT).all()
    assert (labels_of((1, slice(0, 0), slice(0, 0))) == NO_OBJECT).all()
    assert (labels_of() == NO_OBJECT).all()


def test_every_frame_has_its_own_middle() -> None:
    masks = torch.zeros(1, 2, 64, 64, dtype=torch.bool)
    masks[0, 0, :8, :8] = masks[0, 1, 56:, 56:] = True
    coverage = Coverage.of(Targets(labels=torch.tensor([1]), masks=masks), (16, 16)).truth
    found = cell_labels(torch.tensor([1]), coverage, torch.tensor([True]), (8, 8), NO_OBJECT)
    assert found.shape == (2, 8, 8)
    assert (found == 1).nonzero().tolist() == [[0, 0, 0], [1, 7, 7]]


def test_the_term_is_the_cross_entropy_of_all_cells() -> None:
    model = tiny.model(selected_share=0.1).train()
    config = LossConfig(points=64, cell_weight=3.0)
    output = model(tiny.images())
    torch.manual_seed(0)
    losses = Criterion(config, tiny.categories(5))(output, tiny.targets())
    torch.manual_seed(0)
    without = Criterion(replace(config, cell_weight=0.0), tiny.categories(5))
    rest = without(output, tiny.targets())
    assert rest.cells.item() == 0
    torch.testing.assert_close(losses.total, rest.total + 3 * losses.cells)

    is_thing = torch.tensor([c.is_thing for c in tiny.categories(5)])
    weight = torch.tensor([1.0] * 5 + [0.1])
    total = norm = 0.0
    for logits, target in zip(output.cell_logits, tiny.targets(), strict=True):
        truth = Coverage.of(target, (16, 24)).truth
        wanted = cell_labels(target.labels, truth, is_thing[target.labels], (8, 12), 5)
        chosen = logits.log_softmax(-1).gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
        total -= (chosen * weight[wanted]).sum()
        norm += weight[wanted].sum()
    torch.testing.assert_close(losses.cells, total / norm)
    losses.total.backward()
    tiny.assert_gradients(model)


def test_void_is_no_proof_that_there_is_nothing() -> None:
    model = tiny.model(selected_share=0.1).train()
    config = LossConfig(class_weight=0.0, mask_weight=0.0, dice_weight=0.0, cell_weight=1.0)
    criterion, output = Criterion(config, tiny.categories(5)), model(tiny.images())
    none = torch.zeros(0, 1, 64, 96, dtype=torch.bool)
    empty = Targets(labels=torch.zeros(0).long(), masks=none)
    left = torch.zeros(1, 64, 96, dtype=torch.bool)
    left[..., :48] = True
    found = criterion(output, (replace(empty, ignore=left),) * 2).cells
    nothing = -output.cell_logits[:, :, :, 6:].log_softmax(-1)[..., -1].mean()
    torch.testing.assert_close(found, nothing)
    assert criterion(output, (replace(empty, ignore=torch.ones_like(left)),) * 2).cells == 0


def test_cells_alone_train_what_comes_before_the_decoder() -> None:
    model = tiny.model(selected_share=0.1).train()
    config = LossConfig(class_weight=0.0, mask_weight=0.0, dice_weight=0.0, cell_weight=1.0)
    losses = Criterion(config, tiny.categories(5))(model(tiny.images()), tiny.targets())
    assert not losses.classification.any()
    assert losses.total == losses.cells > 0
    losses.total.backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {"backbone", "pixel_decoder", "decoder"}
    assert all(p.grad is None for p in model.decoder.layers.parameters())


def test_a_model_without_selected_queries_has_no_cells_to_judge() -> None:
    criterion = Criterion(LossConfig(cell_weight=1.0), tiny.categories(5))
    with pytest.raises(AssertionError, match="selected_share"):
        criterion(tiny.model()(tiny.images()), tiny.targets())
