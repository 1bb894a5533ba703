"""Images: find them, read them from anywhere as RGB, resize them, stretch their contrast."""

from __future__ import annotations

import glob
import io
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mask2former.archive import ZipPath

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")

_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND\xaeB`\x82"
_PNG_DEPTH = 24  # where a PNG says how many bits a channel has
# Chunks of a PNG that may hold an orientation, transparency, several pictures.
_PNG_MARKS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp", b"tRNS", b"acTL")
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def read_image(
    source: str | Path | ZipPath | bytes, *, apply_orientation: bool = True
) -> UInt8[np.ndarray, "H W 3"]:
    """Read an image file, or its bytes, as RGB.

    - The orientation that a camera noted in the file (EXIF) is applied unless told otherwise.
    - Transparency is dropped: a pixel keeps its stored colour. Of several pages the first is read.
    - More than 8 bits per channel: see `as_rgb`.

    Raises FileNotFoundError if there is no such file, ValueError if it cannot be read.
    """
    name = f"image of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    if isinstance(source, bytes):
        content = source
    else:
        path = Path(source) if isinstance(source, str) else source
        if not path.exists():
            raise FileNotFoundError(f"{name}: there is no such file; check the path")
        if path.is_dir():
            raise ValueError(f"{name}: is a folder, not an image; find_images lists its images")
        content = path.read_bytes()
    if not content:
        raise ValueError(f"{name}: is empty; restore it from its origin or remove it")
    try:
        with Image.open(io.BytesIO(content)) as image:
            pixels = _decode_plain(image, content, apply_orientation)
            if pixels is not None:
                return pixels
            image.load()
            loaded = ImageOps.exif_transpose(image) if apply_orientation else image.copy()
    except UnidentifiedImageError:
        raise ValueError(
            f"{name}: is not an image that Pillow can read (known: {', '.join(SUFFIXES)});"
            " convert it to PNG or JPEG"
        ) from None
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name}: is too large to read at once ({error}); cut it up, or keep its pixels in a"
            " .npy file and give np.load(file, mmap_mode='r') to Segmenter.tiled"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ValueError(
            f"{name}: cannot be read: {error}; restore it from its origin or remove it"
        ) from error
    try:
        return as_rgb(loaded)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _decode_plain(
    image: Image.Image, content: bytes, apply_orientation: bool
) -> UInt8[np.ndarray, "H W 3"] | None:
    """The pixels of a whole, ordinary JPEG or PNG, the same as Pillow's in half the time (OpenCV).

    None for whatever the two read differently: turned, transparent, of several pages, of 16 bits,
    in other colours, cut off.
    """
    if image.format == "JPEG":
        turned = apply_orientation and image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        plain = image.mode in ("RGB", "L") and content.endswith(_JPEG_END) and not turned
    elif image.format == "PNG":
        # Pillow would unpack a PNG to look for the orientation, which may stand behind the pixels.
        whole = content[_PNG_DEPTH] == 8 and content.endswith(_PNG_END)
        plain = image.mode == "RGB" and whole and not any(m in content for m in _PNG_MARKS)
    else:
        return None
    if not plain:
        return None
    try:
        pixels = cv2.imdecode(
            np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error:  # it has limits of its own
        return None
    return None if pixels is None else np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def as_rgb(image: np.ndarray | Image.Image | torch.Tensor) -> UInt8[np.ndarray, "H W 3"]:
    """The same image as RGB, 0..255; grey becomes RGB and transparency is dropped.

    Takes a Pillow image, an array [H, W] or [H, W, 1 | 3 | 4], or a tensor, which may also be
    [1 | 3 | 4, H, W]. Bools become 0 and 255, floats must lie within 0..1. Whole numbers above 255
    are taken to be of 12 bits if none is above 4095 (most microscopes), else of 16.
    """
    if isinstance(image, Image.Image):
        return _array_as_rgb(_pillow_as_array(image), "image")
    if isinstance(image, torch.Tensor):
        tensor = image.detach().cpu()
        array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            array = array.transpose(1, 2, 0)
        return _array_as_rgb(array, "tensor")
    if isinstance(image, np.ndarray):
        return _array_as_rgb(image, "array")
    raise ValueError(
        f"an image of type {type(image).__name__} is not understood; pass a path, a Pillow image,"
        " an array [H, W, 3] or a tensor [3, H, W]"
    )


def _pillow_as_array(image: Image.Image) -> np.ndarray:
    if image.mode in _SIXTEEN_BIT_MODES or image.mode == "F":
        values = np.asarray(image)
        if image.mode == "F" and values.size and values.max() > 1:
            return np.round(values).astype(np.int64)  # a float file that holds whole numbers
        return values
    return np.asarray(image.convert("RGB"))


def _array_as_rgb(array: np.ndarray, what: str) -> UInt8[np.ndarray, "H W 3"]:
    shape = list(array.shape)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        hint = ""
        if array.ndim == 3 and array.shape[0] in (1, 3, 4):
            hint = "; channels come last in an array: array.transpose(1, 2, 0)"
        elif array.ndim == 4:
            hint = "; pass the images one by one"
        raise ValueError(f"an {what} of shape {shape} is no image [H, W] or [H, W, 3]{hint}")
    if array.size == 0:
        raise ValueError(f"an {what} of shape {shape} has no pixels")
    array = _as_bytes(array if array.shape[2] == 1 else array[:, :, :3], what)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def _as_bytes(array: np.ndarray, what: str) -> UInt8[np.ndarray, "H W C"]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"an {what} of {array.dtype} is no image; pass uint8")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f":
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"an {what} of floats must lie within 0..1, but this one reaches from {low:g} to"
                f" {high:g}; divide it by its range, or convert it to uint8 if that is 0..255"
            )
        return np.round(array.astype(np.float32) * 255).astype(np.uint8)
    if low < 0 or high > 65535:
        raise ValueError(
            f"an {what} of whole numbers must lie within 0..65535, but this one reaches from {low}"
            f" to {high}; scale it to 0..255"
        )
    if high <= 255:
        return array.astype(np.uint8)
    full = 4095 if high <= 4095 else 65535
    return np.round(array.astype(np.float32) * (255 / full)).astype(np.uint8)


def resize_image(
    image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """Scale to `size` (h, w), bilinear; shrinking averages, so that nothing aliases."""
    if image.shape[:2] == size:
        return image
    height, width = size
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def shortest_side_size(size: tuple[int, int], shortest: int, longest: int) -> tuple[int, int]:
    """(h, w) with the shortest side at `shortest`, or less if the longest would pass `longest`."""
    height, width = size
    scale = shortest / min(height, width)
    h, w = (shortest, scale * width) if height < width else (scale * height, shortest)
    if max(h, w) > longest:
        scale = longest / max(h, w)
        h, w = h * scale, w * scale
    return max(int(h + 0.5), 1), max(int(w + 0.5), 1)


def normalize(
    image: UInt8[np.ndarray, "H W 3"],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> Float[torch.Tensor, "3 H W"]:
    """(x - mean) / std, channels first."""
    x = torch.tensor(image).permute(2, 0, 1).float()
    return (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


def stretch_contrast(
    image: UInt8[np.ndarray, "H W 3"], percentiles: tuple[float, float]
) -> UInt8[np.ndarray, "H W 3"]:
    """Move the (low, high) percentiles of all channels together to 0 and 255.

    If both fall on one value, as in a dark image with few bright spots, the whole range is
    stretched; an image of one value is returned as it is.
    """
    return np.take(contrast_table(image, percentiles), image)


def contrast_table(
    image: UInt8[np.ndarray, "H W 3"], percentiles: tuple[float, float]
) -> UInt8[np.ndarray, "256"]:
    """What `stretch_contrast` makes of each value of an image."""
    low_share, high_share = percentiles
    if not 0 <= low_share < high_share <= 100:
        raise ValueError(f"contrast percentiles {percentiles}: want 0 <= low < high <= 100")
    counts = np.bincount(image.ravel(), minlength=256)
    ranks = np.cumsum(counts)
    wanted = np.maximum(np.array(percentiles) / 100 * image.size, 1)
    low, high = np.searchsorted(ranks, wanted)
    if low == high:
        low, high = np.flatnonzero(counts)[[0, -1]]
    if low == high:
        return np.arange(256, dtype=np.uint8)
    values = (np.arange(256) - low) * (255 / (high - low))
    table: UInt8[np.ndarray, "256"] = np.clip(np.round(values), 0, 255).astype(np.uint8)
    return table


def find_images(paths: str | Path | Iterable[str | Path], *, recursive: bool = False) -> list[Path]:
    """The image files that paths name: files, folders, and patterns such as "photos/**/*.jpg".

    Sorted and without repetition. A file named outright is taken whatever its suffix; in folders
    only images (by suffix, hidden files excluded) are, in subfolders too if `recursive`.
    Raises FileNotFoundError for a path that leads nowhere, ValueError for a folder without images.
    """
    found: set[Path] = set()
    for path in [paths] if isinstance(paths, str | Path) else paths:
        found.update(_find(str(path), recursive))
    return sorted(found)


def _find(path: str, recursive: bool) -> list[Path]:
    if Path(path).is_file():
        return [Path(path)]
    if Path(path).is_dir():
        images = _images_in(Path(path).rglob("*") if recursive else Path(path).iterdir())
        if not images:
            deeper = not recursive and _images_in(Path(path).rglob("*"))
            raise ValueError(
                f"{path}: this folder holds no images ({', '.join(SUFFIXES)})"
                + (f", but its subfolders do: name them with '{path}/**'" if deeper else "")
            )
        return images
    images = _images_in(Path(match) for match in glob.glob(path, recursive=True))
    if not images:
        raise FileNotFoundError(
            f"{path}: no image matches this pattern ({', '.join(SUFFIXES)})"
            if glob.has_magic(path)
            else f"{path}: there is no such file or folder; check the path"
        )
    return images


def _images_in(paths: Iterable[Path]) -> list[Path]:
    return [
        path
        for path in paths
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]
