"""The checkpoints that the authors of the paper released: what each is, and getting it.

`released.json` holds the facts of the official model zoo, one checkpoint a line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mask2former.data.class_lists import class_list, things_of
from mask2former.structures import Category, View
from mask2former.weights.download import cache_folder, download

SITE = "https://dl.fbaipublicfiles.com/maskformer/mask2former/"
LICENCE = "CC BY-NC 4.0"  # of the weights; not of this package
# Parameters in millions (paper, tables 1 to 5), by backbone.
PARAMETERS = {
    "R50": 44,
    "R101": 63,
    "Swin-T": 47,
    "Swin-S": 69,
    "Swin-B": 107,
    "Swin-B (IN21k)": 107,
    "Swin-L (IN21k)": 216,
}


@dataclass(frozen=True, kw_only=True)
class Released:
    """One checkpoint; `metrics` are those that the zoo publishes, in percent."""

    name: str
    dataset: str  # one of `data.class_lists.LISTS`
    task: str  # panoptic, instance, semantic, or video-instance
    backbone: str
    file: str  # below `SITE`; its name ends in the start of its MD5
    metrics: dict[str, float]
    shortest_side: int  # pixels, of the test view
    longest_side: int

    @property
    def parameters(self) -> int:
        """In millions; a file has four bytes for each."""
        return PARAMETERS[self.backbone]

    @property
    def categories(self) -> tuple[Category, ...]:
        return things_of(self.dataset) if "instance" in self.task else class_list(self.dataset)

    @property
    def view(self) -> View:
        """The test view of the official config."""
        return View(
            shortest_side=self.shortest_side,
            longest_side=self.longest_side,
            resize_semantic_scores=self.task == "semantic",
            object_threshold=0.0 if self.dataset == "mapillary" else 0.8,
            instances_of_things_only=self.task == "panoptic",
        )

    @property
    def path(self) -> Path:
        """Where the file lies once it has been downloaded, or where to put it by hand."""
        return cache_folder() / self.name / Path(self.file).name

    def fetch(self) -> Path:
        """Download the file if it is not there; says the licence when it is.

        ConnectionError says where to put the file if it cannot be reached.
        """
        if not self.path.exists():
            print(f"{self.name}: weights under {LICENCE} (non-commercial); {SITE}{self.file}")
            download(SITE + self.file, self.path, md5_start=self.path.stem.rpartition("_")[2])
        return self.path


@cache
def released_models() -> dict[str, Released]:
    """All of them, by name."""
    rows = json.loads(Path(__file__).with_name("released.json").read_text())
    return {row["name"]: Released(**row) for row in rows}
