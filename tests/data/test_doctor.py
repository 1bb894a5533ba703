"""The doctor: 1 % of the records broken in each way it knows; all are found, none is invented."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sick_data
from mask2former.data.doctor import check
from mask2former.data.findings import Finding
from sick_data import CATEGORIES, HEIGHT, WIDTH, Content, change

# (kind, record) that is to be found in the training split's file, or (kind, path of the file).
Expected = list[tuple[str, str]]


@pytest.fixture(scope="module")
def sound_instances(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("instances")
    sick_data.write_instances(folder)
    return folder


@pytest.fixture(scope="module")
def sound_panoptic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("panoptic")
    sick_data.write_panoptic(folder)
    return folder


@pytest.fixture
def instances(sound_instances: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound_instances, tmp_path / "data"))


@pytest.fixture
def panoptic(sound_panoptic: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound_panoptic, tmp_path / "data"))


def told(findings: list[Finding]) -> Counter[tuple[str, str]]:
    """Kinds and records, or files where the file itself is what is found."""
    return Counter((f.kind, f.record or Path(f.file).name) for f in findings)


def test_nothing_is_wrong_with_a_sound_data_set(
    sound_instances: Path, sound_panoptic: Path
) -> None:
    assert check(sound_instances) == []
    assert check(sound_panoptic) == []


# --- instances ------------------------------------------------------------------------------------


def break_instances(folder: Path) -> Expected:
    """1 % of 200 images are 2, and of 600 annotations 6; each group is broken in one way."""
    images = folder / "images" / "train"
    expected: Expected = []

    def annotations(content: Content) -> list[Content]:
        """Those of the next two images."""
        nonlocal turn
        turn += 2
        ids = (turn - 1, turn)
        return [a for a in content["annotations"] if a["image_id"] in ids]

    turn = 0

    def edit(content: Content) -> None:
        def spoil(kind: str, field: str, value: Callable[[Content], object]) -> None:
            for annotation in annotations(content):
                expected.append((kind, f"annotation {annotation['id']}"))
                annotation[field] = value(annotation)

        spoil("unknown category", "category_id", lambda _: 4)
        spoil("malformed mask", "segmentation", lambda _: [[1, 2, 3]])
        spoil("malformed mask", "segmentation", lambda _: 5)
        spoil("box without a mask", "segmentation", lambda _: None)
        for annotation in annotations(content):
            expected.append(("mask without a pixel", f"annotation {annotation['id']}"))
            annotation.update(segmentation=[[1, 2, 3, 4]], bbox=[1, 2, 2, 0])
        for annotation in annotations(content)[1::3]:
            expected.append(("polygon without area", f"annotation {annotation['id']}"))
            annotation["segmentation"].append([1, 2, 3, 4])
        for annotation in annotations(content)[1::3]:
            expected.append(("mask outside the frame", f"annotation {annotation['id']}"))
            expected.append(("mask without a pixel", f"annotation {annotation['id']}"))
            annotation["segmentation"] = [[WIDTH, 9, WIDTH + 9, 9, WIDTH + 9, 30]]
        spoil("malformed mask", "segmentation", lambda _: {"size": [9, 9], "counts": [81]})
        spoil(
            "malformed mask",
            "segmentation",
            lambda _: {"size": [HEIGHT, WIDTH], "counts": [5, 9]},
        )
        spoil("box unlike the mask", "bbox", lambda a: [a["bbox"][0] + 9, *a["bbox"][1:]])
        spoil("box unlike the mask", "bbox", lambda _: "none")
        spoil("area unlike the mask", "area", lambda a: 2 * a["area"])
        for annotation in annotations(content):  # polygons beyond the right border
            expected.append(("mask outside of the image", f"annotation {annotation['id']}"))
            annotation["segmentation"] = [[40, 9, WIDTH + 9, 9, WIDTH + 9, 30, 40, 30]]
            annotation["category_id"] = CATEGORIES[annotation["id"] % 3]["id"]
            annotation.update(bbox=[40, 9, WIDTH - 31, 21], area=24 * 21)
        for annotation in annotations(content):  # a line
            expected.append(("mask without a pixel", f"annotation {annotation['id']}"))
            annotation.update(segmentation=[[4, 4, 9, 4, 14, 4]], bbox=None, area=0)
        for annotation in annotations(content)[::3]:
            expected.append(("object annotated twice", f"annotation {annotation['id'] + 7000}"))
            content["annotations"].append({**annotation, "id": annotation["id"] + 7000})
        for annotation in annotations(content)[::3]:
            expected.append(("unknown image", f"annotation {annotation['id']}"))
            annotation["image_id"] = 7777
        for place, annotation in enumerate(annotations(content)[:2]):
            other = [a for a in content["annotations"] if a["image_id"] == 150][place]
            expected.append(("id stands twice", f"annotation {other['id']}"))
            annotation["id"] = other["id"]
        for image in content["images"][100:102]:  # their files are broken below
            expected.append(("missing file", f"image {image['id']}"))
            (images / image["file_name"]).unlink()
        for image in content["images"][102:104]:
            expected.append(("unreadable image", f"image {image['id']}"))
            path = images / image["file_name"]
            path.write_bytes(path.read_bytes()[:400])
        for image in content["images"][104:106]:
            expected.append(("image of another size", f"image {image['id']}"))
            sick_data.picture(np.random.default_rng([1, image["id"]])).crop(
                (0, 0, WIDTH - 3, HEIGHT)
            ).save(images / image["file_name"])
        for image in content["images"][106:108]:
            expected.append(("file named twice", f"image {image['id']}"))
            image["file_name"] = content["images"][20]["file_name"]
        for image in content["images"][108:110]:
            expected.append(("picture twice in a split", f"image {image['id'] + 20}"))
            shutil.copy(images / image["file_name"], images / f"{image['id'] + 19:04}.png")
        for image in content["images"][110:112]:
            expected.append(("image without objects", f"image {image['id']}"))
            content["annotations"] = [
                a for a in content["annotations"] if a["image_id"] != image["id"]
            ]
        for image in content["images"][112:114]:
            expected.append(("malformed image record", f"image {image['id']}"))
            image["width"] = 0
            expected.extend(
                ("unknown image", f"annotation {a['id']}")
                for a in content["annotations"]
                if a["image_id"] == image["id"]
            )
        content["images"].append(dict(content["images"][114]))
        expected.append(("id stands twice", f"image {content['images'][114]['id']}"))
        content["categories"].append({"id": 12, "name": "nut"})
        content["categories"].append({"id": 13, "name": "Bolt "})
        expected.extend(("class names alike", f"category {id}") for id in (3, 13))
        expected.append(("classes differ between splits", "category 13"))
        expected.extend(("class name twice", f"category {id}") for id in (5, 12))
        expected.append(("classes differ between splits", "category 12"))
        last = [a for a in content["annotations"] if a["image_id"] == 200]
        last[0]["category_id"], last[1]["iscrowd"], last[2]["category_id"] = 12, 1, 13
        expected.append(("crowds", "instances_train.json"))
        expected.append(("overlaps", "instances_train.json"))
        Image.new("RGB", (9, 9)).save(images / "spare.png")
        expected.append(("image without a record", "spare.png"))
        # Those that the edits above made nameless.
        expected.extend(("image without a record", f"{n:04}.png") for n in (106, 107, 112, 113))

    change(folder, "instances_train", edit)
    val = folder / "images" / "val"
    shutil.copy(images / "0150.png", val / "0003.png")  # the file
    Image.open(images / "0151.png").save(val / "0004.png", compress_level=0)  # the pixels
    pixels = np.asarray(Image.open(images / "0152.png")).astype(int) + 2
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(val / "0005.png")
    expected.extend(("picture in two splits", f"image {id}") for id in (4, 5))
    expected.append(("picture like one of another split", "image 6"))
    return expected


def test_every_fault_of_instances_is_found_and_none_invented(instances: Path) -> None:
    expected = Counter(break_instances(instances))
    found = told(check(instances))
    assert found - expected == Counter()
    assert expected - found == Counter()


def test_findings_name_the_file_and_the_cure(instances: Path) -> None:
    break_instances(instances)
    findings = check(instances)
    train = str(instances / "annotations" / "instances_train.json")
    missing = next(f for f in findings if f.kind == "missing file")
    assert (missing.file, missing.record) == (train, "image 101")
    assert str(instances / "images" / "train" / "0100.png") in missing.message
    leak = next(f for f in findings if f.kind == "picture in two splits")
    assert leak.file == str(instances / "annotations" / "instances_val.json")
    assert "0150.png" in leak.message
    assert "drop one" in leak.message
    order = [f.severity for f in findings]
    assert order == sorted(order, key=["error", "warning", "note"].index)


def test_without_decoding_only_records_and_files_are_looked_at(instances: Path) -> None:
    deep_only = {
        *("unreadable image", "image of another size", "picture twice in a split"),
        *("picture in two splits", "picture like one of another split", "overlaps"),
        *("object annotated twice", "box unlike the mask", "area unlike the mask"),
    }
    expected = Counter(break_instances(instances))
    kinds = {kind for kind, _ in expected} - deep_only
    assert {f.kind for f in check(instances, deep=False)} == kinds


# --- panoptic -------------------------------------------------------------------------------------


def test_every_fault_of_panoptic_is_found_and_none_invented(panoptic: Path) -> None:
    pngs = panoptic / "panoptic" / "train"
    expected: Expected = []

    def edit(content: Content) -> None:
        rows = iter(zip(*[iter(content["annotations"])] * 2, strict=True))  # pairs: 1 %

        def pair(kind: str, record: str = "image") -> list[Content]:
            chosen = list(next(rows))
            expected.extend((kind, f"{record} {a['image_id']}") for a in chosen)
            return chosen

        of = "annotation of image"
        for annotation in pair("unknown category", of):
            annotation["segments_info"][0]["category_id"] = 77
        for annotation in pair("id stands twice", of):
            annotation["segments_info"].append(dict(annotation["segments_info"][0]))
        for annotation in pair("malformed segment", of):
            annotation["segments_info"].append({"id": 0, "category_id": 3})
        for annotation in pair("malformed annotation", of):
            annotation["segments_info"] = None
        for annotation in pair("PNG id without segment"):
            del annotation["segments_info"][1]
        for annotation in pair("segment without pixels"):
            annotation["segments_info"].append({"id": 12345, "category_id": 5})
        for annotation in pair("area unlike the mask"):
            annotation["segments_info"][0]["area"] += 1
        for annotation in pair("box unlike the mask"):
            annotation["segments_info"][2]["bbox"] = [30, 0, 9, 9]
        for annotation in pair("missing file"):
            (pngs / annotation["file_name"]).unlink()
        for annotation in pair("unreadable PNG"):
            (pngs / annotation["file_name"]).write_bytes(b"\x89PNG\r\n")
        for annotation in pair("PNG of another mode"):
            path = pngs / annotation["file_name"]
            Image.open(path).convert("L").save(path)
        for annotation in pair("PNG of another size"):
            path = pngs / annotation["file_name"]
            Image.open(path).crop((0, 0, WIDTH, HEIGHT - 1)).save(path)
        for annotation in pair("image annotated twice", of):
            content["annotations"].append(annotation)
        for annotation in pair("image without annotation"):
            content["annotations"].remove(annotation)
        for annotation in pair("image without objects"):
            annotation["segments_info"] = []
            Image.new("RGB", (WIDTH, HEIGHT)).save(pngs / annotation["file_name"])

    change(panoptic, "panoptic_train", edit)
    findings = check(panoptic)
    assert told(findings) - Counter(expected) == Counter()
    assert Counter(expected) - told(findings) == Counter()
    assert {f.file for f in findings} == {str(panoptic / "annotations" / "panoptic_train.json")}


def test_splits_with_other_classes(panoptic: Path) -> None:
    def edit(content: Content) -> None:
        content["categories"][0]["name"] = "screw"
        content["categories"][2]["isthing"] = 1

    change(panoptic, "panoptic_val", edit)
    findings = check(panoptic, deep=False)
    assert told(findings) == Counter(
        {("classes differ between splits", f"category {id}"): 1 for id in (3, 9)}
    )
    assert "'screw' (thing) here, but 'bolt' (thing) in" in findings[0].message
    assert check(panoptic, ["val"], deep=False) == []


def test_what_cannot_be_opened_is_told_and_the_rest_is_checked(panoptic: Path) -> None:
    (panoptic / "annotations" / "panoptic_train.json").write_text("{")
    findings = check(panoptic, deep=False)
    assert [(f.kind, f.severity) for f in findings if f.severity != "note"] == [
        ("cannot be opened", "error")
    ]
    assert "is not valid JSON" in findings[0].message
    shutil.rmtree(panoptic / "panoptic")
    assert told(check(panoptic, deep=False))[("cannot be opened", "panoptic_val.json")] == 1


def test_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such folder"):
        check(tmp_path / "absent")
    with pytest.raises(ValueError, match="no data set of a known format"):
        check(tmp_path)


# --- a format that is known by its reader alone ---------------------------------------------------


def test_other_formats_are_checked_sample_by_sample(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 3)):
        for index in range(count):
            folder = tmp_path / split / f"{split}{index}"
            (folder / "images").mkdir(parents=True)
            (folder / "masks").mkdir()
            rng = np.random.default_rng([len(split), index])
            sick_data.picture(rng).save(folder / "images" / "image.png")
            for number, box in enumerate(sick_data.boxes(rng)):
                mask = sick_data.mask_of(box)
                Image.fromarray(mask.astype(np.uint8) * 255).save(
                    folder / "masks" / f"{number}.png"
                )
    assert check(tmp_path) == []
    (tmp_path / "train" / "train1" / "masks" / "0.png").write_bytes(b"no PNG")
    image = Path("images") / "image.png"
    shutil.copy(tmp_path / "train" / "train2" / image, tmp_path / "val" / "val0" / image)
    findings = check(tmp_path)
    assert [(f.kind, f.severity) for f in findings] == [
        ("picture in two splits", "error"),
        ("unreadable sample", "error"),
    ]
    assert "val0" in findings[0].message
    assert "0.png: this mask cannot be read" in findings[1].message
    assert check(tmp_path, deep=False) == []


@pytest.mark.parametrize("deep", [False, True])
def test_labels_in_text_are_read(tmp_path: Path, deep: bool) -> None:
    (tmp_path / "data.yaml").write_text("names: [bolt]\ntrain: images/train\nval: images/val\n")
    for number, split in enumerate(("train", "val")):
        (tmp_path / "images" / split).mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        for index in range(3):
            picture = sick_data.picture(np.random.default_rng([number, index]))
            picture.save(tmp_path / "images" / split / f"{index}.png")
            label = tmp_path / "labels" / split / f"{index}.txt"
            label.write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    assert check(tmp_path, deep=deep) == []
    (tmp_path / "labels" / "train" / "0.txt").write_text("7 0.1 0.1 0.9 0.1 0.9 0.9\n")
    (tmp_path / "labels" / "train" / "1.txt").write_text("")
    assert [(f.kind, f.severity, f.record) for f in check(tmp_path, deep=deep)] == [
        ("unknown category", "error", "line 1"),
        ("image without objects", "warning", "1.png"),
    ]
    for label in (tmp_path / "labels" / "train").iterdir():
        label.write_text("")
    kinds = Counter((f.kind, f.severity) for f in check(tmp_path, deep=deep))
    assert kinds == {("split without objects", "error"): 1, ("image without objects", "warning"): 3}


def test_trainval_is_no_leak_and_records_have_their_own_names(tmp_path: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    lists = {"train": "a\nb\n", "val": "c\n", "trainval": "a\nb\nc\n"}
    for split, stems in lists.items():
        (tmp_path / "ImageSets" / "Segmentation" / f"{split}.txt").write_text(stems)
    for seed, stem in enumerate("abc"):
        sick_data.picture(np.random.default_rng(seed)).save(tmp_path / "JPEGImages" / f"{stem}.png")
        mask = Image.new("L", (WIDTH, HEIGHT), 1)
        mask.save(tmp_path / "SegmentationClass" / f"{stem}.png")
    (tmp_path / "classes.txt").write_text("background\nbolt\n")
    assert check(tmp_path) == []
    for twin in "bc":
        shutil.copy(tmp_path / "JPEGImages" / "a.png", tmp_path / "JPEGImages" / f"{twin}.png")
    found = {f.kind: f for f in check(tmp_path)}
    assert set(found) == {"picture in two splits", "picture twice in a split"}
    assert found["picture twice in a split"].record == "b.png"
    assert found["picture twice in a split"].message.startswith("b.png holds the same picture as a")
    assert found["picture in two splits"].message.startswith("c.png is the same picture as a.png")


def test_images_are_looked_for_as_the_reader_does(instances: Path) -> None:
    def rename(content: Content) -> None:
        for number, image in enumerate(content["images"]):
            image["file_name"] = ("images/train/", ".\\")[number % 2] + image["file_name"]

    change(instances, "instances_train", rename)
    assert check(instances, ["train"], deep=False) == []


def test_boxes_alone_cannot_train_masks(instances: Path) -> None:
    def first(content: Content) -> None:
        content["annotations"][0]["segmentation"] = []

    def every(content: Content) -> None:
        for annotation in content["annotations"]:
            annotation["segmentation"] = []

    change(instances, "instances_train", first)
    for deep in (False, True):
        findings = check(instances, deep=deep)
        assert [(f.kind, f.severity) for f in findings] == [("box without a mask", "warning")]
    change(instances, "instances_train", every)
    errors = [f for f in check(instances, ["train"], deep=False) if f.severity == "error"]
    assert {f.kind for f in errors} == {"box without a mask"}
    assert len(errors) == 600


# --- real ones ------------------------------------------------------------------------------------


@pytest.mark.data
def test_real_data_is_sound(shared: Path) -> None:
    """The one annotation named is a crowd whose area COCO itself took from another outline."""
    findings = check(shared / "data" / "coco")
    assert [f for f in findings if f.severity == "error"] == []
    warnings = [f for f in findings if f.severity == "warning"]
    assert told(warnings) == Counter(
        {
            ("area unlike the mask", "annotation 902800000315"): 1,
            ("image without objects", "image 250"): 1,
            ("image without objects", "image 508"): 1,
        }
    )
    for name in ("facades", "nuclei"):
        findings = check(shared / "data" / name, deep=False)
        assert [f for f in findings if f.severity != "note"] == []
