from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from mask2former.loss.criterion import Criterion, LossConfig
from mask2former.modeling.decoder import (
    Attention,
    Decoder,
    DecoderConfig,
    DecoderLayer,
    attention_mask,
)
from mask2former.modeling.mask2former import Mask2Former
from mask2former.modeling.pixel_decoder import PixelDecoderConfig
from mask2former.structures import Output


def step(model: Mask2Former, loss: LossConfig | None = None) -> Output:
    """A forward and a backward pass, after which every gradient is finite."""
    output: Output = model.train()(tiny.images())
    criterion = Criterion(loss or LossConfig(points=64), model.config.categories)
    torch.manual_seed(0)
    criterion(output, tiny.targets()).total.backward()
    tiny.assert_gradients(model)
    return output


def keys_seen(model: Mask2Former) -> list[tuple[int, Tensor | None]]:
    """How many keys each layer attends to, and what it allows."""
    seen: list[tuple[int, Tensor | None]] = []

    def note(module: DecoderLayer, arguments: tuple[Any, ...]) -> None:
        seen.append((arguments[2].shape[1], arguments[4]))

    hooks = [layer.register_forward_pre_hook(note) for layer in model.decoder.layers]
    with torch.no_grad():
        model.eval()(tiny.images())
    for hook in hooks:
        hook.remove()
    return seen


CELLS = {32: 2 * 3, 16: 4 * 6, 8: 8 * 12}


def test_heads_share_the_channels() -> None:
    for config in (DecoderConfig, PixelDecoderConfig):
        with pytest.raises(ValueError, match="decoder: 5 heads cannot share 64 channels"):
            config(channels=64, heads=5)


def test_default_is_the_papers_decoder() -> None:
    output = step(tiny.model())
    assert len(output.predictions) == 1 + 3
    assert output.class_logits.shape == (2, 6, 5 + 1)
    assert output.mask_logits.shape == (2, 6, 16, 24)
    seen = keys_seen(tiny.model())
    assert [keys for keys, _ in seen] == [CELLS[32], CELLS[16], CELLS[8]]
    assert all(allowed is not None and not allowed.all() for _, allowed in seen)


def test_without_masked_attention_every_key_is_seen() -> None:
    model = tiny.model(masked_attention=False)
    step(model)
    assert all(allowed is None for _, allowed in keys_seen(model))
    with torch.no_grad():
        masked = tiny.model().eval()(tiny.images()).class_logits
        plain = model.eval()(tiny.images()).class_logits
    assert not torch.allclose(masked, plain)


@pytest.mark.parametrize("strides", [(8,), (32,), (16, 8), (8, 32)])
def test_layers_take_turns_with_the_named_scales(strides: tuple[int, ...]) -> None:
    model = tiny.model(strides=strides)
    assert model.decoder.level_embedding.shape == (len(strides), 32)
    assert [keys for keys, _ in keys_seen(model)] == [
        CELLS[strides[i % len(strides)]] for i in range(3)
    ]
    output: Output = model.train()(tiny.images())
    Criterion(LossConfig(points=64), tiny.categories(5))(output, tiny.targets()).total.backward()
    tiny.assert_gradients(model)


def test_self_attention_first_changes_the_order() -> None:
    order: list[str] = []
    for first in (False, True):
        model = tiny.model(self_attention_first=first)
        step(model)
        layer = model.decoder.layers[0]
        for name in ("cross_attention", "self_attention"):
            part: Attention = getattr(layer, name)
            part.register_forward_hook(lambda *_, name=name: order.append(name))
        with torch.no_grad():
            model(tiny.images())
    assert order[:2] == ["cross_attention", "self_attention"]
    assert order[2:] == ["self_attention", "cross_attention"]


def test_zero_queries_are_not_supervised() -> None:
    model = tiny.model(learnable_queries=False)
    output = step(model)
    assert len(output.predictions) == 3
    assert "decoder.query_features" not in model.state_dict()
    features, _, _ = model.decoder.queries(torch.zeros(1, 32, 1, 8, 12), (0, 0))
    assert not features.any()


def test_first_prediction_knows_nothing_of_the_image() -> None:
    """It is made of the learnt queries alone, before any layer has looked at the image."""
    output = tiny.model().eval()(tiny.images())
    first, second = output.predictions[:2]
    torch.testing.assert_close(first.class_logits[0], first.class_logits[1])
    assert not torch.allclose(second.class_logits[0], second.class_logits[1])


def test_selected_queries_are_cells_of_the_image() -> None:
    model = tiny.model(selected_share=4 / 96)
    output = step(model)
    assert output.class_logits.shape == (2, 6 + 4, 6)
    first = output.predictions[0].class_logits
    torch.testing.assert_close(first[0, :6], first[1, :6])
    assert not torch.allclose(first[0, 6:], first[1, 6:])


def test_selected_queries_are_the_most_object_like() -> None:
    decoder = tiny.model(selected_share=4 / 96).decoder
    finest = tiny.wave(2 * 32 * 96, 3.0).view(2, 32, 1, 8, 12)
    features, places, _ = decoder.select(finest, (0, 0))
    position = decoder.positions(finest, 8, (0, 0))
    tokens = decoder.selection(finest.flatten(2).transpose(1, 2) + position)

    def likeness(x: Tensor) -> Tensor:
        logits = decoder.head.class_logits(decoder.head.norm(x))
        return logits[..., :-1].logsumexp(-1) - logits[..., -1]

    best = likeness(tokens).topk(4)
    torch.testing.assert_close(likeness(features), best.values)
    assert torch.equal(places, position[best.indices])


def test_anchored_masks_begin_around_their_cells() -> None:
    """With mask features that are nothing but positions, a mask is highest at its query's cell."""
    model = tiny.model(selected_share=4 / 96, anchored_masks=True, position_period=64.0)
    step(model)
    decoder = model.decoder
    with torch.no_grad():
        torch.nn.init.zeros_(decoder.head.mask_embedding[4].weight)
        torch.nn.init.zeros_(decoder.head.mask_embedding[4].bias)
        torch.nn.init.zeros_(decoder.head.anchoring.weight)
        torch.nn.init.constant_(decoder.head.anchoring.bias, 0.2)
        finest = torch.zeros(1, 32, 1, 8, 12)
        positions = decoder.positions(finest, 8, (0, 0))
        features = positions.T.reshape(1, 32, 1, 8, 12)
        cells = torch.tensor([5, 40, 95, 0])
        queries = torch.cat((torch.zeros(6, 32), positions[cells]))[None]
        masks = decoder.head(queries, decoder.anchors(queries), features, False).mask_logits[0]
    assert not masks[:6].any()  # learnt queries have no cell
    assert torch.equal(masks[6:].flatten(1).argmax(1), cells)


def test_all_cells_can_be_selected() -> None:
    output = tiny.model(selected_share=1.0)(tiny.images())
    assert output.class_logits.shape[1] == 6 + 8 * 12


def test_selected_queries_without_learnt_features() -> None:
    output = step(tiny.model(selected_share=4 / 96, learnable_queries=False))
    assert len(output.predictions) == 3
    assert output.class_logits.shape[1] == 10


def test_dropout_is_at_work_in_training_alone() -> None:
    model = tiny.model(dropout=0.5)
    step(model)
    images = tiny.images()
    torch.manual_seed(0)
    with torch.no_grad():
        assert not torch.equal(model(images).class_logits, model(images).class_logits)
        model.eval()
        assert torch.equal(model(images).class_logits, model(images).class_logits)


def test_absolute_positions_do_not_depend_on_the_canvas() -> None:
    decoder = tiny.model(position_period=64.0).decoder
    small, large = torch.zeros(1, 32, 1, 4, 4), torch.zeros(1, 32, 1, 8, 8)
    a = decoder.positions(small, 8, (0, 0)).view(4, 4, 32)
    b = decoder.positions(large, 8, (0, 0)).view(8, 8, 32)
    torch.testing.assert_close(a, b[:4, :4])


def test_other_width_than_the_pixel_decoders_is_projected() -> None:
    config = replace(tiny.CONFIG, decoder=replace(tiny.CONFIG.decoder, channels=16))
    step(tiny.model(config))


@pytest.mark.parametrize("term", ["matching_on", "loss_on"])
def test_loss_on_masks(term: str) -> None:
    step(tiny.model(), LossConfig(points=64, **{term: "masks"}))  # type: ignore[arg-type]


def test_clip_of_one_frame_is_an_image() -> None:
    model = tiny.model().eval()
    images = tiny.images()
    with torch.no_grad():
        image, clip = model(images), model(images.unsqueeze(1))
    assert clip.mask_logits.shape == (2, 6, 1, 16, 24)
    torch.testing.assert_close(clip.class_logits, image.class_logits)
    torch.testing.assert_close(clip.mask_logits.squeeze(2), image.mask_logits)


def test_frames_know_their_time_with_temporal_positions_only() -> None:
    for temporal in (False, True):
        decoder: Decoder = tiny.model(temporal_positions=temporal).decoder
        code = decoder.positions(torch.zeros(1, 32, 3, 2, 3), 32, (0, 0)).view(3, 6, 32)
        assert torch.allclose(code[0], code[1]) != temporal


# --- attention masks -----------------------------------------------------------------------------


def test_queries_look_at_their_foreground() -> None:
    features = torch.tensor([[[-2.0, -0.1, 0.0, 3.0]]]).view(1, 1, 1, 1, 4)
    allowed = attention_mask(torch.tensor([[[1.0], [-1.0]]]), features)
    assert allowed.tolist() == [[[False, False, True, True], [True, True, True, False]]]


def test_a_query_without_foreground_looks_everywhere() -> None:
    features = -torch.ones(1, 1, 2, 1, 3)  # a clip of two frames
    assert attention_mask(torch.ones(1, 1, 1), features).all()
    features[0, 0, 1, 0, 2] = 1.0  # foreground in the second frame alone: the first stays closed
    allowed = attention_mask(torch.ones(1, 1, 1), features)
    assert allowed.flatten().tolist() == [False] * 5 + [True]


def test_attention_mask_is_made_in_fp32_under_autocast() -> None:
    """A logit of -0.001 has a sigmoid of 0.5 in bf16, and is background all the same."""
    features = torch.tensor([-0.001, 1.0]).view(1, 1, 1, 1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        allowed = attention_mask(torch.ones(1, 1, 1), features)
    assert allowed.flatten().tolist() == [False, True]
    half = attention_mask(torch.ones(1, 1, 1).bfloat16(), features.bfloat16())
    assert half.flatten().tolist() == [False, True]


def test_blocked_keys_have_no_influence() -> None:
    attention = Attention(8, 2, 0.0)
    tiny.fill(attention)
    x, key = tiny.wave(24, 1.0).view(1, 3, 8), tiny.wave(40, 2.0).view(1, 5, 8)
    allowed = torch.ones(1, 3, 5, dtype=torch.bool)
    allowed[:, :, 4] = False
    changed = key.clone()
    changed[:, 4] += 100
    before = attention(x, x, key, key, allowed)
    torch.testing.assert_close(attention(x, x, changed, changed, allowed), before)
    assert not torch.allclose(attention(x, x, changed, changed), before)
