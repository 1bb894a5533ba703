"""What each command can be told. Nothing here imports torch, so that `--help` answers at once."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import (
    FlagCreatePairsOff,
    OmitSubcommandPrefixes,
    Positional,
    UseAppendAction,
    arg,
    subcommand,
)

Task = Literal["panoptic", "instance", "semantic"]
Dtype = Literal["float32", "bfloat16", "float16"]

# An empty hint keeps "(default: None)" out of the help; what leaving it out means is in the text.
Tasks = Annotated[UseAppendAction[tuple[Task, ...]], arg(metavar="TASK", help_behavior_hint="")]
Count = Annotated[int | None, arg(metavar="N", help_behavior_hint="")]
Benchmark = Literal["coco", "ade20k", "cityscapes"]
Format = Literal["mask2former", "transformers", "detectron2"]
Classes = Annotated[str | None, arg(metavar="NAMES", help_behavior_hint="")]
File = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")]
Folder = Annotated[Path, arg(metavar="DIR")]
Precision = Annotated[
    Literal["32-true", "bf16-mixed", "16-mixed"] | None, arg(help_behavior_hint="")
]


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Segment images and write overlays, panoptic PNGs, label maps and COCO JSON files.

    Example: mask2former predict photos/ more/*.jpg --model nuclei --out results
    """

    images: Positional[
        Annotated[tuple[str, ...], arg(metavar="IMAGE...", help_behavior_hint="(required)")]
    ]
    """Files, folders, or quoted patterns such as 'photos/**/*.jpg'."""
    model: str = "scenes"
    """A name that `mask2former models` lists, or a path."""
    classes: Classes = None
    """What a checkpoint without class names tells apart: "coco", ... or car,person (one: bolt,)."""
    task: Tasks = ()
    """panoptic, instance or semantic; may be given several times. All of them if left out."""
    out: Folder = Path("results")
    """Folder that the results are written to."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    dtype: Dtype = "float32"
    """What the model computes in."""
    threshold: float = 0.5
    """Least score of an instance that is drawn and counted; instances.json holds all."""
    max_detections: Count = None
    """Most instances that are returned for an image. As the model's config says if left out."""
    tile: Count = None
    """Cut images into tiles of so many pixels: for large ones, and for small things in them."""
    overlap: Count = None
    """Pixels that neighbouring tiles share; a quarter of a tile if left out."""
    outlines: Annotated[
        UseAppendAction[tuple[Literal["geojson", "yolo"], ...]],
        arg(metavar="FORMAT", help_behavior_hint=""),
    ] = ()
    """Write the drawn instances as outlines, too: geojson or yolo; may be given twice."""
    recursive: FlagCreatePairsOff[bool] = False
    """Look into the subfolders of folders, too."""
    batch_size: int = 1
    """Images that go through the model together."""
    compile: FlagCreatePairsOff[bool] = False
    """Compile the model for every size of padded images: minutes at first, kept for later."""
    canvas_step: Count = None
    """Pad images to multiples of so many pixels, so that their sizes are few to compile for."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a model, or go on with a training that was stopped (the same command does it).

    Example: mask2former train --preset nuclei --data data/nuclei --out runs/nuclei --steps 2000
    """

    out: Folder
    """Folder of this training: config, log, checkpoint, and the weights in model/."""
    data: Annotated[str | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """A data set, folder or zip file, in any known format. The presets of scenes draw their own."""
    preset: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """custom (any data set; the default), nuclei, scenes, scenes-cells (what scenes begins with),
    memorise (eight images by heart), or the paper's recipe of a model that `mask2former models`
    lists as released, as in coco-panoptic-r50."""
    config: File = None
    """A YAML file, as every training writes one, in place of a preset."""
    steps: Count = None
    """Steps to train for."""
    batch_size: Count = None
    """Images of a step."""
    rate: Annotated[float | None, arg(metavar="RATE", help_behavior_hint="")] = None
    """Learning rate."""
    seed: Count = None
    """Another seed shows other views in another order."""
    initial_weights: Annotated[str | None, arg(metavar="MODEL", help_behavior_hint="")] = None
    """A model of the same shape and classes to start from: a name or a path."""
    accumulate: Count = None
    """Parts that a step is computed in, one after the other: so much less memory for it."""
    devices: Count = None
    """GPUs of this computer (or processes, on a CPU) that share a step. All GPUs if left out."""
    precision: Precision = None
    """What the model computes in: bf16-mixed is for newer GPUs, 16-mixed for older ones."""
    overrides: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(name="set", metavar="KEY=VALUE", help_behavior_hint=""),
    ] = ()
    """Any field of the config, as in --set optimizer.weight_decay=0.1; may be repeated."""
    threads: Count = None
    """CPU threads of the model."""


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """Train a model further on another data set, with settings that are chosen from both.

    Example: mask2former finetune --data data/mine --model coco-panoptic-swin-t --out runs/mine
    """

    data: Annotated[str, arg(metavar="FOLDER")]
    """A data set in any format that is known. Its splits train and val, or as in --set
    data.val=test."""
    model: Annotated[str, arg(metavar="MODEL")]
    """What to start from: a name that `mask2former models` lists, or a path; of any classes."""
    out: Folder
    """Folder of this training: config, log, checkpoint, and the weights in model/."""
    size: Count = None
    """Pixels of the images' shortest side."""
    steps: Count = None
    """Steps to train for."""
    batch_size: Count = None
    """Images of a step."""
    rate: Annotated[float | None, arg(metavar="RATE", help_behavior_hint="")] = None
    """Learning rate."""
    seed: Count = None
    """Another seed shows other views in another order."""
    accumulate: Count = None
    """Parts that a step is computed in, one after the other: so much less memory for it."""
    devices: Count = None
    """GPUs of this computer (or processes, on a CPU) that share a step. All GPUs if left out."""
    precision: Precision = None
    """What the model computes in: bf16-mixed is for newer GPUs, 16-mixed for older ones."""
    overrides: Annotated[
        UseAppendAction[tuple[str, ...]],
        arg(name="set", metavar="KEY=VALUE", help_behavior_hint=""),
    ] = ()
    """Any field of the config, as in --set optimizer.weight_decay=0.1; may be repeated."""
    plan_only: FlagCreatePairsOff[bool] = False
    """Print what would be chosen, and end."""
    threads: Count = None
    """CPU threads of the model."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a model, or files that others made, on annotated images: PQ, AP and mIoU.

    Example: mask2former evaluate --model nuclei --data data/nuclei --group-by modality
    Another: mask2former evaluate --predictions results.json --data data/coco
    """

    model: str = "scenes"
    """A name that `mask2former models` lists, or a path."""
    data: Annotated[str, arg(metavar="FOLDER")]
    """A data set in any format that is known, or "scenes" for newly drawn scenes."""
    classes: Classes = None
    """What a checkpoint without class names tells apart: "coco", ... or car,person (one: bolt,)."""
    split: Annotated[str, arg(metavar="NAME")] = "val"
    """Part of the data set. Where it has no val, a model is measured on the images that trainings
    hold out, and "all" are those that it was trained on, too."""
    task: Tasks = ()
    """panoptic, instance or semantic; may be given several times. All that fit if left out."""
    json: File = None
    """Write all figures to this file, too."""
    report: File = None
    """Write a page to this file: figures, confusions, best and worst images."""
    group_by: Annotated[str | None, arg(metavar="FIELD", help_behavior_hint="")] = None
    """Also measure each kind of image alone: a field of 'images' in the annotation file."""
    max_detections: Count = None
    """Most instances that count for an image. If left out, as the model's config says; of files 100
    of each class, as in COCO, or LVIS's 300."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    dtype: Dtype = "float32"
    """What the model computes in."""
    count: int = 200
    """Scenes to draw, for the data "scenes"."""
    predictions: File = None
    """Measure this instead of a model: COCO results, COCO panoptic (its PNGs beside it), a folder
    of label maps, or one that `predict` or `evaluate --out` wrote."""
    values: Literal["ids", "labels"] = "ids"
    """What label maps of --predictions hold: the data set's category ids, or 0, 1, 2 ..."""
    boundary: FlagCreatePairsOff[bool] = False
    """Measure boundary AP, too."""
    tta: FlagCreatePairsOff[bool] = False
    """Semantic results are the mean over six scales, each mirrored, too: slow, and better."""
    out: File = None
    """Write the results to this folder, with the data set's ids."""
    submission: Benchmark | None = None
    """Their format: coco (the default; `--predictions` reads it), ade20k (PNGs of labels from 1) or
    cityscapes (PNGs of label ids, lists of instances)."""
    seed: int = 3
    """Which scenes are drawn. Trainings see those of 1, and are validated on those of 2."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write a training's report.html anew, or compare several trainings on one page.

    Example: mask2former report runs/first runs/second --out compare.html
    """

    runs: Positional[
        Annotated[tuple[Path, ...], arg(metavar="RUN...", help_behavior_hint="(required)")]
    ]
    """Folders that `mask2former train --out` wrote; one under way, too."""
    out: File = None
    """The page; report.html in the folder if left out. Of several runs it must be given."""


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Rewrite a model in another format, and check that it reads back equal, bit for bit.

    Example: mask2former convert runs/mine/model --to transformers --out mine-transformers
    """

    model: Positional[Annotated[str, arg(metavar="MODEL")]]
    """A name that `mask2former models` lists, or a path: ours, official, of transformers, ..."""
    out: Folder
    """Folder to write; it must not hold anything yet."""
    to: Format = "mask2former"
    """mask2former (config.json, safetensors), transformers, or detectron2 (the official one)."""
    half: FlagCreatePairsOff[bool] = False
    """Store the weights in fp16, rounded, at half the size."""
    classes: Classes = None
    """What a checkpoint without class names tells apart: "coco", ... or car,person (one: bolt,)."""


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the models that have names: the embedded ones and the paper's released checkpoints.

    Example: mask2former models --only coco-panoptic
    """

    only: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="")] = None
    """List those whose name holds this text."""


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Measure a released checkpoint on its own data set, beside the published figures.

    Example: mask2former verify coco-panoptic-r50 --data data/coco
    """

    model: Positional[Annotated[str, arg(metavar="NAME")]]
    """A released checkpoint's name; `mask2former models` lists them. It is downloaded."""
    data: Annotated[str, arg(metavar="FOLDER")]
    """The data set, in COCO's panoptic format; for instance models in the instance format."""
    split: Annotated[str, arg(metavar="NAME")] = "val"
    """Part of the data set."""
    tolerance: float = 0.1
    """Most percent that a figure may differ; the exit status is 1 where one differs more."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    dtype: Dtype = "float32"
    """What the model computes in."""


@dataclass(frozen=True, kw_only=True)
class InspectData:
    """Say what a data set is: formats, images, objects, classes, sizes; and draw samples of it.

    Example: mask2former data inspect exported/
    """

    folder: Positional[Annotated[str, arg(metavar="FOLDER")]]
    """A data set in any known format, or a zip file of one."""
    out: File = None
    """The picture of samples; FOLDER-samples.png, here, if left out."""
    images: Annotated[int, arg(metavar="N")] = 1000
    """Most images of a split that are read, evenly spread."""
    task: Annotated[Task | None, arg(metavar="TASK", help_behavior_hint="")] = None
    """panoptic, instance or semantic: as which it is read. The richest if left out."""
    format: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Its format's name, where the folder could be two."""
    json: File = None
    """Write all figures to this file, too."""


@dataclass(frozen=True, kw_only=True)
class CheckData:
    """Find what is wrong with a data set: each finding with its file, record and cure.

    The exit status is 1 if there are errors; warnings and notes leave it at 0.

    Example: mask2former data check exported/ --json findings.json
    """

    folder: Positional[Annotated[str, arg(metavar="FOLDER")]]
    """A data set in any known format, or a zip file of one."""
    split: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="NAME", help_behavior_hint="")
    ] = ()
    """Check this split alone; may be repeated. All if left out."""
    fast: FlagCreatePairsOff[bool] = False
    """Check records and the existence of files alone; decode no image and draw no mask."""
    task: Annotated[Task | None, arg(metavar="TASK", help_behavior_hint="")] = None
    """panoptic, instance or semantic: check the annotation that serves it. All if left out."""
    format: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Its format's name, where the folder could be two."""
    json: File = None
    """Write all findings to this file, too."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Look at annotated images before training on them: what they are, what is wrong with them.

    Example: mask2former data check exported/
    """

    action: OmitSubcommandPrefixes[
        Annotated[InspectData, subcommand("inspect")] | Annotated[CheckData, subcommand("check")]
    ]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Draw new scenes, segment them, measure against the exact truth; write a page of pictures.

    Example: mask2former demo --out demo
    """

    out: Folder = Path("demo")
    """Folder that index.html and demo.png are written to."""
    model: str = "scenes"
    """An embedded model's name, or the path of another model of the same classes."""
    count: int = 16
    """Scenes that are shown."""
    measured: int = 50
    """Scenes that are measured; the shown ones are the first of them."""
    seed: int = 4
    """Which scenes are drawn. Trainings see those of 1, and are validated on those of 2."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""


def command_line(name: str, options: Evaluate) -> str:
    """What was typed for these options, but for where figures and pages are written to."""
    words = ["mask2former", name]
    for field in fields(options):
        value = getattr(options, field.name)
        if value == field.default or field.name in ("json", "report"):
            continue
        flag = f"--{field.name.replace('_', '-')}"
        for one in value if isinstance(value, tuple) else (value,):
            words += [flag] if one is True else [flag, str(one)]
    return shlex.join(words)
