"""Publishing, with the Hub's client in place of the Hub."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

import tiny
from mask2former.weights import load_model
from mask2former.weights.hub import fetch_repository, model_card, push_to_hub


class Api:
    """Keeps what is uploaded."""

    folder: Path
    asked: dict[str, Any]

    def __init__(self, token: str | None = None) -> None:
        Api.asked = {"token": token}

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        Api.asked |= {"repo_id": repo_id, "private": private}
        return f"https://hub/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        assert repo_id == Api.asked["repo_id"]
        shutil.copytree(folder_path, Api.folder)


def test_what_is_published_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    Api.folder = tmp_path / "repository"
    model = tiny.model()
    address = model.push_to_hub(
        "me/tiny", licence="apache-2.0", data="Drawn scenes.", metrics={"PQ": 75.25}, private=True
    )
    assert address == "https://hub/me/tiny"
    assert Api.asked == {"token": None, "repo_id": "me/tiny", "private": True}
    loaded = load_model(Api.folder)
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name

    card = ModelCard.load(Api.folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "mask2former"
    assert card.data.pipeline_tag == "image-segmentation"
    assert card.data.eval_results[0].metric_value == 75.25
    assert 'Segmenter.from_pretrained("me/tiny")' in card.text
    assert "| PQ | 75.2 |" in card.text


@pytest.mark.parametrize(
    ("things", "tag", "absent"),
    [
        ((True, False), "panoptic-segmentation", None),
        ((True, True), "instance-segmentation", "panoptic-segmentation"),
        ((False, False), "semantic-segmentation", "instance-segmentation"),
    ],
)
def test_the_card_says_which_tasks(things: tuple[bool, ...], tag: str, absent: str | None) -> None:
    categories = tuple(
        replace(c, is_thing=thing) for c, thing in zip(tiny.categories(2), things, strict=True)
    )
    model = tiny.model(replace(tiny.CONFIG, categories=categories))
    card = ModelCard(model_card(model, "me/m", licence="mit", data="x"))
    assert tag in card.data.tags
    assert absent not in card.data.tags
    assert card.data.eval_results is None


def test_of_two_formats_the_safe_one_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(name: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert ignore_patterns == ["*/*"]
        asked.append(allow_patterns[-1])
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert fetch_repository("me/a") == tmp_path
    assert asked == ["*.safetensors", "pytorch_model*.bin"]
    (tmp_path / "model.safetensors").touch()
    fetch_repository("me/a")
    assert asked[2:] == ["*.safetensors"]


def test_a_fault_of_the_hub_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(Api):
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
            raise PermissionError("401: log in first")

    monkeypatch.setattr(huggingface_hub, "HfApi", Refusing)
    with pytest.raises(PermissionError, match="log in first"):
        push_to_hub(tiny.model(), "me/tiny", licence="mit", data="x")
