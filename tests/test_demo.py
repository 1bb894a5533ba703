from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.cli import main
from mask2former.data.scenes import CATEGORIES, Scenes
from mask2former.demo import COLUMNS, Shown, write_page
from mask2former.evaluation.panoptic_quality import PanopticQuality
from mask2former.modeling.mask2former import Mask2Former
from mask2former.presets.compact import compact_model
from mask2former.structures import Segmentation, View
from mask2former.training.examine import true_panoptic

VOID_TAGS = ("meta", "img", "br")


class Page(HTMLParser):
    """The tags of a page; fails where one is closed that was not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_truth_of_a_scene_is_the_perfect_answer() -> None:
    quality = PanopticQuality(CATEGORIES)
    for sample in (scenes := Scenes(length=2, seed=6))[0], scenes[1]:
        truth = true_panoptic(sample, CATEGORIES)
        assert sum(segment.area for segment in truth.segments) == truth.ids.numel()
        size = sample.masks.size
        quality.update(Segmentation(size=size, name=sample.name, panoptic=truth), sample)
    assert quality.compute()["PQ"] == 100


def test_demo_writes_a_page_and_a_sheet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    view = View(shortest_side=64, longest_side=128)
    config = compact_model(CATEGORIES, view, queries=4, selected_share=0.1)
    Mask2Former(config).save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    words = ["demo", "--model", str(tmp_path / "model"), "--out", str(out)]
    assert main([*words, "--count", "2", "--measured", "3"]) == 0
    printed = capsys.readouterr().out
    assert "3 scenes that no training has seen: PQ " in printed
    assert str(out / "index.html") in printed
    assert str(out / "demo.png") in printed

    page = Page((out / "index.html").read_text())
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 2 * len(COLUMNS)
    assert all(source and source.startswith("data:image/jpeg;base64,") for source in sources)
    linking = {"a", "link", "script", "iframe"}
    assert not [tag for tag, _ in page.tags if tag in linking]
    assert "scene 1 of seed 4" in page.text
    for category in CATEGORIES:
        assert category.name in page.text

    sheet = np.asarray(Image.open(out / "demo.png"))
    assert sheet.shape[1] > len(COLUMNS) * 256
    assert sheet.shape[0] > 2 * 256


def test_demo_refuses_to_show_more_than_it_measures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--count", "5", "--measured", "4", "--out", str(tmp_path)]) == 2
    assert "choose 1 <= count <= measured" in capsys.readouterr().err


def test_the_page_shows_figures_and_escapes_names() -> None:
    facts = dict.fromkeys(("parameters", "measured", "seed", "milliseconds", "device"), "1")
    picture = np.zeros((8, 8, 3), np.uint8)
    shown = [Shown(title="a <b> & c", pictures=(picture,) * len(COLUMNS))]
    figures = {"PQ": 81.26, "PQ/star": 71.5, "IoU/sky": 93.0}
    page = Page(write_page(shown, figures, CATEGORIES, {"model": "<script>", **facts}))
    assert "script" not in {tag for tag, _ in page.tags}
    assert "<script>" in page.text
    assert "a <b> & c" in page.text
    for text in ("81.3", "71.5", "93.0"):
        assert text in page.text
