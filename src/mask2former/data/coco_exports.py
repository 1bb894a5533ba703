"""What labelling tools write otherwise than COCO does, mended.

Roboflow, CVAT, Label Studio, and the converter of labelme.
"""

from __future__ import annotations

from typing import Any

from mask2former.archive import AnyPath
from mask2former.data.coco_json import Content


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
