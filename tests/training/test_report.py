from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import tiny
from mask2former.cli import main
from mask2former.data.scenes import CATEGORIES, ScenesConfig
from mask2former.data.transforms import TrainView
from mask2former.loss.criterion import LossConfig
from mask2former.modeling.mask2former import Mask2Former
from mask2former.serialization import from_dict, to_dict
from mask2former.structures import Category, View
from mask2former.training.compare import comparison_page, run_names
from mask2former.training.config import ScenesData, TrainConfig
from mask2former.training.examine import Findings
from mask2former.training.optimizer import OptimizerConfig
from mask2former.training.report import (
    Evaluation,
    duration,
    evaluation_page,
    read_run,
    training_page,
)
from mask2former.training.trainer import train

VIEW = View(shortest_side=64, longest_side=64, object_threshold=0.0, overlap_threshold=0.0)
CONFIG = TrainConfig(
    model=replace(tiny.CONFIG, categories=CATEGORIES, view=VIEW),
    data=ScenesData(length=6, val_length=2, drawing=ScenesConfig(size=64, max_size=24)),
    view=TrainView(size=64, scale=(1.0, 1.0), crop=(64, 64)),
    loss=LossConfig(points=64),
    optimizer=OptimizerConfig(rate=1e-3, clip_norm=1.0),
    steps=4,
    batch_size=1,
    workers=0,
    evaluate_every=2,
    checkpoint_every=2,
)
NAMES = ["Figures", "Curves", "Class by class", "Confusion", "Best and worst images"]
NAMES += ["Data, model, environment", "Repeat it"]
NASTY = "<b><mark>&\"'$title {x}"


class Page(HTMLParser):
    """Text, headings and tags of a page; fails unless every tag is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def checked(path: Path) -> Page:
    """The page of a file that needs no other and runs nothing."""
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in page.tags}
    assert "url(" not in text
    assert "@import" not in text
    for tag, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on")], tag
        for key in ("src", "href", "srcset", "xlink:href"):
            target = attributes.get(key)
            assert target is None or target.startswith(("#", "data:image/jpeg;base64,"))
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {attributes.get("href") for tag, attributes in page.tags if tag == "a"}
    assert links <= {f"#{id_}" for id_ in ids}
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    return page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    train(CONFIG, folder)
    return folder


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_training_leaves_a_report_with_every_section(run: Path) -> None:
    page = checked(run / "report.html")
    assert page.headings == NAMES
    log = log_of(run)
    steps = [line for line in log if "loss" in line]
    evaluations = [line for line in log if "evaluation" in line]
    assert [line["step"] for line in evaluations] == [2, 4]
    for line in evaluations:
        for key, value in line["evaluation"].items():
            if "/" not in key:
                assert key in page.text
                assert f"{value:.1f}" in page.cells
    # What a pointer rests on tells the log's numbers.
    for line in steps:
        assert f"step {line['step']}\nweighted sum {line['loss']:.3g}" in page.text
        assert f"step {line['step']}\nclass {line['class']:.3g}" in page.text
    last = evaluations[-1]["evaluation"]
    for category in CATEGORIES:
        assert category.name in page.text
        for key in ("PQ", "AP", "IoU"):
            if f"{key}/{category.name}" in last:
                assert f"{last[f'{key}/{category.name}']:.1f}" in page.text
    # Two images: all are shown, each with its truth and the prediction.
    assert [tag for tag, _ in page.tags].count("img") == 6
    assert "4 of 4 steps of 1 images" in page.text
    parameters = sum(p.numel() for p in Mask2Former.from_pretrained(run / "model").parameters())
    assert f"{parameters / 1e6:.2f} M" in page.text
    assert torch.__version__ in page.text
    assert f"mask2former train --config {run}/config.yaml --out {run}-again" in page.text


def test_the_shown_config_and_command_repeat_the_training(run: Path) -> None:
    page = Page((run / "report.html").read_text())
    text = page.text[page.text.index("model:\n  categories") :]
    text = text[: text.index("Made by")]
    assert from_dict(TrainConfig, yaml.safe_load(text)) == CONFIG


def test_objects_of_the_page_are_those_of_the_data(run: Path) -> None:
    record = from_dict(Evaluation, json.loads((run / "evaluation.json").read_text()))
    validation = CONFIG.data.open_val()
    labels = [label for i in range(2) for label in validation[i].labels.tolist()]
    assert record.findings.objects == tuple(labels.count(i) for i in range(len(CATEGORIES)))
    assert record.train_images == 6
    assert (record.step, record.figures) == (4, log_of(run)[-1]["evaluation"])
    pixels = sum(count for *_, count in record.findings.confusion)
    assert pixels == 2 * 64 * 64


def test_a_report_is_made_anew_from_the_folder(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pages" / "again.html"
    assert main(["report", str(run), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out

    def undated(path: Path) -> str:
        return re.sub(r"Written [-0-9: ]+UTC", "", path.read_text())

    assert undated(out) == undated(run / "report.html")


def test_a_training_that_goes_on_keeps_its_earlier_evaluations(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "longer"
    folder.mkdir()
    for name in ("checkpoint.pth", "log.jsonl", "evaluation.json", "config.yaml"):
        (folder / name).write_bytes((run / name).read_bytes())
    train(replace(CONFIG, steps=5), folder)
    assert [step for step, _ in read_run(folder).evaluations] == [2, 4, 5]
    page = checked(folder / "report.html")
    assert [cell for cell in page.cells if cell in ("2", "4", "5")][:3] == ["2", "4", "5"]


def test_a_training_under_way_has_a_report(run: Path, tmp_path: Path) -> None:
    """Without an evaluation, with a line of the log half written."""
    lines = (run / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "log.jsonl").write_text(lines[0] + lines[1][:30])
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    assert main(["report", str(tmp_path)]) == 0
    page = checked(tmp_path / "report.html")
    assert page.headings == ["Curves", "Data, model, environment", "Repeat it"]
    assert "1 of 4 steps" in page.text
    assert " to go" in page.text
    # Findings of an evaluation that the log does not have are another training's.
    (tmp_path / "evaluation.json").write_bytes((run / "evaluation.json").read_bytes())
    assert read_run(tmp_path).last is None


def test_names_are_escaped(run: Path) -> None:
    known = read_run(run)
    assert known.last is not None
    categories = (Category(id=1, name=NASTY, is_thing=True, color=(1, 2, 3)), *CATEGORIES[1:])
    findings = known.last.findings
    worst = replace(findings.worst[0], name=NASTY)
    findings = replace(findings, categories=categories, worst=(worst,))
    tree = to_dict(replace(CONFIG, model=replace(CONFIG.model, categories=categories)))
    figures = {"PQ": 50.0, f"PQ/{NASTY}": 12.34}
    changed = replace(
        known,
        folder=Path(NASTY),
        config=tree,
        evaluations=[(4, figures)],
        last=replace(known.last, findings=findings, environment={"device": NASTY}),
    )
    page = Page(training_page(changed))
    assert page.text.count(NASTY) >= 6
    assert "mark" not in {tag for tag, _ in page.tags}
    assert "12.3" in page.text
    assert next(a["alt"] for t, a in page.tags if t == "img") == f"image of {NASTY}"
    other = replace(changed, config={**tree, "seed": NASTY})
    page = Page(comparison_page([changed, other], NASTY))
    assert NASTY in page.cells


def test_evaluate_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.model(replace(tiny.CONFIG, categories=CATEGORIES, view=VIEW)).save_pretrained(
        tmp_path / "model"
    )
    out = tmp_path / "pages" / "evaluation.html"
    words = ["evaluate", "--model", str(tmp_path / "model"), "--data", "scenes"]
    words += ["--count", "1", "--seed", "9"]
    assert main([*words, "--report", str(out), "--json", str(tmp_path / "figures.json")]) == 0
    assert str(out) in capsys.readouterr().out
    page = checked(out)
    assert page.headings == [name for name in NAMES if name != "Curves"]
    assert f"mask2former {' '.join(words)}" in page.text
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    for key, value in figures.items():
        assert f"{value:.2f}" in page.cells or "/" in key


def test_instances_alone_have_missed_and_invented_ones(run: Path) -> None:
    record = from_dict(Evaluation, json.loads((run / "evaluation.json").read_text()))
    count = len(CATEGORIES)
    confusion = ((0, 0, 8), (0, 1, 2), (0, count, 5), (count, 3, 7))
    findings = replace(record.findings, confusion_of="objects", confusion=confusion, score="F1")
    text = evaluation_page("x", replace(record, findings=findings), "c")
    page = Page(text)
    first, second, fourth = (CATEGORIES[i].name for i in (0, 1, 3))
    assert f"{first} as {first}: 53.3 %, 8 objects" in page.text
    assert f"{first} as missed: 33.3 %, 5 objects" in page.text
    assert f"invented as {fourth}: 100.0 %, 7 objects" in page.text
    rows = [("invented", fourth, "7", "100.0"), (first, "missed", "5", "33.3")]
    rows.append((first, second, "2", "13.3"))
    start = page.cells.index("invented")
    assert page.cells[start : start + 12] == [cell for row in rows for cell in row]


def test_a_page_of_many_classes_stays_small() -> None:
    count = 847
    categories = tuple(
        Category(id=i, name=f"class {i}", is_thing=False, color=(0, 0, 0)) for i in range(count)
    )
    findings = Findings(
        categories=categories,
        images=9,
        objects=(3,) * count,
        images_with=(3,) * count,
        confusion_of="pixels",
        confusion=tuple((i, j, 5 + i) for i in range(count) for j in (i, (i + 1) % count)),
        score="mIoU",
        histogram=(1,) * 20,
        worst=(),
        best=(),
    )
    figures = {f"IoU/class {i}": i / 10 for i in range(count)}
    record = Evaluation(
        step=0,
        figures=figures,
        findings=findings,
        train_images=0,
        model={},
        environment={"device": "CPU"},
    )
    text = evaluation_page("x", record, "c")
    assert len(text) < 1_000_000
    page = Page(text)
    assert "817 other classes as 817 other classes: " in page.text
    assert (
        "By IoU, weakest: class 0 0.0, class 1 0.1, class 2 0.2; strongest: class 846" in page.text
    )


# --- comparison ----------------------------------------------------------------------------------


def test_trainings_are_compared(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "second"
    other.mkdir()
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, rate=2e-3), seed=7)
    (other / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    lines = log_of(run)
    for line in lines:
        if "evaluation" in line:
            line["evaluation"] = {key: value + 1 for key, value in line["evaluation"].items()}
    (other / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "compare.html"
    assert main(["report", str(run), str(other), "--out", str(out)]) == 0
    page = checked(out)
    assert page.headings[0] == "Last figures"
    start = page.cells.index("optimizer.rate")
    assert page.cells[start : start + 6] == ["optimizer.rate", "0.001", "0.002", "seed", "0", "7"]
    quality = lines[-1]["evaluation"]["PQ"]
    assert f"{quality:.1f}" in page.cells
    assert f"{quality - 1:.1f}" in page.cells
    marked = sum("top" in (a.get("class") or "") for tag, a in page.tags if tag == "td")
    headlines = [key for key in lines[-1]["evaluation"] if "/" not in key]
    classes = [key for key in lines[-1]["evaluation"] if key.startswith("PQ/")]
    assert marked == len(headlines) + len(classes)
    run_ = read_run(run)
    assert run_names([run_, read_run(other)]) == ["first", "second"]
    assert run_names([run_, run_]) == [str(run), str(run)]
    assert "the configs are the same" in comparison_page([run_, run_], "c")


# --- faults --------------------------------------------------------------------------------------


def test_faults_name_file_and_cure(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*words: str) -> str:
        assert main(["report", *words]) == 2
        return capsys.readouterr().err.replace("\n", "")

    assert "log.jsonl: there is no such file; give a folder that" in said(str(tmp_path))
    assert "--out: name the page" in said(str(run), str(run))
    (tmp_path / "log.jsonl").write_text("")
    (tmp_path / "config.yaml").write_text("a: 1\n")
    assert "config.yaml: holds no training's config" in said(str(tmp_path))
    (tmp_path / "config.yaml").write_bytes((run / "config.yaml").read_bytes())
    (tmp_path / "evaluation.json").write_text("{")
    assert "evaluation.json: not valid JSON" in said(str(tmp_path))
    (tmp_path / "evaluation.json").unlink()
    assert main(["report", str(tmp_path)]) == 0  # a training's first second
    checked(tmp_path / "report.html")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (29, "29 s"), (90, "2 min"), (3600, "1 h 00 min"), (12_000, "3 h 20 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
