"""Trainings by name: functions from the folder of a data set to a whole `TrainConfig`."""

from __future__ import annotations

from collections.abc import Callable

from mask2former.presets.custom import custom
from mask2former.presets.memorise import memorise
from mask2former.presets.nuclei import nuclei
from mask2former.presets.scenes import scenes, scenes_cells
from mask2former.training.config import TrainConfig

PRESETS: dict[str, Callable[[str], TrainConfig]] = {
    "custom": custom,
    "memorise": memorise,
    "nuclei": nuclei,
    "scenes": scenes,
    "scenes-cells": scenes_cells,
}
