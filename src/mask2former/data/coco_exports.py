"""What labelling tools write otherwise than COCO does, mended.

Roboflow, CVAT, Label Studio, and the converter of labelme.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from mask2former.archive import AnyPath, is_file
from mask2former.data.coco_json import Content, ImageRecord


def mend_any(content: Content) -> None:
    """What a tool that its file's name does not tell may have written."""
    drop_placeholders(content)
    brushed_are_objects(content)


def mend_alone(content: Content, folder: AnyPath) -> None:
    """As `mend_any`, in a file that names its images from its own folder, or from one beside it."""
    mend_any(content)
    named = [image for image in content["images"] if isinstance(image.get("file_name"), str)]
    found = (
        below
        for image in named
        for below in ("", "images", "data")
        if is_file(folder / below / image["file_name"].replace("\\", "/"))
    )
    below = next(found, "")
    for image in named if below else ():
        image["file_name"] = f"{below}/{image['file_name']}"


def drop_placeholders(content: Content) -> None:
    """Categories of no annotation that stand for no class: they would be classes never seen.

    Roboflow's root, which all others have as their supercategory, stands first, with id 0 and the
    name of the project. labelme's converter writes its `_background_` as a category.
    """
    categories = content["categories"]
    used = {str(annotation.get("category_id")) for annotation in content["annotations"]}
    for one in categories:
        others = [category for category in categories if category is not one]
        is_root = one.get("supercategory") in (None, "none") and all(
            category.get("supercategory") == one.get("name") for category in others
        )
        is_background = one.get("name") == "_background_"
        if others and str(one.get("id")) not in used and (is_root or is_background):
            content["categories"] = others
            return


def brushed_are_objects(content: Content) -> None:
    """CVAT marks whatever was drawn with the brush as a crowd; polygons never are.

    Its files are told from COCO's own by the attribute 'occluded' of every annotation. Without
    this, objects drawn with the brush would be no targets, and nobody would notice.
    """
    for annotation in content["annotations"]:
        attributes: Any = annotation.get("attributes")
        if (
            isinstance(attributes, dict)
            and "occluded" in attributes
            and isinstance(annotation.get("segmentation"), dict)
        ):
            annotation["iscrowd"] = 0


def find_images(content: Content, folder: AnyPath) -> None:
    r"""Label Studio's image names, as paths below the folder of its file.

    Its versions write images/a.jpg, images\a.jpg, images\1/a.jpg or a path on the server; the
    export holds images/a.jpg.
    """
    exported = {path.name for path in (folder / "images").iterdir()}
    for image in content["images"]:
        name = image.get("file_name")
        if isinstance(name, str):
            plain = name.replace("\\", "/")
            last = plain.rpartition("/")[2]
            image["file_name"] = f"images/{last}" if last in exported else plain


def placed(images: dict[int | str, ImageRecord], folder: AnyPath) -> dict[int | str, ImageRecord]:
    """The images, each called as it lies in their folder; what is not there keeps its name.

    Where one image of a folder lies, the others are, too: few are looked for.
    """
    homes: dict[str, str | None] = {}
    found: dict[int | str, ImageRecord] = {}
    for id, image in images.items():
        head, slash, last = image.file_name.replace("\\", "/").rpartition("/")
        if slash and head not in homes:
            homes[head] = _home(folder, image.file_name, head, last)
        home = homes.get(head)
        name = image.file_name if home is None else home + last
        found[id] = image if name == image.file_name else replace(image, file_name=name)
    return found


def _home(folder: AnyPath, name: str, head: str, last: str) -> str | None:
    r"""What stands before `last` where sub\a.png means sub/a.png or, in the folder images, a.png
    is called images/a.png; None if it lies where its name says, or nowhere."""
    if is_file(folder / name):
        return None
    parts = PurePosixPath(head).parts
    heads = [f"{head}/"]
    for repeated in range(1, len(parts) + 1):
        if parts[:repeated] == folder.parts[-repeated:]:
            heads.append("".join(f"{part}/" for part in parts[repeated:]))
    return next((found for found in heads if is_file(folder / f"{found}{last}")), None)
