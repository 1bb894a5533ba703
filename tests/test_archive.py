"""Zip files read in place, as folders are."""

from __future__ import annotations

import multiprocessing
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from mask2former.archive import AnyPath, ZipPath, any_path, relative
from mask2former.imaging import read_image

FILES = {
    "train/images/a.jpg": b"image a",
    "train/images/b.JPG": b"image b",
    "train/masks/a.png": b"mask a",
    "train/deeper/still/more/c.txt": b"caf\xc3\xa9\n",
    "readme.txt": b"",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    (tmp_path / "set" / "empty").mkdir()
    return tmp_path / "set"


@pytest.fixture(params=[True, False], ids=["with folder entries", "files alone"])
def top(folder: Path, request: pytest.FixtureRequest) -> ZipPath:
    """Many tools leave the entries of folders out."""
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file() or request.param:
                file.write(path, path.relative_to(folder))
    return ZipPath(folder.with_suffix(".zip"))


# Each is asked of the folder and of the zip file: a Path is what a ZipPath has to agree with.
QUESTIONS: dict[str, Callable[[AnyPath], Any]] = {
    "top": lambda top: sorted(p.name for p in top.iterdir() if p.name != "empty"),
    "nested": lambda top: sorted(p.name for p in (top / "train" / "images").iterdir()),
    "joined": lambda top: (top / "train/deeper/still").is_dir(),
    "up": lambda top: (top / "train/images/../masks/a.png").read_bytes(),
    "absent": lambda top: (top / "train/none").exists() or (top / "train/none").is_dir(),
    "file": lambda top: ((top / "readme.txt").is_file(), (top / "readme.txt").is_dir()),
    "prefix": lambda top: (top / "tra").exists(),
    "bytes": lambda top: (top / "train/images/a.jpg").read_bytes(),
    "text": lambda top: (top / "train/deeper/still/more/c.txt").read_text(encoding="utf-8"),
    "open": lambda top: (top / "train/masks/a.png").open("rb").read(),
    "stem": lambda top: [(p.stem, p.suffix) for p in sorted((top / "train/images").iterdir())],
    "parent": lambda top: ((top / "train/masks").parent / "images/a.jpg").read_bytes(),
    "with_suffix": lambda top: (top / "train/masks/a.jpg").with_suffix(".png").read_bytes(),
    "*": lambda top: sorted(str(relative(p, top)) for p in top.glob("train/*")),
    "*.jpg": lambda top: sorted(str(relative(p, top)) for p in top.glob("train/images/*.jpg")),
    "*/*": lambda top: sorted(str(relative(p, top)) for p in top.glob("*/*/a.*")),
    "**": lambda top: sorted(str(relative(p, top)) for p in top.glob("train/**/*.txt")),
    "rglob": lambda top: sorted(str(relative(p, top)) for p in top.rglob("*.[jp][pn]g")),
    "none": lambda top: list(top.glob("nowhere/*")),
    "order": lambda top: [p.name for p in sorted(top.rglob("*")) if p.is_file()],
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_answers_as_a_folder_does(folder: Path, top: ZipPath, name: str) -> None:
    assert QUESTIONS[name](top) == QUESTIONS[name](folder)


def test_paths_are_values(top: ZipPath) -> None:
    a, b = top / "train" / "images" / "a.jpg", top / "train/images/a.jpg"
    assert (a == b, len({a, b}), a < top / "train/masks") == (True, 1, True)
    assert a != top
    assert str(a).endswith("set.zip/train/images/a.jpg")
    with pytest.raises(ValueError, match="not in the subpath"):
        relative(a, top / "train/masks")


def test_one_folder_that_holds_all_is_the_top(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "download.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(folder / "readme.txt", "the_set/readme.txt")
        file.writestr("__MACOSX/._readme.txt", b"")
    assert any_path(archive) == ZipPath(archive) / "the_set"
    assert any_path(str(archive)) == any_path(any_path(archive))
    assert any_path(folder) == folder
    assert any_path(tmp_path / "absent.zip") == tmp_path / "absent.zip"


def test_an_image_is_read_in_place(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.write(tmp_path / "a.png", "in/a.png")
    assert read_image(ZipPath(tmp_path / "set.zip") / "in/a.png").tolist() == [[[1, 2, 3]] * 3] * 2


def test_pickled_without_its_open_file(top: ZipPath) -> None:
    path = top / "train/images/a.jpg"
    path.read_bytes()
    copy = pickle.loads(pickle.dumps(path))
    assert (copy, copy.read_bytes()) == (path, b"image a")


class Contents:
    """A data set whose items are files of a zip file."""

    def __init__(self, paths: list[ZipPath]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(list(self.paths[index].read_bytes()))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_read_in_loader_processes(tmp_path: Path, start: str) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {start}")
    contents = {f"{i}.bin": bytes([i, i // 7]) * 5000 for i in range(64)}
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in contents.items():
            file.writestr(name, content)
    paths = [ZipPath(tmp_path / "set.zip") / name for name in contents]
    paths[0].read_bytes()  # opened before the processes start, which must not share its position
    loader: DataLoader[torch.Tensor] = DataLoader(
        Contents(paths),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=2 if start == "fork" else 1,  # a spawned one imports torch anew
        multiprocessing_context=start,
    )
    read = [bytes(item.tolist()) for item in loader]
    assert read == list(contents.values())


def test_mistakes_are_named(top: ZipPath, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"set\.zip/train/none\.png: there is no such file"):
        (top / "train/none.png").read_bytes()
    (tmp_path / "page.zip").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"page\.zip: is no zip file .*download it again"):
        any_path(tmp_path / "page.zip")
    whole = Path(str(top)).read_bytes()
    (tmp_path / "half.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.zip: is no zip file"):
        ZipPath(tmp_path / "half.zip")


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr("a.png", b"0123456789")
    content = (tmp_path / "set.zip").read_bytes()
    (tmp_path / "set.zip").write_bytes(content.replace(b"0123456789", b"0123456780"))
    with pytest.raises(ValueError, match=r"set\.zip/a\.png: cannot be unpacked: Bad CRC"):
        (ZipPath(tmp_path / "set.zip") / "a.png").read_bytes()


@pytest.mark.parametrize("prefix", ["./", "one\\"])
def test_names_as_other_systems_write_them(tmp_path: Path, prefix: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(zipfile.ZipInfo(f"{prefix}b.txt"), "here")
    folder = ZipPath(tmp_path / "a.zip") / ("one" if "one" in prefix else ".")
    assert [path.name for path in folder.iterdir()] == ["b.txt"]
    assert (folder / "b.txt").read_text() == "here"


def test_a_damaged_stream_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("b.txt", "x" * 5000 + "y" * 5000)
    content = bytearray(path.read_bytes())
    content[36:46] = b"\xff" * 10
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.zip/b\.txt: cannot be unpacked"):
        (ZipPath(path) / "b.txt").read_bytes()
