"""Repositories on the Hugging Face Hub: getting one, and publishing a model with its card."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mask2former.modeling.mask2former import Mask2Former
from mask2former.weights import native

LIBRARY = "mask2former"


def fetch_repository(name: str) -> Path:
    """The local copy of a repository, brought here if need be.

    ConnectionError if it is neither here nor can be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        # Of two formats the safe one; nothing of subfolders, where trainings keep their own.
        aside = ["*/*"]
        found = snapshot_download(
            name, allow_patterns=["*.json", "*.safetensors"], ignore_patterns=aside
        )
        if not any(Path(found).glob("*.safetensors")):
            wanted = ["*.json", "pytorch_model*.bin"]
            found = snapshot_download(name, allow_patterns=wanted, ignore_patterns=aside)
        return Path(found)
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise ConnectionError(
            f"{name}: no file or folder here, and the Hugging Face Hub does not give it: {reason}"
        ) from None


def push_to_hub(
    model: Mask2Former,
    repository: str,
    *,
    licence: str,
    data: str,
    metrics: Mapping[str, float] | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Publish a model in our format, with a card; returns the address.

    `licence` is an identifier of the Hub ("apache-2.0"), `data` says in a sentence what it was
    trained on, `metrics` are in percent ("PQ", "AP", "mIoU").
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    address = api.create_repo(repository, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        native.save_model(model, folder)
        card = model_card(model, repository, licence=licence, data=data, metrics=metrics)
        Path(folder, "README.md").write_text(card)
        message = f"A Mask2Former of {len(model.config.categories)} classes"
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    return str(address)


def model_card(
    model: Mask2Former,
    repository: str,
    *,
    licence: str,
    data: str,
    metrics: Mapping[str, float] | None = None,
) -> str:
    """The README of a repository: what the Hub reads at its head, then what people read."""
    config, name = model.config, repository.rpartition("/")[2]
    head: dict[str, Any] = {
        "license": licence,
        "library_name": LIBRARY,
        "pipeline_tag": "image-segmentation",
        "tags": ["mask2former", *tasks_of(model)],
    }
    if metrics:
        results = [{"type": key, "name": key, "value": value} for key, value in metrics.items()]
        task = {"type": "image-segmentation"}
        result = {"task": task, "dataset": {"type": "custom", "name": data}, "metrics": results}
        head["model-index"] = [{"name": name, "results": [result]}]
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    things = [category.name for category in config.categories if category.is_thing]
    stuff = [category.name for category in config.categories if not category.is_thing]
    lines = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {name}",
        f"A Mask2Former with {millions:.1f} million parameters that tells"
        f" {len(config.categories)} classes apart. Trained on: {data}",
        f"Things: {', '.join(things) or 'none'}. Stuff: {', '.join(stuff) or 'none'}.",
    ]
    if metrics:
        rows = "\n".join(f"| {key} | {value:.1f} |" for key, value in metrics.items())
        lines.append(f"| percent | |\n|---|---|\n{rows}")
    lines.append(
        "```python\nfrom mask2former import Segmenter\n\n"
        f'segmenter = Segmenter.from_pretrained("{repository}")\n'
        'result = segmenter("photo.jpg")\n```'
    )
    lines.append(
        f"Images are shown with their shortest side at {config.view.shortest_side} pixels, the"
        f" longest at most {config.view.longest_side}. Licence of the weights: {licence}."
    )
    return "\n\n".join(lines) + "\n"


def tasks_of(model: Mask2Former) -> list[str]:
    """The tags of what a model with such classes can do."""
    kinds = {category.is_thing for category in model.config.categories}
    tasks = ["semantic-segmentation"]
    if True in kinds:
        tasks.insert(0, "instance-segmentation")
    return ["panoptic-segmentation", *tasks] if kinds == {True, False} else tasks
