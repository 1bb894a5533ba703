"""One training, written down: model, loss, data, views, steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from mask2former.data.dataset import Dataset, First
from mask2former.data.detect import VALIDATION, open_dataset, shared_split
from mask2former.data.holdout import hold_out
from mask2former.data.scenes import Scenes
from mask2former.data.scenes_layout import ScenesConfig
from mask2former.data.task_views import viewed
from mask2former.data.transforms import TrainView
from mask2former.loss.criterion import LossConfig
from mask2former.modeling.mask2former import Mask2FormerConfig
from mask2former.structures import Task
from mask2former.training.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class FolderData:
    """A data set on disk, a folder or a zip file, in any format that `open_dataset` knows."""

    folder: str
    train: str = "train"
    val: str = VALIDATION
    task: Task | None = None  # the richest that its annotation allows
    format: str | None = None  # its name, where the folder could be two
    limit: int | None = None  # take the first so many images of each split only
    holdout: int = 5  # without a split `val`: every so many-th image of `train` is validated on

    def open_train(self) -> Dataset:
        return self._open(self.train)

    def open_val(self) -> Dataset:
        return self._open(self.val)

    @property
    def divided(self) -> str | None:
        """The one split that training and validation share, if there is none to validate on."""
        return shared_split(self.folder, self.train, self.val, self.format)

    def _open(self, split: str) -> Dataset:
        divided = self.divided
        name = split if divided is None else divided
        dataset = open_dataset(self.folder, name, task=self.task, format=self.format)
        if divided is not None and self.train != self.val:
            dataset = hold_out(dataset, self.holdout)[split == self.val]
        return dataset if self.limit is None else First(dataset, self.limit)


@dataclass(frozen=True, kw_only=True)
class ScenesData:
    """Drawn scenes; training and validation never share one."""

    length: int = 1_000_000
    seed: int = 1
    val_length: int = 100
    drawing: ScenesConfig = field(default_factory=ScenesConfig)
    task: Task = "panoptic"  # the others see less of the same annotation

    def open_train(self) -> Dataset:
        return self._open(self.length, self.seed)

    def open_val(self) -> Dataset:
        return self._open(self.val_length, self.seed + 1)

    def _open(self, length: int, seed: int) -> Dataset:
        scenes = Scenes(length=length, seed=seed, config=self.drawing)
        return viewed(scenes, self.task)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All that a run depends on; it is saved beside and inside every checkpoint."""

    model: Mask2FormerConfig
    data: FolderData | ScenesData
    view: TrainView = field(default_factory=TrainView)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    steps: int = 368_750
    batch_size: int = 16  # images of a step, of all devices and parts together
    accumulate: int = 1  # parts that a step is computed in, one after the other: memory for time
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: int | Literal["auto"] = "auto"  # on each node; under torchrun, its processes
    num_nodes: int = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"  # fsdp: weights are shared out, too
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    checkpoint_activations: bool = False  # memory for time: activations are computed twice
    freeze: tuple[str, ...] = ()  # parts that stay as they are: "backbone", "backbone.stage1", ...
    ema: float = 0.0  # decay of the weights' moving average, which then is what is kept; 0: none
    initial_weights: str | None = None  # a model to start from
    # "by_name": it may know other classes; see `weights.transfer`.
    initial_classes: Literal["same", "by_name"] = "same"
    backbone_weights: str | None = None  # else, a classifier's whose backbone it starts from
    seed: int = 0
    repeat_threshold: float = 0.0  # images of classes in a smaller share of them come oftener
    workers: int = 1
    evaluate_every: int = 5_000  # steps; 0: at the end only
    checkpoint_every: int = 1_000
    metric: str | None = None  # what "best" goes by; None: PQ, else AP, else mIoU
    patience: int = 0  # evaluations without a better one, after which it ends; 0: never
    loggers: tuple[Literal["csv", "tensorboard", "wandb"], ...] = ()  # beside log.jsonl

    def images_at_once(self, ranks: int) -> int:
        """Images of one forward pass of one process. ValueError if the batch cannot be shared."""
        parts = ranks * self.accumulate
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size: {self.batch_size} images cannot be shared out evenly among"
                f" {ranks} processes in {self.accumulate} parts each (accumulate); choose a"
                f" multiple of {parts}"
            )
        return self.batch_size // parts

    def __post_init__(self) -> None:
        """ValueError if fields contradict each other."""
        for name in ("steps", "batch_size", "accumulate", "num_nodes", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)}; choose at least 1")
        limit = self.data.limit if isinstance(self.data, FolderData) else None
        for place, value, low, high in (
            ("workers", self.workers, 0, None),
            ("seed", self.seed, 0, None),
            ("evaluate_every", self.evaluate_every, 0, None),
            ("patience", self.patience, 0, None),
            ("repeat_threshold", self.repeat_threshold, 0, 1),
            ("ema", self.ema, 0, 0.999999),
            ("loss.points", self.loss.points, 1, None),
            ("loss.oversample", self.loss.oversample, 1, None),
            ("loss.importance", self.loss.importance, 0, 1),
            ("optimizer.rate", self.optimizer.rate, 0, None),
            ("optimizer.warmup_steps", self.optimizer.warmup_steps, 0, None),
            ("optimizer.weight_decay", self.optimizer.weight_decay, 0, None),
            ("loss.class_weight", self.loss.class_weight, 0, None),
            ("loss.mask_weight", self.loss.mask_weight, 0, None),
            ("loss.dice_weight", self.loss.dice_weight, 0, None),
            ("loss.cell_weight", self.loss.cell_weight, 0, None),
            ("view.size", self.view.size, 1, None),
            ("view.crop", min(self.view.crop), 1, None),
            ("model.view.shortest_side", self.model.view.shortest_side, 1, None),
            ("model.view.longest_side", self.model.view.longest_side, 1, None),
            ("model.decoder.layers", self.model.decoder.layers, 1, None),
            ("data.limit", 1 if limit is None else limit, 1, None),
        ):
            if not low <= value < inf or (high is not None and value > high):
                most = "" if high is None else f" and at most {high}"
                raise ValueError(f"{place}: {value}; choose a number of at least {low}{most}")
        if self.optimizer.clip_norm <= 0:
            raise ValueError(f"optimizer.clip_norm: {self.optimizer.clip_norm}; choose above 0")
        if not 0 < self.view.scale[0] <= self.view.scale[1]:
            raise ValueError(f"view.scale: {self.view.scale}; choose 0 < the first <= the second")
        if self.devices != "auto" and self.devices < 1:
            raise ValueError(f"devices: {self.devices}; choose at least 1, or auto")
        if self.strategy == "fsdp" and self.precision == "16-mixed":
            raise ValueError(
                "precision: 16-mixed scales gradients, which fsdp's parts of tensors do not allow;"
                " choose bf16-mixed or 32-true"
            )
        if not 0 < self.optimizer.layer_decay <= 1:
            raise ValueError(
                f"optimizer.layer_decay: {self.optimizer.layer_decay}; choose above 0, at most 1"
            )
        if self.loss.cell_weight and not self.model.decoder.selected_share:
            raise ValueError(
                "loss.cell_weight judges the cells that queries are selected from, but"
                " model.decoder.selected_share is 0; set it above 0, or cell_weight to 0"
            )
