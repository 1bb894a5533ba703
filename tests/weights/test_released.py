"""Models by name. The server is one of our own on this machine, with a file in the real format."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from mask2former.data.class_lists import class_list
from mask2former.modeling.mask2former import Mask2Former
from mask2former.weights import load, released, save_model
from mask2former.weights.detectron2 import official_name
from mask2former.weights.released import Released, released_models

NAME = "cityscapes-semantic-r50"


class Server:
    """Serves one file at any path; `limit` ends the next answer after so many bytes."""

    def __init__(self, content: bytes) -> None:
        self.content, self.limit, self.ranges = content, len(content), True
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range", "")
                outer.asked.append(wanted)
                start = int(wanted[6:-1]) if wanted and outer.ranges else 0
                if start >= len(outer.content):
                    self.send_error(416)
                    return
                part = outer.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                self.wfile.write(part[: outer.limit])
                outer.limit = len(outer.content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def site(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/"


@pytest.fixture(scope="module")
def model() -> Mask2Former:
    pixels = replace(tiny.CONFIG.pixel_decoder, points=4)
    categories = class_list("cityscapes")
    return tiny.model(
        replace(tiny.CONFIG, backbone=tiny.SWIN, pixel_decoder=pixels, categories=categories)
    )


@pytest.fixture
def server(model: Mask2Former, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The zoo's file of `NAME`, as small as can be, under a name that ends in its checksum."""
    arrays = {official_name(k): v.numpy() for k, v in model.state_dict().items()}
    file = io.BytesIO()
    pickle.dump({"model": arrays, "__author__": "us"}, file)
    started = Server(file.getvalue())
    digest = hashlib.md5(file.getvalue()).hexdigest()
    table = released_models()
    entry = replace(table[NAME], file=f"cityscapes/model_final_{digest[:6]}.pkl")
    monkeypatch.setitem(table, NAME, entry)
    monkeypatch.setattr(released, "SITE", started.site)
    monkeypatch.setenv("MASK2FORMER_CACHE", str(tmp_path / "cache"))
    yield started
    started.server.shutdown()


def test_a_released_model_is_downloaded_once_and_its_licence_said(
    server: Server, model: Mask2Former, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load(NAME)
    assert "CC BY-NC 4.0" in capsys.readouterr().out
    assert loaded.config.categories == class_list("cityscapes")
    assert (loaded.config.view.shortest_side, loaded.config.view.longest_side) == (1024, 2048)
    assert loaded.config.view.resize_semantic_scores
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    load(NAME)
    assert len(server.asked) == 1
    assert "CC BY-NC" not in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "cache" / NAME).iterdir()] == [
        Path(released_models()[NAME].file).name
    ]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_it_stopped(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.limit, server.ranges = 50_000, ranges
    with pytest.raises(ConnectionError, match=r"goes on where it stopped") as caught:
        load(NAME)
    path = tmp_path / "cache" / NAME / Path(released_models()[NAME].file).name
    assert f"put it to {path}" in str(caught.value)
    assert path.with_name(path.name + ".part").stat().st_size == 50_000
    load(NAME)
    assert server.asked == ["", "bytes=50000-"]
    assert path.read_bytes() == server.content


def test_a_whole_file_that_was_not_moved_yet_is_taken(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "cache" / NAME / Path(released_models()[NAME].file).name
    path.parent.mkdir(parents=True)
    path.with_name(path.name + ".part").write_bytes(server.content)
    load(NAME)
    assert path.exists()


def test_another_file_is_not_taken(server: Server, tmp_path: Path) -> None:
    server.content = server.content[:-1] + b"x"
    with pytest.raises(ValueError, match="what came is not the file: its MD5 is"):
        load(NAME)
    assert not list((tmp_path / "cache" / NAME).iterdir())


def test_without_a_network_the_file_can_be_put_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.server.shutdown()
    server.server.server_close()
    with pytest.raises(ConnectionError, match="cannot be downloaded") as caught:
        load(NAME)
    place = re.search(r"put it to (.*)", str(caught.value))
    assert place is not None
    Path(place[1]).write_bytes(server.content)
    assert load(NAME).config.categories == class_list("cityscapes")


def test_a_checkpoint_of_other_classes_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = replace(released_models()[NAME], dataset="coco")
    monkeypatch.setitem(released_models(), NAME, entry)
    with pytest.raises(ValueError, match=f"tells 19 classes apart, but {NAME} 133"):
        load(NAME)


@pytest.mark.parametrize("entry", released_models().values(), ids=lambda entry: entry.name)
def test_the_table_is_whole(entry: Released) -> None:
    assert entry.name.startswith(entry.dataset.replace("_", "-"))
    assert re.fullmatch(r"[\w/-]+/model_final_[0-9a-f]{6}\.pkl", entry.file)
    assert entry.categories
    assert entry.parameters
    assert set(entry.metrics) <= {"PQ", "AP", "mIoU"}
    assert entry.view.shortest_side <= entry.view.longest_side


# --- other names ----------------------------------------------------------------------------------


def test_a_path_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.model().save_pretrained(tmp_path / "scenes")
    monkeypatch.chdir(tmp_path)
    assert load("scenes").config == tiny.CONFIG


def test_an_embedded_model_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.model().save_pretrained(tmp_path / "pebbles")
    monkeypatch.setattr("mask2former.weights.EMBEDDED", tmp_path)
    assert load("pebbles").config == tiny.CONFIG
    with pytest.raises(FileNotFoundError, match=r"pebles: neither .* did you mean 'pebbles'"):
        load("pebles")
    with pytest.raises(FileNotFoundError, match=r"did you mean 'coco-panoptic-swin-"):
        load("coco-panoptic-swin")


def test_a_repository_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the hub's own cache, laid out as `huggingface_hub` does."""
    pixels = replace(tiny.CONFIG.pixel_decoder, points=4)
    model = tiny.model(replace(tiny.CONFIG, backbone=tiny.SWIN, pixel_decoder=pixels))
    folder = tmp_path / "models--someone--mask2former-tiny"
    save_model(model, folder / "snapshots" / "abc", "transformers")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert load("someone/mask2former-tiny").config == model.config
    with pytest.raises(ConnectionError, match=r"someone/else: no file or folder here"):
        load("someone/else")
