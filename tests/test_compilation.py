"""A compiled model answers as the model does, once for every size of the canvas."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from mask2former.segmenter import Segmenter, compiled
from mask2former.structures import Segmentation


class Counting:
    """A backend of torch.compile that runs what was traced, and counts it."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def forget() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def photo(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), np.uint8)


def same(a: Segmentation, b: Segmentation) -> bool:
    assert a.panoptic is not None
    assert b.panoptic is not None
    return a.panoptic.segments == b.panoptic.segments and torch.equal(
        a.panoptic.ids, b.panoptic.ids
    )


def test_images_of_one_canvas_share_one_whole_graph_and_the_results_are_the_same() -> None:
    model, backend = tiny.model(layers=1), Counting()
    plain, fast = Segmenter(model, canvas_step=96), Segmenter(model, canvas_step=96)
    fast.network = compiled(model, backend)
    images = [photo(64, 96), photo(80, 90)]
    assert all(same(a, b) for a, b in zip(plain(images), fast(images), strict=True))
    assert backend.graphs == 1  # no break within the model, none for the second image


def test_a_canvas_step_makes_one_size_of_several() -> None:
    segmenter = Segmenter(tiny.model(), canvas_step=128)
    assert {segmenter.canvas([size]) for size in [(64, 96), (96, 64), (128, 1)]} == {(128, 128)}
    assert segmenter(photo(64, 96)).size == (64, 96)


def test_a_step_that_the_model_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match="canvas_step 48: choose a multiple of 32"):
        Segmenter(tiny.model(), canvas_step=48)


def test_without_a_compiler_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match=r"C\+\+ compiler.*install one"):
        Segmenter(tiny.model(), compile=True)


@pytest.mark.slow
def test_inductor_gives_the_same_results(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not any(shutil.which(name) for name in ("g++", "clang++")):
        pytest.skip("no C++ compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = tiny.model()
    image = photo(64, 96)
    assert same(Segmenter(model)(image), Segmenter(model, compile=True)(image))
