"""Masks as numbers, and which mask belongs to which image."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from map_files import write_image, write_map, zipped
from mask2former.archive import any_path
from mask2former.data.pixel_maps import holds_pairs, pair_files, read_map, recode, used_values

PIXELS = np.arange(48, dtype=np.uint8).reshape(6, 8) // 12
PALETTE = [0, 0, 0, 200, 10, 10, 10, 200, 10, 10, 10, 200]


def grey_png(pixels: np.ndarray, depth: int) -> bytes:
    """A grey PNG of so many bits, of which Pillow writes none."""
    rows = [np.unpackbits(row[:, None], axis=1)[:, 8 - depth :].ravel() for row in pixels]
    raw = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def test_numbers_are_as_stored(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    write_map(path, PIXELS)
    np.testing.assert_array_equal(read_map(path).values, PIXELS)
    write_map(path, PIXELS, PALETTE)
    indexed = read_map(path)
    np.testing.assert_array_equal(indexed.values, PIXELS)
    assert indexed.palette is not None
    assert indexed.palette[:5].tolist() == [0, 0x0A0AC8, 0x0AC80A, 0xC80A0A, 0]
    for depth in (2, 4):  # Pillow alone would stretch these to 0..255
        path.write_bytes(grey_png(PIXELS, depth))
        np.testing.assert_array_equal(read_map(path).values, PIXELS)
    Image.fromarray(PIXELS > 1).save(path)
    np.testing.assert_array_equal(read_map(path).values, PIXELS > 1)
    for suffix in (".png", ".tif"):
        wide = PIXELS.astype(np.uint16) * 20000
        write_map(path.with_suffix(suffix), wide)
        found = read_map(path.with_suffix(suffix))
        np.testing.assert_array_equal(found.values, wide)
        assert (found.is_color, found.size) == (False, (6, 8))


def test_colors_are_one_number(tmp_path: Path) -> None:
    colors = np.stack([PIXELS, PIXELS * 2, PIXELS * 3], axis=2)
    for mode in ("RGB", "RGBA"):
        Image.fromarray(colors).convert(mode).save(tmp_path / "m.png")
        found = read_map(tmp_path / "m.png")
        assert found.is_color
        np.testing.assert_array_equal(found.values, PIXELS.astype(int) * (1 + 2 * 256 + 3 * 65536))


def test_numbers_are_replaced() -> None:
    for numbers in ([0, 3, 200], [-1, 5, 1 << 20]):
        values = np.array([numbers, numbers[::-1]])
        assert used_values(values) == sorted(numbers)
        new = {number: 10 * i for i, number in enumerate(numbers)}
        assert recode(values, new).tolist() == [[0, 10, 20], [20, 10, 0]]


def test_masks_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"m\.png: this mask does not exist"):
        read_map(tmp_path / "m.png")
    (tmp_path / "m.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"m\.png: this mask cannot be read"):
        read_map(tmp_path / "m.png")
    Image.new("CMYK", (4, 4)).save(tmp_path / "m.tif")
    with pytest.raises(ValueError, match=r"m\.tif: this mask has mode CMYK; store it as grey"):
        read_map(tmp_path / "m.tif")


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("a.jpg", "a.png"),
        ("a.JPG", "a_mask.png"),
        ("a.png", "a_L.png"),
        ("a_L.png", "a_L.png"),  # the left of two cameras
        ("a.tif", "a_label.tif"),
        ("a_sat.jpg", "a_mask.png"),
        ("a_rgb.png", "a_rgb.png"),
        ("a.b.jpeg", "a.b_segmentation.bmp"),
    ],
)
def test_pairs_by_stem(tmp_path: Path, image: str, mask: str) -> None:
    write_image(tmp_path / "images" / image, (6, 8))
    write_map(tmp_path / "masks" / mask, PIXELS)
    (tmp_path / "images" / ".hidden.jpg").write_bytes(b"")
    (tmp_path / "masks" / "notes.txt").write_text("")
    for root in (tmp_path, any_path(zipped(tmp_path))):
        (pair,) = pair_files(root / "images", root / "masks")
        assert (pair.image.name, pair.mask.name, pair.id) == (image, mask, Path(image).stem)
        assert holds_pairs(root / "images", root / "masks")
        assert not holds_pairs(root / "masks", root / "none")


def test_masks_beside_their_images(tmp_path: Path) -> None:
    for stem in ("b", "a"):
        write_image(tmp_path / f"{stem}.png", (6, 8))
        assert not holds_pairs(tmp_path, tmp_path)
    write_map(tmp_path / "a_mask.png", PIXELS)
    write_map(tmp_path / "b_mask.png", PIXELS)
    assert holds_pairs(tmp_path, tmp_path)
    pairs = pair_files(tmp_path, tmp_path)
    assert [(p.image.name, p.mask.name) for p in pairs] == [
        ("a.png", "a_mask.png"),
        ("b.png", "b_mask.png"),
    ]


def test_an_image_beside_its_mask_may_be_called_like_a_mask(tmp_path: Path) -> None:
    for name in ("eye_L.png", "eye_L_mask.png", "eye.png", "eye_mask.png", "far_image.png"):
        write_image(tmp_path / name, (2, 2))
    for name in ("far_mask.png", "near_L.jpg", "near_L_mask.png"):
        write_image(tmp_path / name, (2, 2))
    assert holds_pairs(tmp_path, tmp_path)
    assert [(p.image.name, p.mask.name) for p in pair_files(tmp_path, tmp_path)] == [
        ("eye.png", "eye_mask.png"),
        ("eye_L.png", "eye_L_mask.png"),
        ("far_image.png", "far_mask.png"),
        ("near_L.jpg", "near_L_mask.png"),
    ]


@pytest.mark.parametrize(
    ("image", "masks"),
    [
        ("a.jpg", ("a.png", "a_mask.png")),
        ("a.jpg", ("a_mask.png", "a_mask.tif")),
        ("a_img.jpg", ("a_img.png", "a_mask.png")),
    ],
)
def test_no_image_has_two_masks(tmp_path: Path, image: str, masks: tuple[str, str]) -> None:
    write_image(tmp_path / "images" / image, (2, 2))
    for mask in masks:
        write_map(tmp_path / "masks" / mask, np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match="has two masks") as caught:
        pair_files(tmp_path / "images", tmp_path / "masks")
    assert all(str(tmp_path / "masks" / mask) in str(caught.value) for mask in masks)


def test_masks_of_other_images_are_no_second_mask(tmp_path: Path) -> None:
    for stem in ("eye", "eye_L", "eye_img"):
        write_image(tmp_path / "images" / f"{stem}.jpg", (2, 2))
        write_map(tmp_path / "masks" / f"{stem}.png", np.zeros((2, 2), np.uint8))
    pairs = pair_files(tmp_path / "images", tmp_path / "masks")
    assert [(p.id, p.mask.stem) for p in pairs] == [(s, s) for s in ("eye", "eye_L", "eye_img")]


def test_a_list_names_the_images(tmp_path: Path) -> None:
    for stem in ("a", "b", "c"):
        write_image(tmp_path / "images" / f"{stem}.jpg", (6, 8))
    write_map(tmp_path / "masks" / "b.png", PIXELS)
    pairs = pair_files(tmp_path / "images", tmp_path / "masks", ["b"])
    assert [pair.id for pair in pairs] == ["b"]
    with pytest.raises(FileNotFoundError, match=r"masks: there is no mask of the stem 'c'"):
        pair_files(tmp_path / "images", tmp_path / "masks", ["b", "c"])
    with pytest.raises(FileNotFoundError, match=r"images: there is no image of the stem 'd'"):
        pair_files(tmp_path / "images", tmp_path / "masks", ["d"])


def test_what_lacks_a_partner_is_named(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    for stem in ("a", "b", "c"):
        write_image(images / f"{stem}.jpg", (6, 8))
    write_map(masks / "b.png", PIXELS)
    with pytest.raises(FileNotFoundError, match=r"2 of the 3 images in .* \(a\.jpg, c\.jpg\)"):
        pair_files(images, masks)
    write_image(images / "b.png", (6, 8))
    with pytest.raises(ValueError, match=r"b\.png: b\.jpg has the same stem; rename one"):
        pair_files(images, masks)
