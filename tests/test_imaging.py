"""Images of every kind come out as uint8 RGB, or with an error that says what to do."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mask2former.imaging import (
    as_rgb,
    find_images,
    read_image,
    resize_image,
    shortest_side_size,
    stretch_contrast,
)

RED = (204, 51, 0)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_colour_modes(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    Image.new("RGB", (5, 3), RED).convert(mode).save(path)
    image = read_image(path)
    assert image.shape == (3, 5, 3)
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image[1, 2], RED, atol=1)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_modes(mode: str) -> None:
    image = read_image(encoded(Image.new("L", (5, 3), 255).convert(mode)))
    np.testing.assert_array_equal(image, np.full((3, 5, 3), 255))


def test_transparency_is_dropped() -> None:
    image = read_image(encoded(Image.new("RGBA", (5, 3), (*RED, 0))))
    np.testing.assert_array_equal(image[0, 0], RED)


@pytest.mark.parametrize(("top", "expected"), [(200, 200), (4095, 255), (65535, 255)])
def test_deep_images_are_scaled_by_their_depth(top: int, expected: int) -> None:
    values = np.array([[0, top // 2, top]], np.uint16)
    for image in (read_image(encoded(Image.fromarray(values))), as_rgb(values)):
        np.testing.assert_allclose(image[0, :, 0], [0, expected / 2, expected], atol=1)


def test_camera_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    content = encoded(Image.new("RGB", (8, 4)), "JPEG", exif=exif)
    assert read_image(content).shape == (8, 4, 3)
    assert read_image(content, apply_orientation=False).shape == (4, 8, 3)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    return exif


# How a file is written, and whether OpenCV is to read it.
FILES: list[tuple[str, str, dict[str, object], bool]] = [
    ("RGB", "JPEG", {"quality": 75}, True),
    ("RGB", "JPEG", {"quality": 100, "subsampling": 0}, True),
    ("RGB", "JPEG", {"progressive": True}, True),
    ("RGB", "JPEG", {"keep_rgb": True}, True),
    ("L", "JPEG", {}, True),
    ("RGB", "PNG", {}, True),
    ("RGB", "JPEG", {"exif": turned()}, False),
    ("CMYK", "JPEG", {}, False),
    ("RGB", "PNG", {"exif": turned()}, False),
    ("RGB", "PNG", {"transparency": (0, 0, 0)}, False),
    ("RGBA", "PNG", {}, False),
    ("P", "PNG", {}, False),
    ("RGB", "WEBP", {}, False),
]


def photograph() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    return Image.fromarray(noise).resize((67, 45), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("mode", "format", "options", "quick"), FILES)
def test_pixels_are_pillows_whoever_decodes(
    mode: str, format: str, options: dict[str, object], quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encoded(photograph().convert(mode), format, **options)
    calls: list[int] = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *a: (calls.append(1), decode(*a))[1])
    for apply_orientation in (True, False):
        with Image.open(io.BytesIO(content)) as image:
            expected = ImageOps.exif_transpose(image) if apply_orientation else image
            pixels = np.asarray(expected.convert("RGB"))
        found = read_image(content, apply_orientation=apply_orientation)
        np.testing.assert_array_equal(found, pixels)
        assert found.flags["C_CONTIGUOUS"]
        if apply_orientation:
            assert bool(calls) == quick


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_files_cut_off_are_errors(format: str, capfd: pytest.CaptureFixture[str]) -> None:
    content = encoded(photograph(), format)
    with pytest.raises(ValueError, match="cannot be read"):
        read_image(content[: len(content) // 2])
    assert capfd.readouterr().err == ""  # libraries would complain there


def test_sixteen_bits_of_colour() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (8, 9, 3), np.uint16)
    content = cv2.imencode(".png", values)[1].tobytes()
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(read_image(content), np.asarray(image.convert("RGB")))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise))
    for name, content, message in [
        ("empty.png", b"", "is empty"),
        ("text.png", b"no image at all", "not an image"),
        ("cut.png", whole[: len(whole) // 2], "cannot be read"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(ValueError, match="is a folder"):
        read_image(tmp_path)


def test_float_file_is_named_with_its_range() -> None:
    values = np.array([[-1.0, 0.5]], np.float32)
    with pytest.raises(ValueError, match=r"image of .* bytes: .*from -1 to"):
        read_image(encoded(Image.fromarray(values), "TIFF"))


def test_arrays_and_tensors() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    chw = torch.from_numpy(rgb).permute(2, 0, 1)
    alpha = np.concatenate([rgb, rgb[:, :, :1]], axis=2)
    for image in (rgb, Image.fromarray(rgb), chw, chw / 255, rgb / 255, alpha):
        np.testing.assert_array_equal(as_rgb(image), rgb)
    np.testing.assert_array_equal(as_rgb(rgb[:, :, 0])[:, :, 2], rgb[:, :, 0])
    np.testing.assert_array_equal(as_rgb(rgb[:, :, :1])[:, :, 1], rgb[:, :, 0])
    np.testing.assert_array_equal(as_rgb(chw[:1])[:, :, 1], rgb[:, :, 0])
    np.testing.assert_array_equal(as_rgb(rgb > 9)[:, :, 0], (rgb[:, :, 0] > 9) * 255)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 8, 9), np.uint8), "transpose"),
        (np.zeros((2, 8, 9, 3), np.uint8), "one by one"),
        (np.zeros((0, 9, 3), np.uint8), "no pixels"),
        (np.full((8, 9, 3), 7.0), "within 0..1"),
        (np.full((8, 9, 3), np.nan), "within 0..1"),
        (np.full((8, 9, 3), -7), "within 0..65535"),
        (np.full((8, 9, 3), "a"), "no image"),
        ("photo.jpg", "type str"),
    ],
)
def test_what_is_no_image_is_refused(image: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_rgb(image)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "shortest", "longest", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),
        ((640, 480), 800, 1333, (1067, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((300, 1000), 800, 1333, (400, 1333)),
        ((1, 5000), 800, 1333, (1, 1333)),
    ],
)
def test_shortest_side(
    size: tuple[int, int], shortest: int, longest: int, expected: tuple[int, int]
) -> None:
    assert shortest_side_size(size, shortest, longest) == expected


def test_resizing_averages() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize_image(stripes, (16, 8))
    assert small.shape == (16, 8, 3)
    np.testing.assert_allclose(small[2:-2, 2:-2].astype(int), 127, atol=10)
    assert resize_image(stripes, (64, 64)) is stripes


def test_contrast() -> None:
    ramp = np.repeat(np.linspace(50, 99, 5000).astype(np.uint8), 3).reshape(50, 100, 3)
    stretched = stretch_contrast(ramp, (1, 99))
    assert (stretched.min(), stretched.max()) == (0, 255)
    assert (np.diff(stretched.reshape(-1, 3)[:, 0].astype(int)) >= 0).all()
    constant = np.full((4, 4, 3), 7, np.uint8)
    np.testing.assert_array_equal(stretch_contrast(constant, (1, 99)), constant)
    sparse = np.full((50, 50, 3), 10, np.uint8)
    sparse[3, 3] = 20
    assert stretch_contrast(sparse, (1, 99))[3, 3, 0] == 255
    with pytest.raises(ValueError, match="percentiles"):
        stretch_contrast(ramp, (99, 1))


def test_finding_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", ".hidden.png", "notes.txt", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    a, b, c = (tmp_path / name for name in ("a.jpg", "b.PNG", "deep/c.png"))
    assert find_images(tmp_path) == [a, b]
    assert find_images(tmp_path, recursive=True) == [a, b, c]
    assert find_images([b, str(a), tmp_path]) == [a, b]
    assert find_images(str(tmp_path / "**" / "*.png")) == [c]
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


def test_finding_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        find_images(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="pattern"):
        find_images(str(tmp_path / "*.png"))
    with pytest.raises(ValueError, match=r"holds no images \(.*\.png"):
        find_images(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "c.png").touch()
    with pytest.raises(ValueError, match="subfolders do"):
        find_images(tmp_path)
