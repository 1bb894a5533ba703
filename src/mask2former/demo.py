"""`mask2former demo`: newly drawn scenes, segmented, measured and shown on one page."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from rich.console import Console
from rich.progress import track

from mask2former.commands.loading import load_segmenter
from mask2former.commands.options import Demo
from mask2former.data.scenes import Scenes
from mask2former.evaluation.panoptic_quality import PanopticQuality
from mask2former.inference.visualize import (
    contact_sheet,
    draw_instances,
    draw_panoptic,
    draw_semantic,
)
from mask2former.structures import TASKS, Category, Sample, Segmentation
from mask2former.training.evaluate import check_categories, evaluators
from mask2former.training.examine import jpeg_url, true_panoptic
from mask2former.training.log import summary

Picture = UInt8[np.ndarray, "H W 3"]
COLUMNS = ("image", "truth", "panoptic", "instances", "semantic")
CARDS = (
    ("PQ", "panoptic quality", "every pixel in one segment"),
    ("AP", "average precision", "of the instance masks"),
    ("mIoU", "mean IoU", "of the classes' areas"),
    ("PQ_things", "PQ of things", "countable, six shapes"),
    ("PQ_stuff", "PQ of stuff", "five textured grounds"),
)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One scene on the page: its pictures in the order of COLUMNS."""

    title: str
    pictures: tuple[Picture, ...]


def demo(options: Demo) -> None:
    """Write index.html and demo.png, and say where they are and what was measured."""
    if not 1 <= options.count <= options.measured:
        raise ValueError(
            f"--count {options.count} --measured {options.measured}: the shown scenes are among the"
            " measured, so choose 1 <= count <= measured"
        )
    segmenter = load_segmenter(options.model, device=options.device)
    scenes = Scenes(length=options.measured, seed=options.seed)
    check_categories(segmenter.categories, scenes.categories)
    view = segmenter.model.config.view
    measuring = evaluators(scenes.categories, view.max_detections, TASKS)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    shown: list[Shown] = []
    seconds = 0.0
    indices = range(len(scenes))
    quiet = not console.is_terminal
    for index in track(
        indices, "segmenting scenes", console=console, transient=True, disable=quiet
    ):
        sample = scenes[index]
        started = time.perf_counter()
        (result,) = segmenter.segment([sample.image], [sample.name], TASKS)
        seconds += time.perf_counter() - started
        for evaluator in measuring:
            evaluator.update(result, sample)
        if index < options.count:
            shown.append(show(sample, result, scenes.categories))
    figures: dict[str, float] = {}
    for evaluator in measuring:
        figures |= evaluator.compute()

    options.out.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet(
        [scene.pictures for scene in shown],
        COLUMNS,
        titles=[scene.title for scene in shown],
        cell_width=shown[0].pictures[0].shape[1],
    )
    Image.fromarray(sheet).save(options.out / "demo.png")
    facts = {
        "model": options.model,
        "parameters": f"{sum(p.numel() for p in segmenter.model.parameters()) / 1e6:.1f}",
        "measured": str(len(scenes)),
        "seed": str(options.seed),
        "milliseconds": f"{1000 * seconds / len(scenes):.0f}",
        "device": str(next(segmenter.model.parameters()).device),
    }
    page = write_page(shown, figures, scenes.categories, facts)
    (options.out / "index.html").write_text(page, encoding="utf-8")
    console.print(f"{len(scenes)} scenes that no training has seen: {summary(figures)}")
    for name in ("index.html", "demo.png"):
        console.print(str(options.out / name))


def show(sample: Sample, result: Segmentation, categories: tuple[Category, ...]) -> Shown:
    """The pictures of one scene, with its own panoptic quality in the title."""
    assert result.panoptic is not None
    assert result.instances is not None
    assert result.semantic is not None
    quality = PanopticQuality(categories)
    quality.update(result, sample)
    things = sum(categories[label].is_thing for label in sample.labels)
    return Shown(
        title=f"{sample.name}: {things} things, PQ {quality.compute()['PQ']:.1f}",
        pictures=(
            sample.image,
            draw_panoptic(sample.image, true_panoptic(sample, categories)),
            draw_panoptic(sample.image, result.panoptic),
            draw_instances(sample.image, result.instances),
            draw_semantic(sample.image, result.semantic),
        ),
    )


# --- the page -------------------------------------------------------------------------------------


def write_page(
    shown: Sequence[Shown],
    figures: Mapping[str, float],
    categories: Sequence[Category],
    facts: Mapping[str, str],
) -> str:
    """One HTML file that needs no other: styles and pictures are inside."""
    template = Template(Path(__file__).with_name("demo.html").read_text(encoding="utf-8"))
    return template.substitute(
        {key: html.escape(value) for key, value in facts.items()},
        cards="\n".join(
            f'<div class="card"><b>{figures[key]:.1f}</b><span>{name}</span>'
            f"<small>{meaning}</small></div>"
            for key, name, meaning in CARDS
            if key in figures
        ),
        classes="\n".join(_class_row(category, figures) for category in categories),
        scenes="\n".join(_scene(scene) for scene in shown),
    )


def _class_row(category: Category, figures: Mapping[str, float]) -> str:
    cells = []
    for key in ("PQ", "AP", "IoU"):
        value = figures.get(f"{key}/{category.name}")
        cells.append(
            "<td></td>"
            if value is None
            else f'<td><i style="--share:{value:.1f}%"></i><span>{value:.1f}</span></td>'
        )
    swatch = "rgb({},{},{})".format(*category.color)
    kind = "thing" if category.is_thing else "stuff"
    return (
        f'<tr><th scope="row"><u style="background:{swatch}"></u>{html.escape(category.name)}</th>'
        f"<td>{kind}</td>{''.join(cells)}</tr>"
    )


def _scene(scene: Shown) -> str:
    pictures = "".join(
        f'<figure><img src="{jpeg_url(picture, 90)}" alt="{column}: {html.escape(scene.title)}"'
        f' loading="lazy"><figcaption>{column}</figcaption></figure>'
        for column, picture in zip(COLUMNS, scene.pictures, strict=True)
    )
    return f'<h3>{html.escape(scene.title)}</h3>\n<div class="row">{pictures}</div>'
