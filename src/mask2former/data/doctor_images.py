"""The doctor's look at image files: are they there, can they be read, are some the same?"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Float, Float32, UInt8

from mask2former.archive import AnyPath
from mask2former.data.dataset import SizeMismatchError, read_annotated_image, require_file
from mask2former.data.findings import (
    IMAGE_SIZE,
    MISSING,
    UNREADABLE,
    Finding,
    ImageRef,
    SampleRef,
    Severity,
)
from mask2former.imaging import SUFFIXES, resize_image

_SIDE = 24  # of the small version that near-identical images are told by
_ALIKE = 0.998  # correlation of two small versions
_LEAST_CONTRAST = 4.0  # standard deviation of grey levels; below it images cannot be told apart
_ROWS = 2048  # of the table of correlations that is made at a time


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is kept of an image that was read."""

    pixels: bytes  # digest of size and pixels
    small: Float[np.ndarray, "D"] | None  # of mean 0 and length 1; None without contrast


def look_at(image: UInt8[np.ndarray, "H W 3"]) -> Look:
    """Two images of equal `pixels` are the same."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(image.tobytes())
    small = resize_image(image, (_SIDE, _SIDE)).mean(axis=2).astype(np.float32).ravel()
    small -= small.mean()
    contrast = float(small.std())
    told = contrast >= _LEAST_CONTRAST
    return Look(
        pixels=digest.digest(),
        small=(small / np.linalg.norm(small)).astype(np.float16) if told else None,
    )


def examine(ref: ImageRef) -> tuple[list[Finding], Look | None]:
    """Read an image; what is wrong with it, and what is kept of it."""
    try:
        return [], look_at(read_annotated_image(ref.path, ref.size, ref.record))
    except FileNotFoundError as error:
        return [_finding(ref, MISSING, str(error))], None
    except SizeMismatchError as error:
        return [_finding(ref, IMAGE_SIZE, str(error))], None
    except (ValueError, OSError) as error:
        return [_finding(ref, UNREADABLE, str(error))], None


def missing(ref: ImageRef) -> list[Finding]:
    """A finding if the file is not there."""
    try:
        require_file(ref.path, ref.record)
    except FileNotFoundError as error:
        return [_finding(ref, MISSING, str(error))]
    return []


def named_twice(refs: Iterable[ImageRef]) -> list[Finding]:
    """Files that two records of a split name (a warning), or those of two splits (an error)."""
    findings: list[Finding] = []
    by_path: dict[AnyPath, ImageRef] = {}
    for ref in refs:
        first = by_path.setdefault(ref.path, ref)
        if first is ref:
            continue
        if first.split != ref.split:
            findings.append(_in_two_splits(ref, first, "the very same file"))
        elif first.file == ref.file:  # two files of a split may well share their images
            message = (
                f"names the file {ref.path}, as {first.record} does; merge the annotations of the"
                " two, or correct file_name"
            )
            findings.append(_finding(ref, "file named twice", message, "warning"))
    return findings


def same_pictures(looks: Sequence[tuple[SampleRef, Look]]) -> list[Finding]:
    """Different files that hold the same picture, in two splits or twice in one.

    Looked for by content: equal pixels, and between splits equal small versions.
    """
    findings: list[Finding] = []
    first_of: dict[bytes, SampleRef] = {}
    single: dict[str, list[tuple[SampleRef, Look]]] = {}
    for ref, look in looks:
        first = first_of.setdefault(look.pixels, ref)
        if first is ref:
            single.setdefault(ref.split, []).append((ref, look))
        elif isinstance(ref, ImageRef) and first.place == ref.place:
            continue  # see `named_twice`
        elif first.split != ref.split:
            findings.append(_in_two_splits(ref, first, "the same picture"))
        else:
            message = (
                f"{ref.place} holds the same picture as {_called(first)}; drop one, as it counts"
                " twice"
            )
            findings.append(_finding(ref, "picture twice in a split", message, "warning"))
    for one, other in combinations(single.values(), 2):
        findings.extend(_alike(one, other))
    return findings


def _alike(one: list[tuple[SampleRef, Look]], other: list[tuple[SampleRef, Look]]) -> list[Finding]:
    one = [(ref, look) for ref, look in one if look.small is not None]
    other = [(ref, look) for ref, look in other if look.small is not None]
    if not one or not other:
        return []
    known, findings = _stacked(one), []
    for start in range(0, len(other), _ROWS):
        rows = other[start : start + _ROWS]
        alike = _stacked(rows) @ known.T
        for (ref, _), row in zip(rows, alike, strict=True):
            nearest = int(row.argmax())
            if row[nearest] >= _ALIKE:
                twin = one[nearest][0]
                message = (
                    f"{ref.place} looks like {_called(twin)} of split {twin.split!r};"
                    " if they show the same, drop one, or figures will be better than they should"
                )
                kind = "picture like one of another split"
                findings.append(_finding(ref, kind, message, "warning"))
    return findings


def _stacked(looks: list[tuple[SampleRef, Look]]) -> Float32[np.ndarray, "N D"]:
    return np.stack([look.small for _, look in looks if look.small is not None]).astype(np.float32)


def _called(ref: SampleRef) -> str:
    return f"{ref.place} ({ref.record})" if isinstance(ref, ImageRef) else ref.record


def _in_two_splits(ref: SampleRef, first: SampleRef, what: str) -> Finding:
    message = (
        f"{ref.place} is {what} as {_called(first)} of split {first.split!r}; drop one,"
        " as what is trained on cannot measure"
    )
    return _finding(ref, "picture in two splits", message)


def unnamed_files(refs: Sequence[ImageRef]) -> list[Finding]:
    """Image files beside those that records name, which no record names."""
    named = {ref.path for ref in refs}
    message = "no record names this image; annotate it, or leave it: it is not used"
    folders: dict[str, AnyPath] = {str(ref.path.parent): ref.path.parent for ref in refs}
    files: list[AnyPath] = [
        path
        for _, folder in sorted(folders.items())
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path not in named
    ]
    return [
        Finding(
            kind="image without a record",
            severity="note",
            file=str(path),
            record="",
            message=message,
        )
        for path in sorted(files, key=str)
    ]


def _finding(ref: SampleRef, kind: str, message: str, severity: Severity = "error") -> Finding:
    message = message.removeprefix(f"{ref.record}: ")
    return Finding(kind=kind, severity=severity, file=ref.file, record=ref.record, message=message)
