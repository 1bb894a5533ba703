"""What a training has come to: all that it needs to go on as if it had not stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mask2former.modeling.mask2former import Mask2Former
from mask2former.structures import Task
from mask2former.training import checkpoint
from mask2former.training.average import Average
from mask2former.training.config import TrainConfig
from mask2former.training.devices import as_held, whole
from mask2former.weights.native import save_model

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LAST, BEST = "model", "best"  # folders of weights
METRICS = ("PQ", "AP", "mIoU")  # the first that is measured says which weights are best
FIGURES: Mapping[Task, tuple[str, ...]] = {  # how the names of those of a task begin
    "panoptic": ("PQ", "SQ", "RQ"),
    "instance": ("AP", "cityscapes_AP"),
    "semantic": ("mIoU", "fwIoU", "mean_accuracy", "pixel_accuracy", "IoU"),
}


def check_metric(metric: str | None, tasks: Sequence[Task]) -> None:
    """ValueError if no figure of these tasks has such a name."""
    names = [name for task in tasks for name in FIGURES[task]]
    if metric is not None and not metric.startswith(tuple(names)):
        raise ValueError(
            f"metric: {metric!r} is none of what is measured on this data ({', '.join(names)} ...);"
            " name one of these, or leave it out"
        )


@dataclass(kw_only=True)
class Best:
    """The best evaluation so far, and how many came after it."""

    metric: str | None = None
    value: float | None = None
    step: int = 0
    since: int = 0

    def update(self, figures: Mapping[str, float], step: int, metric: str | None) -> bool:
        """Whether these are the best figures. ValueError if `metric` is none of them."""
        self.metric = metric or next((name for name in METRICS if name in figures), None)
        if self.metric is None:
            return False
        if self.metric not in figures:
            totals = [name for name in figures if "/" not in name]
            raise ValueError(
                f"metric: {self.metric!r} was not measured, only {', '.join(totals) or 'nothing'};"
                " the steps that are done are saved, and go on with another --set metric=NAME"
            )
        value = figures[self.metric]
        if self.value is not None and value <= self.value:
            self.since += 1
            return False
        self.value, self.step, self.since = value, step, 0
        return True


class State:
    """Model, optimizer, average and scaler, the steps done and what evaluations have found."""

    def __init__(
        self,
        fabric: Fabric,
        config: TrainConfig,
        model: Mask2Former,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self.fabric, self.config, self.model, self.optimizer = fabric, config, model, optimizer
        self.average = Average(model, config.ema) if config.ema else None
        self.step = 0
        self.evaluated = 0  # the step of the last evaluation
        self.best = Best()

    @property
    def gives_up(self) -> bool:
        """Whether patience has come to its end before the steps have."""
        return self.step < self.config.steps and 0 < self.config.patience <= self.best.since

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Take a checkpoint's state; the model has its weights already."""
        self.step = saved["step"]
        self.optimizer.load_state_dict(_as_parameters(saved["optimizer"], self.optimizer))
        if self.average is not None:
            self.average.updates = self.step
            self.average.tensors = {
                name: as_held(saved["average"][name], like)
                for name, like in self.average.tensors.items()
            }
        # Checkpoints of version 0.1.0 have none of these.
        self.evaluated = saved.get("evaluated", self.step)
        best = Best(**saved.get("best", {}))
        # Another metric's values are no measure of what comes.
        self.best = best if self.config.metric in (None, best.metric) else Best()
        self.fabric.strategy.precision.load_state_dict(saved.get("scaler", {}))

    def save(self, folder: Path) -> None:
        """Write `model/` and then the checkpoint: after a crash between the two, the older
        checkpoint leads to the same weights again. All processes must call it."""
        state = {
            "step": self.step,
            "model": whole(self.model.state_dict()),
            "optimizer": whole(self.optimizer.state_dict()),
            "average": None if self.average is None else whole(self.average.tensors),
            "evaluated": self.evaluated,
            "best": asdict(self.best),
            "scaler": self.fabric.strategy.precision.state_dict(),
        }
        if self.fabric.is_global_zero:
            tensors = state["model"] if self.average is None else state["average"]
            save_model(self.copy(tensors, torch.device("cpu")), folder / LAST)
            checkpoint.write(folder, state, self.config)

    def weights_to_use(self) -> Mask2Former:
        """A copy of the model on every device, with the averaged weights if there is an average.

        All processes must call it. It is the first one's: batch norms may have counted differently.
        """
        tensors = self.model.state_dict() if self.average is None else self.average.tensors
        copy = self.copy(whole(tensors), self.fabric.device)
        if self.fabric.world_size > 1:
            for tensor in copy.state_dict().values():
                torch.distributed.broadcast(tensor, 0)
        return copy

    def copy(self, tensors: Mapping[str, Tensor], device: torch.device) -> Mask2Former:
        copy = Mask2Former(self.model.config).to(device)
        copy.load_state_dict(tensors)
        return copy.eval()


def _as_parameters(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state with its tensors in parts where the parameters are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    held = {
        index: {
            key: as_held(value, parameters[index])
            if isinstance(value, Tensor) and value.shape == parameters[index].shape
            else value
            for key, value in entry.items()
        }
        for index, entry in state["state"].items()
    }
    return {**state, "state": held}
