"""Any model on any data set, mostly a small one: the settings are read off both, with reasons.

mask2former finetune --data FOLDER --model coco-panoptic-swin-t --out runs/mine
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mask2former.data.dataset import Dataset
from mask2former.data.survey import Survey, survey
from mask2former.data.transforms import TrainView
from mask2former.loss.criterion import LossConfig
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.modeling.resnet import ResNetConfig
from mask2former.presets.compact import COMPACT_OPTIMIZER, has_regions_alone, region_queries
from mask2former.structures import View
from mask2former.training.config import FolderData, TrainConfig
from mask2former.training.machine import Machine
from mask2former.training.optimizer import OptimizerConfig
from mask2former.weights import load
from mask2former.weights.transfer import matches

EPOCHS, STEPS = 60, (500, 20_000)
EVALUATIONS = 10  # at most; fewer where they would take longer than half the training
SMALL_OBJECT = 24  # pixels that small objects are shown at: six cells of a mask
SIDES = {"cuda": (256, 1024)}  # least and most pixels of the shortest side
SIDES_ELSEWHERE = (256, 512)  # a CPU's day is short
COMPACT = 10e6  # parameters; smaller models are trained as a whole
FEWEST_FOR_NORMS = 4  # crops of a step, for statistics of their own
GIVEN = "it was given"
SIDED = re.compile(r"\b(left|right)\b", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A setting that was chosen, and why."""

    what: str
    value: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training, and what was chosen for it."""

    config: TrainConfig
    choices: tuple[Choice, ...]


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is settled before anything is chosen; None: it is chosen."""

    size: int | None = None
    batch_size: int | None = None
    steps: int | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        """ValueError if one is below what is possible."""
        for name in ("size", "batch_size", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value}; choose at least 1")


def finetune(folder: str, model: str) -> TrainConfig:
    """A training on `folder` that starts from `model`: a name or a path, of any format."""
    return plan(FolderData(folder=folder), model).config


def plan(
    data: FolderData, model: str, wishes: Wishes | None = None, machine: Machine | None = None
) -> Plan:
    """Look at both splits and the model, and choose. Errors are those of opening them."""
    dataset, validation = data.open_train(), data.open_val()
    return plan_of(
        load(model),
        model,
        data,
        dataset,
        len(validation),
        survey(dataset),
        wishes or Wishes(),
        machine or Machine.here(),
    )


def plan_of(
    source: Mask2Former,
    name: str,
    data: FolderData,
    dataset: Dataset,
    validation: int,
    seen: Survey,
    wishes: Wishes,
    machine: Machine,
) -> Plan:
    """`name` is the source's, `validation` the number of images that evaluations take."""
    parameters = sum(parameter.numel() for parameter in source.parameters())
    semantic = has_regions_alone(dataset)
    choices = [class_choice(source.config, dataset)]

    size, why = size_for(seen, source.config.view, machine, semantic=semantic)
    if wishes.size is not None:
        size, why = wishes.size, GIVEN
    choices.append(Choice(what="size", value=f"{size}", reason=why))
    crop, batch, why = crop_and_batch(size, parameters, seen.images, machine)
    if wishes.batch_size is not None:
        batch, why = wishes.batch_size, f"{GIVEN}; {why}"
    choices.append(Choice(what="crop, batch", value=f"{crop}, {batch}", reason=why))
    steps, why = steps_for(seen.images, batch)
    if wishes.steps is not None:
        steps, why = wishes.steps, GIVEN
    choices.append(Choice(what="steps", value=f"{steps}", reason=why))
    every, why = evaluations(steps, batch, validation)
    choices.append(Choice(what="evaluate every", value=f"{every}", reason=why))
    optimizer, why = optimizer_for(parameters, steps)
    if wishes.rate is not None:
        optimizer, why = replace(optimizer, rate=wishes.rate), f"{GIVEN}; {why}"
    text = f"{optimizer.rate:g}, backbone x {optimizer.backbone_multiplier:g}"
    choices.append(Choice(what="rate", value=text, reason=why))

    view = view_for(source.config.view, size, seen)
    config, changes = model_for(source.config, dataset, view, semantic=semantic)
    choices += changes
    backbone = config.backbone
    if batch < FEWEST_FOR_NORMS and getattr(backbone, "norm", None) == "batch_norm":
        assert isinstance(backbone, ResNetConfig)
        config = replace(config, backbone=replace(backbone, norm="frozen_batch_norm"))
        reason = f"{batch} crops a step tell too little of the statistics"
        choices.append(Choice(what="norms", value="kept", reason=reason))
    queries = config.decoder.queries
    if not config.decoder.selected_share and seen.most_objects > queries:
        reason = f"an image has {seen.most_objects} objects: show smaller parts (predict --tile)"
        choices.append(Choice(what="queries", value=f"{queries}, too few", reason=reason))
    sided = [c.name for c in dataset.categories if SIDED.search(c.name)]
    if sided:
        reason = f"a mirror would make {sided[0]!r} its opposite"
        choices.append(Choice(what="flip", value="no", reason=reason))
    return Plan(
        config=TrainConfig(
            model=config,
            data=data,
            view=TrainView(
                size=size,
                scale=(0.5, 2.0),
                fit="shortest_side",
                crop=(crop, crop),
                flip=not sided,
                color=True,
                contrast_percentiles=view.contrast_percentiles,
            ),
            loss=loss_for(config),
            optimizer=optimizer,
            steps=steps,
            batch_size=batch,
            precision=machine.precision,
            ema=max(0.9, round(1 - 20 / steps, 4)),  # over a twentieth of the training
            initial_weights=name,
            initial_classes="by_name",
            workers=1 if machine.kind == "cpu" else 4,
            evaluate_every=every,
            checkpoint_every=max(50, min(1000, steps // 20)),
        ),
        choices=tuple(choices),
    )


def class_choice(source: Mask2FormerConfig, dataset: Dataset) -> Choice:
    rows = matches(dataset.categories, source.categories)
    known = [c.name for c, row in zip(dataset.categories, rows, strict=True) if row is not None]
    new = len(rows) - len(known)
    names = ", ".join(known[:3]) + (", ..." if len(known) > 3 else "")
    reason = f"the model knows {len(known)} by name ({names})" if known else "the model knows none"
    return Choice(what="classes", value=f"{len(rows)}, {new} new", reason=reason)


def size_for(seen: Survey, view: View, machine: Machine, *, semantic: bool) -> tuple[int, str]:
    """Shortest side at test, and in training about it: a multiple of 32.

    The images' own or the model's, whichever is smaller; more where small things need it.
    """
    least, most = SIDES.get(machine.kind, SIDES_ELSEWHERE)
    side, reason = float(seen.shortest_side), f"images have {seen.shortest_side} pixels"
    if view.shortest_side < side:
        side, reason = view.shortest_side, "the model's own"
    if seen.small_size is not None and seen.median_size is not None and not semantic:
        sizes = f"median object is {seen.median_size:.0f} px, one in ten below"
        reason = f"{reason}; {sizes} {seen.small_size:.0f}"
        needed = seen.shortest_side * SMALL_OBJECT / seen.small_size
        # Enlarged beyond twice its pixels an image shows nothing new.
        needed = min(needed, 2 * seen.shortest_side)
        if needed > side:
            side, reason = needed, f"{sizes} {seen.small_size:.0f} of {seen.shortest_side}"
    size = round(min(max(side, least), most) / 32) * 32
    if side > most:
        reason = f"{reason}; most that is quick on {machine.kind}"
    return size, reason


def crop_and_batch(
    size: int, parameters: int, images: int, machine: Machine
) -> tuple[int, int, str]:
    """Side of the training crops, and crops of a step on all devices together."""
    crop = size
    while crop > 256 and machine.fitting(parameters, crop**2) < 1:
        crop -= 64
    fits = max(1, machine.fitting(parameters, crop**2))
    wanted = 4 if machine.kind == "cpu" else max(1, 16 // machine.devices)
    each = max(n for n in (1, 2, 4, 8, 16) if n <= min(fits, wanted))
    while each > 1 and each * machine.devices > images:
        each //= 2
    batch = each * machine.devices
    where = f"{machine.devices} x {machine.kind}" if machine.devices > 1 else machine.kind
    gigabytes = machine.memory / 2**30
    reason = f"{where} with {gigabytes:.0f} GiB could hold about {fits}"
    return crop, batch, reason


def steps_for(images: int, batch: int) -> tuple[int, str]:
    wanted = EPOCHS * images / batch
    steps = round(min(max(wanted, STEPS[0]), STEPS[1]) / 10) * 10
    return steps, f"{images} images {steps * batch / images:.0f} times over"


def evaluations(steps: int, batch: int, validation: int) -> tuple[int, str]:
    """Steps between evaluations. An image costs a third of what it costs in training."""
    affordable = int(1.5 * steps * batch / max(validation, 1))
    count = min(max(affordable, 1), EVALUATIONS)
    return -(-steps // count), f"{count} times, on {validation} images"


def optimizer_for(parameters: int, steps: int) -> tuple[OptimizerConfig, str]:
    warmup = min(100, steps // 20)
    if parameters < COMPACT:
        compact = replace(COMPACT_OPTIMIZER, rate=3e-4, warmup_steps=warmup)
        return compact, f"{parameters / 1e6:.1f}M parameters: all of it learns anew"
    large = OptimizerConfig(schedule="cosine", warmup_steps=warmup)
    return large, "the paper's, falling as a cosine: the backbone is pre-trained"


def view_for(view: View, size: int, seen: Survey) -> View:
    """The source's reading of its answers, at another size."""
    ratio = max(view.longest_side / view.shortest_side, min(seen.aspect, 3.0))
    detections = max(view.max_detections, round(1.5 * seen.most_objects))
    return replace(
        view,
        shortest_side=size,
        longest_side=-(-round(size * ratio) // 32) * 32,
        max_detections=detections,
    )


def model_for(
    source: Mask2FormerConfig, dataset: Dataset, view: View, *, semantic: bool
) -> tuple[Mask2FormerConfig, list[Choice]]:
    """The source's parts with the data set's classes; queries from cells find things alone."""
    decoder, changes = source.decoder, []
    needed = sum(not category.is_thing for category in dataset.categories)
    if semantic and decoder.selected_share:
        decoder = replace(decoder, selected_share=0.0, anchored_masks=False)
        reason = "every class is one region: no cell is the middle of a thing"
        changes.append(Choice(what="queries from cells", value="none", reason=reason))
        needed = region_queries(dataset)
    if source.decoder.selected_share and decoder.queries < needed:
        reason = f"the model has {decoder.queries}; one for every class that is one region"
        changes.append(Choice(what="queries", value=f"{needed}", reason=reason))
        decoder = replace(decoder, queries=needed)
    categories = dataset.categories
    return replace(source, categories=categories, decoder=decoder, view=view), changes


def loss_for(model: Mask2FormerConfig) -> LossConfig:
    """The paper's; models whose queries come from cells learn by that, too."""
    if model.decoder.selected_share:
        return LossConfig(points=2048, matching_on="masks", cell_weight=4.0)
    return LossConfig()
