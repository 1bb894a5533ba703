from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from mask2former.modeling.hf_backbone import HFBackboneConfig
from mask2former.modeling.mask2former import Mask2Former
from mask2former.training.activations import checkpoint_activations

CONVNEXT = HFBackboneConfig(
    model={"model_type": "convnext", "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 1]}
)


def step(model: Mask2Former) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Gradients, buffers after a step, and the bytes that were kept for going backwards."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(tiny.images())
        loss = sum(p.class_logits.square().mean() for p in output.predictions)
        loss = loss + output.predictions[-1].mask_logits.square().mean()
        kept_forward = kept
    assert isinstance(loss, Tensor)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return gradients, dict(model.named_buffers()), kept_forward


@pytest.mark.parametrize(
    "backbone",
    [tiny.RESNET, replace(tiny.SWIN, drop_path=0.5), CONVNEXT],
    ids=["batch_norm", "drop_path", "transformers"],
)
def test_same_gradients_and_statistics_from_less_memory(backbone: Any) -> None:
    """Also with what is drawn at random, and with norms that count what they see."""
    if backbone is CONVNEXT:
        pytest.importorskip("transformers")
    decoder = replace(tiny.CONFIG.decoder, dropout=0.1)
    config = replace(tiny.CONFIG, backbone=backbone, decoder=decoder)
    plain, saving = Mask2Former(config).train(), Mask2Former(config).train()
    tiny.fill(plain)
    saving.load_state_dict(plain.state_dict())
    checkpoint_activations(saving)
    assert saving.state_dict().keys() == plain.state_dict().keys()
    expected, found = step(plain), step(saving)
    assert expected[0].keys() == found[0].keys()
    for part in (0, 1):
        for name, tensor in expected[part].items():
            torch.testing.assert_close(found[part][name], tensor, rtol=1e-5, atol=1e-7)
    assert found[2] < 0.75 * expected[2]
