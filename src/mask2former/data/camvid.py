"""CamVid as it is distributed for segmentation: eleven classes of the road (Brostow et al., 2008).

The masks of that copy name no classes; these are its customary names, order and colours.
"""

from __future__ import annotations

from mask2former.archive import AnyPath
from mask2former.data.class_files import CLASS_FILES
from mask2former.data.format import Format
from mask2former.data.label_maps import LabelMaps
from mask2former.data.map_classes import named_classes
from mask2former.data.pixel_maps import pair_files
from mask2former.structures import Category, Task

CATEGORIES = tuple(
    Category(id=i, name=name, is_thing=False, color=color)
    for i, (name, color) in enumerate(
        (
            ("Sky", (128, 128, 128)),
            ("Building", (128, 0, 0)),
            ("Pole", (192, 192, 128)),
            ("Road", (128, 64, 128)),
            ("Pavement", (60, 40, 222)),
            ("Tree", (128, 128, 0)),
            ("SignSymbol", (192, 128, 128)),
            ("Fence", (64, 64, 128)),
            ("Car", (64, 0, 128)),
            ("Pedestrian", (64, 64, 0)),
            ("Bicyclist", (0, 128, 192)),
        )
    )
)
CLASSES = named_classes(CATEGORIES, ignore=(11, 255), source="CamVid")

_SPLITS = ("train", "val", "test")
_DRIVES = ("0001TP_", "0006R0_", "0016E5_", "Seq05VD_")  # its frames are named after them


def _splits(folder: AnyPath) -> tuple[str, ...]:
    if any((folder / name).is_file() for name in CLASS_FILES):
        return ()  # another choice of classes, which label maps read
    found = [s for s in _SPLITS if (folder / s).is_dir() and (folder / f"{s}annot").is_dir()]
    return tuple(s for s in found if _is_camvid(folder / f"{s}annot"))


def _is_camvid(masks: AnyPath) -> bool:
    first = next((path for path in masks.iterdir() if path.suffix == ".png"), None)
    return first is not None and first.name.startswith(_DRIVES)


def _open(folder: AnyPath, split: str, task: Task) -> LabelMaps:
    return LabelMaps(pair_files(folder / split, folder / f"{split}annot"), CLASSES)


FORMAT = Format(
    name="camvid",
    title="CamVid",
    layout=("<s>/0001TP_* with <s>annot/0001TP_*.png",),
    tasks=("semantic",),
    splits=_splits,
    open=_open,
)
