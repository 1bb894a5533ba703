"""Paths into zip files, read in place: as much of `pathlib.Path` as reading a data set takes."""

from __future__ import annotations

import fnmatch
import io
import os
import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from functools import total_ordering
from pathlib import Path
from typing import Any


class _Archive:
    """An open zip file and the tree of its entries; each process opens its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as file:
                stored = [info.filename for info in file.infolist()]
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path}: is no zip file ({error}); download it again") from None
        # Some tools begin every name with "./", and some of Windows write backslashes.
        self.files: dict[str, str] = {}  # from the plain name to the stored one
        self.children: dict[str, set[str]] = {"": set()}
        for name in stored:
            slashed = name.replace("\\", "/")
            plain = posixpath.normpath(slashed)
            if plain == ".":
                continue
            parts = plain.split("/")
            for depth, part in enumerate(parts):
                self.children.setdefault("/".join(parts[:depth]), set()).add(part)
            if slashed.endswith("/"):
                self.children.setdefault(plain, set())
            else:
                self.files[plain] = name
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def read(self, name: str) -> bytes:
        # A file position that is shared with a forked loader process would move under our feet.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), zipfile.ZipFile(self.path))
        try:
            return self._opened[1].read(self.files[name])
        except KeyError:
            raise FileNotFoundError(f"{self.path}/{name}: there is no such file") from None
        except (zipfile.BadZipFile, zlib.error, RuntimeError, OSError, EOFError) as error:
            raise ValueError(f"{self.path}/{name}: cannot be unpacked: {error}") from None

    def __reduce__(self) -> tuple[Any, ...]:
        return _Archive, (self.path,)


@total_ordering
class ZipPath:
    """A file or folder in a zip file; behaves as a `Path` does, for reading."""

    def __init__(self, path: str | Path) -> None:
        """The top of the zip file at `path`. ValueError if it is none."""
        self._archive, self._at = _Archive(Path(path)), ""

    def _inside(self, at: str) -> ZipPath:
        other = object.__new__(ZipPath)
        other._archive, other._at = self._archive, at
        return other

    def __truediv__(self, name: str | Path) -> ZipPath:
        at = posixpath.normpath(posixpath.join(self._at, str(name)))
        return self._inside("" if at == "." else at)

    def joinpath(self, *names: str | Path) -> ZipPath:
        path = self
        for name in names:
            path = path / name
        return path

    def __str__(self) -> str:
        return f"{self._archive.path}/{self._at}" if self._at else str(self._archive.path)

    def __repr__(self) -> str:
        return f"ZipPath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZipPath) and str(self) == str(other)

    def __lt__(self, other: ZipPath) -> bool:
        return self.parts < other.parts

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self._archive.path.parts, *(self._at.split("/") if self._at else ()))

    @property
    def name(self) -> str:
        return self.parts[-1]

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    @property
    def parent(self) -> ZipPath:
        return self._inside(posixpath.dirname(self._at))

    def with_suffix(self, suffix: str) -> ZipPath:
        return self.parent / Path(self.name).with_suffix(suffix)

    def is_dir(self) -> bool:
        return self._at in self._archive.children

    def is_file(self) -> bool:
        return self._at in self._archive.files

    def exists(self) -> bool:
        return self.is_dir() or self.is_file()

    def iterdir(self) -> Iterator[ZipPath]:
        for name in sorted(self._archive.children[self._at]):
            yield self / name

    def glob(self, pattern: str) -> Iterator[ZipPath]:
        """As `Path.glob`; "**" stands for any number of folders."""
        first, _, rest = pattern.partition("/")
        if first == "**":
            yield from self.glob(rest) if rest else (self,)
        for child in self.iterdir() if self.is_dir() else ():
            if first == "**":
                if child.is_dir():
                    yield from child.glob(pattern)
            elif fnmatch.fnmatchcase(child.name, first):
                yield from child.glob(rest) if rest else (child,)

    def rglob(self, pattern: str) -> Iterator[ZipPath]:
        return self.glob(f"**/{pattern}")

    def read_bytes(self) -> bytes:
        return self._archive.read(self._at)

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The file's bytes, in memory."""
        assert mode == "rb", "a zip file is only read, and as bytes"
        return io.BytesIO(self.read_bytes())


AnyPath = Path | ZipPath


def relative(path: AnyPath, folder: AnyPath) -> Path:
    """Where a path lies in a folder; ValueError if it does not."""
    return Path(str(path)).relative_to(str(folder))


def any_path(path: str | Path | ZipPath) -> AnyPath:
    """The folder or file itself; of a zip file its top, or the one folder that all lies in."""
    if isinstance(path, ZipPath):
        return path
    path = Path(path)
    if path.suffix.lower() != ".zip" or not path.is_file():
        return path
    top = ZipPath(path)
    inside = [entry for entry in top.iterdir() if entry.name not in ("__MACOSX", ".DS_Store")]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else top


def read_text(path: AnyPath) -> str:
    """What a text file holds, a byte order mark aside. ValueError names it if it is no UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is no text of UTF-8 ({error}); save it as that") from None


def is_file(path: AnyPath) -> bool:
    """Whether a file exists; one that may not be looked into does not."""
    return is_there(path) and path.is_file()


def is_there(path: AnyPath) -> bool:
    """Whether a file or folder exists; one that may not be looked into does not."""
    try:
        return path.exists()
    except OSError:  # another user's or machine's, as paths that travelled name them
        return False
