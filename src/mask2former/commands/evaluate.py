"""`mask2former evaluate`: a model, annotated images, and a table of figures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mask2former.commands.loading import load_segmenter, require_folder, require_positive
from mask2former.commands.options import Evaluate, command_line
from mask2former.commands.output import tell, write_json
from mask2former.commands.train import place, read_config
from mask2former.data.coco import CocoInstances
from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.dataset import Dataset
from mask2former.data.detect import open_dataset, serves
from mask2former.data.scenes import Scenes
from mask2former.evaluation.instance_files import score_instance_files
from mask2former.inference.predictions import CocoResults, most_at_once, open_predictions
from mask2former.inference.submission import open_submission
from mask2former.segmenter import Augmentation
from mask2former.serialization import from_dict
from mask2former.structures import Category, Sample, Segmentation, Task, class_names
from mask2former.training.config import FolderData, TrainConfig
from mask2former.training.evaluate import FederatedDataset, OnImage, evaluate, measure_results
from mask2former.training.examine import Examination
from mask2former.training.report import record_of, write_evaluation
from mask2former.training.state import BEST, LAST

HEADLINES = (
    *("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff"),
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("APr", "APc", "APf", "boundary_AP", "boundary_AP50", "cityscapes_AP", "cityscapes_AP50"),
    *("mIoU", "mIoU_categories", "pixel_accuracy"),
)
PER_CLASS = ("PQ", "AP", "boundary_AP", "cityscapes_AP", "IoU")


def measure(options: Evaluate) -> dict[str, float]:
    """Evaluate, print the tables, write the files; returns the figures, in percent."""
    console = Console(highlight=False)
    require_folder("--out", options.out)
    if options.submission is not None and options.out is None:
        raise ValueError(f"--submission {options.submission}: say with --out where to write it")
    if options.predictions is None:
        measured, source = of_model(options, console), options.model
    else:
        measured, source = of_files(options, options.predictions, console), str(options.predictions)
    figures, dataset, groups = measured
    console.print(headline_table(figures, groups, f"{source}: {len(dataset)} images"))
    console.print(class_table(figures, dataset.categories))
    if options.json is not None:
        document = {
            "model": source,
            "data": options.data,
            "images": len(dataset),
            "figures": figures,
        }
        write_json(options.json, document)
        tell(console, f"all figures: {options.json}")
    if options.out is not None:
        tell(console, f"results: {options.out}")
    return figures


Groups = dict[int | str, str]


def of_model(options: Evaluate, console: Console) -> tuple[dict[str, float], Dataset, Groups]:
    if options.task:  # else the data set's own decide, which is opened as the model needs it
        require_semantic(options.tta, options.task)
    segmenter = load_segmenter(
        options.model,
        classes=options.classes,
        device=options.device,
        dtype=options.dtype,
        max_detections=options.max_detections,
    )
    things_only = all(category.is_thing for category in segmenter.categories)
    dataset = open_data(options, things_only, console)
    tasks = options.task or dataset.tasks
    require_semantic(options.tta, tasks)
    groups = read_groups(dataset, options.group_by) if options.group_by else {}
    examination = Examination(segmenter.categories) if options.report is not None else None
    with writing(options, segmenter.categories, examination) as on_image:
        figures = evaluate(
            segmenter,
            dataset,
            tasks,
            groups=groups or None,
            progress=console.is_terminal,
            on_image=on_image,
            boundary=options.boundary,
            augmentation=Augmentation() if options.tta else None,
        )
    if options.report is not None and examination is not None:
        title = f"{Path(options.model).name}: evaluation"
        record = record_of(examination, figures, segmenter.model)
        write_evaluation(options.report, title, record, command_line("evaluate", options))
        tell(console, f"report: {options.report}")
    return figures, dataset, groups


def require_semantic(tta: bool, tasks: Sequence[Task]) -> None:
    if tta and "semantic" not in tasks:
        raise ValueError(
            "--tta: views are averaged for the semantic result alone, which is not measured here;"
            " leave it out, or ask for it with --task semantic"
        )


def of_files(
    options: Evaluate, path: Path, console: Console
) -> tuple[dict[str, float], Dataset, Groups]:
    """Of the tasks that both the files and the annotation know."""
    if options.report is not None:
        raise ValueError("--report: tells of a model; leave it out, or --predictions")
    if not path.exists():
        raise FileNotFoundError(f"--predictions {path}: there is no such file or folder")
    require_positive("--max-detections", options.max_detections)
    if options.tta:
        raise ValueError("--tta: files hold one answer; leave it out, or --predictions")
    dataset = open_data(options, path.suffix == ".json" and is_list(path))  # no matter who trained
    predictions = open_predictions(path, dataset.categories, options.values)
    groups = read_groups(dataset, options.group_by) if options.group_by else {}
    tasks = tuple(t for t in options.task or predictions.tasks if t in predictions.tasks)
    if not options.task:
        tasks = tuple(task for task in tasks if task in dataset.tasks)
    if not tasks:
        raise ValueError(
            f"{path}: has results of {', '.join(predictions.tasks)}, but asked for are"
            f" {', '.join(options.task or dataset.tasks)}; choose --task and --data to fit"
        )
    federated = isinstance(dataset, FederatedDataset)
    limit = options.max_detections or (300 if federated else 100)
    most = most_at_once(predictions.instance_records, of_a_class=not federated)
    if options.max_detections is None and "instance" in tasks and most > limit:
        tell(
            console,
            f"an image has {most} results{'' if federated else ' of one class'}: the best {limit}"
            f" count, as in {'LVIS' if federated else 'COCO'}; --max-detections counts more",
        )
    plain = not (groups or options.boundary or options.out or federated)
    if (
        plain
        and isinstance(predictions, CocoResults)
        and isinstance(dataset, CocoInstances)
        and isinstance(dataset.path, Path)
    ):  # by the areas that the file states, as COCO does
        figures = score_instance_files(dataset.path, path, max_detections=limit, mend=dataset.mend)
        return figures, dataset, groups
    with writing(options, dataset.categories) as on_image:
        figures = measure_results(
            lambda sample: predictions.result(sample.image_id, sample.name, sample.masks.size),
            dataset,
            tasks,
            groups=groups or None,
            progress=console.is_terminal,
            on_image=on_image,
            boundary=options.boundary,
            max_detections=limit,
        )
    if isinstance(predictions, CocoResults):
        predictions.check_all_asked()
    return figures, dataset, groups


def is_list(path: Path) -> bool:
    """Whether a JSON file holds a list, as COCO results do: these are of instances alone."""
    with path.open("rb") as file:
        return file.read(64).lstrip()[:1] == b"["


@contextmanager
def writing(
    options: Evaluate, categories: tuple[Category, ...], examination: Examination | None = None
) -> Iterator[OnImage | None]:
    """What is done with each image's result: it is written if --out is given, and examined."""
    if options.out is None:
        yield None if examination is None else examination.update
        return
    with open_submission(options.submission or "coco", options.out, categories) as submission:

        def write(sample: Sample, result: Segmentation, of_image: dict[str, float]) -> None:
            submission.write(result, sample.name, sample.image_id)
            if examination is not None:
                examination.update(sample, result, of_image)

        yield write


def open_data(options: Evaluate, things_only: bool, console: Console | None = None) -> Dataset:
    """The data set that the options name; a folder goes before the drawn scenes.

    Where it has no split to validate on, those images that a training holds out, which `console`
    is told; without one, all.
    """
    if options.data == "scenes" and not Path(options.data).exists():
        return Scenes(length=options.count, seed=options.seed)
    data = FolderData(folder=options.data, task=richest_task(options, things_only))
    training = training_data(options)
    if training is not None:
        data = replace(data, train=training.train, holdout=training.holdout, format=training.format)
    shared = data.divided if options.split in (data.val, "all") else None
    if shared is None or console is None or options.split == "all":
        name = options.split if shared is None else shared
        return open_dataset(options.data, name, task=data.task, format=data.format)
    if training is not None and (training.divided is None or training.train == training.val):
        tell(
            console,
            f"no split {data.val!r}: measured on {training.val!r}, which this model's training was"
            " validated on",
        )
        return replace(training, task=data.task, limit=None).open_val()
    known = "" if training is None else ", as this model's did"
    tell(
        console,
        f"no split {data.val!r}: measured on one image in {data.holdout}, which a training with"
        f" data.holdout={data.holdout} holds out{known}; --split all measures on all",
    )
    return data.open_val()


def training_data(options: Evaluate) -> FolderData | None:
    """What the model's training was on, if that is this data set, and the run's config is there."""
    model = Path(options.model)
    written = model.parent / "config.yaml"
    if options.predictions is not None or model.name not in (LAST, BEST) or not written.is_file():
        return None
    try:
        data = from_dict(TrainConfig, read_config(written), str(written)).data
    except ValueError:  # another program's, or another version's: it tells nothing then
        return None
    if isinstance(data, FolderData) and place(data.folder) == place(options.data):
        return data
    return None


def richest_task(options: Evaluate, things_only: bool) -> Task | None:
    """What the annotation is opened for; None: the richest that it can measure."""
    if not things_only:
        return None
    if options.task and "instance" not in options.task:
        return options.task[0]
    return "instance" if serves(options.data, "instance") else None


def read_groups(dataset: Dataset, field: str) -> dict[int | str, str]:
    """From an image's id to what `field` of its record in the annotation file says."""
    if not isinstance(dataset, CocoPanoptic | CocoInstances):
        raise ValueError(f"--group-by {field}: only data sets in COCO's formats have such fields")
    records = json.loads(dataset.path.read_bytes())["images"]
    groups = {record["id"]: str(record[field]) for record in records if field in record}
    if not groups:
        known = sorted({key for record in records for key in record})
        raise ValueError(
            f"--group-by {field}: no image in {dataset.path} has this field; they have"
            f" {', '.join(known)}"
        )
    return groups


def headline_table(
    figures: Mapping[str, float], groups: Mapping[int | str, str], title: str
) -> Table:
    """One row a figure, one column for all images and one for each group."""
    table = Table(title=title, title_justify="left")
    table.add_column("percent")
    table.add_column("all", justify="right", style="bold")
    counts = Counter(groups.values())
    for group in sorted(counts):
        table.add_column(f"{group} ({counts[group]})", justify="right")
    for key in HEADLINES:
        if key in figures:
            of_groups = [_text(figures, f"{group}/{key}") for group in sorted(counts)]
            table.add_row(key, _text(figures, key), *of_groups)
    return table


def class_table(figures: Mapping[str, float], categories: Sequence[Category]) -> Table:
    """One row a class that occurs, one column a figure."""
    shown = [key for key in PER_CLASS if any(name.startswith(f"{key}/") for name in figures)]
    table = Table()
    table.add_column("class")
    table.add_column("kind")
    for key in shown:
        table.add_column(key, justify="right")
    for category, name in zip(categories, class_names(categories), strict=True):
        cells = [_text(figures, f"{key}/{name}") for key in shown]
        if any(cells):
            table.add_row(name, "thing" if category.is_thing else "stuff", *cells)
    return table


def _text(figures: Mapping[str, float], key: str) -> str:
    return f"{figures[key]:.1f}" if key in figures else ""
