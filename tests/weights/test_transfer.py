from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tiny
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.structures import Category
from mask2former.weights.transfer import matches, transfer

HEAD = ("decoder.head.class_logits.weight", "decoder.head.class_logits.bias")


def named(*names: str) -> tuple[Category, ...]:
    return tuple(
        Category(id=i, name=name, is_thing=True, color=(0, 0, 0)) for i, name in enumerate(names)
    )


def fresh(config: Mask2FormerConfig) -> Mask2Former:
    torch.manual_seed(0)
    return Mask2Former(config)


def test_classes_of_the_same_name_keep_their_rows() -> None:
    source = tiny.model(replace(tiny.CONFIG, categories=named("car", "dog", "tree")))
    config = replace(tiny.CONFIG, categories=named("tree", "boat", "Car"))
    model, before = fresh(config), fresh(config).state_dict()
    report = transfer(model, source, "source")
    assert (report.kept, report.new) == (("tree", "Car"), ("boat",))
    assert (report.new_queries, report.left_out) == (0, ())
    after, theirs = model.state_dict(), source.state_dict()
    for key in HEAD:
        assert torch.equal(after[key][[0, 2, 3]], theirs[key][[2, 0, 3]])  # 3: "no object"
        assert torch.equal(after[key][1], before[key][1])
    others = [key for key in theirs if key not in HEAD]
    assert all(torch.equal(after[key], theirs[key]) for key in others)


def test_the_source_is_left_as_it_was() -> None:
    source = tiny.model()
    before = {name: tensor.clone() for name, tensor in source.state_dict().items()}
    transfer(fresh(replace(tiny.CONFIG, categories=named("class 1"))), source, "source")
    assert all(torch.equal(before[n], t) for n, t in source.state_dict().items())


@pytest.mark.parametrize("queries", [4, 9])
def test_queries_may_be_fewer_or_more(queries: int) -> None:
    source = tiny.model()  # of 6
    config = replace(tiny.CONFIG, decoder=replace(tiny.CONFIG.decoder, queries=queries))
    model, before = fresh(config), fresh(config).state_dict()
    report = transfer(model, source, "source")
    assert report.new_queries == max(0, queries - 6)
    both = min(queries, 6)
    for key in ("decoder.query_features", "decoder.query_positions"):
        found = model.state_dict()[key]
        assert torch.equal(found[:both], source.state_dict()[key][:both])
        assert torch.equal(found[both:], before[key][both:])


def test_what_a_model_without_queries_from_cells_lacks_is_left_out() -> None:
    source = tiny.model(selected_share=0.1, anchored_masks=True)
    report = transfer(fresh(tiny.CONFIG), source, "source")
    left_out = {name.rsplit(".", 2)[0] for name in report.left_out}
    assert left_out == {"decoder.selection", "decoder.head"}  # of the head, what anchors its masks
    assert {n for n in report.left_out if ".head." in n} == {
        "decoder.head.anchoring.weight",
        "decoder.head.anchoring.bias",
    }


@pytest.mark.parametrize("norm", ["frozen_batch_norm", "batch_norm"])
def test_norms_may_be_frozen_or_thawed(norm: str) -> None:
    backbones = {n: replace(tiny.RESNET, norm=n) for n in ("frozen_batch_norm", "batch_norm")}
    backbone = backbones.pop(norm)
    source = tiny.model(replace(tiny.CONFIG, backbone=backbone))
    (other,) = backbones.values()
    model = fresh(replace(tiny.CONFIG, backbone=other))
    transfer(model, source, "source")
    # Both in evaluation: the same statistics, so the same maps.
    maps = [m.eval().backbone(tiny.images()) for m in (model, source)]
    for ours, theirs in zip(*maps, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_parts_that_differ_are_an_error() -> None:
    source = tiny.model()
    wider = replace(tiny.CONFIG, decoder=replace(tiny.CONFIG.decoder, feedforward=64))
    with pytest.raises(ValueError, match=r"mine: the weights do not fit .*(\n.*)*linear1"):
        transfer(fresh(wider), source, "mine")
    deeper = replace(tiny.CONFIG, decoder=replace(tiny.CONFIG.decoder, layers=4))
    with pytest.raises(ValueError, match=r"missing: decoder\.layers\.3"):
        transfer(fresh(deeper), source, "mine")
    cells = replace(tiny.CONFIG, decoder=replace(tiny.CONFIG.decoder, selected_share=0.1))
    with pytest.raises(ValueError, match=r"missing: decoder\.selection"):
        transfer(fresh(cells), source, "mine")


def test_classes_that_share_a_name_are_told_apart_by_their_ids() -> None:
    """As `structures.class_names` does: two lists of the same data set agree in both."""
    twice = (*named("road"), *(replace(c, id=7) for c in named("wall")), *named("x", "wall")[1:])
    assert matches(twice, twice) == (0, 1, 2)
    assert matches(named("wall"), twice) == (None,)
