from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Literal

import pytest
import yaml

import tiny
from mask2former.modeling.mask2former import Mask2FormerConfig
from mask2former.serialization import from_dict, to_dict
from mask2former.structures import View
from mask2former.training.config import FolderData, ScenesData, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Circle:
    radius: float


@dataclass(frozen=True, kw_only=True)
class Square:
    side: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Drawing:
    name: str
    count: int = 1
    filled: bool = False
    shape: Circle | Square = field(default_factory=Square)
    frame: Square | None = None
    colors: tuple[str, ...] = ()
    size: tuple[int, int] = (3, 4)
    style: Literal["plain", "bold"] = "plain"
    limit: int | None = None
    range: tuple[float, float] | None = None


def train_config() -> TrainConfig:
    return TrainConfig(model=tiny.CONFIG, data=ScenesData())


@pytest.mark.parametrize(
    "config",
    [
        tiny.CONFIG,
        replace(tiny.CONFIG, backbone=tiny.SWIN, view=View(contrast_percentiles=(1.0, 99.0))),
        train_config(),
        replace(train_config(), data=FolderData(folder="coco", task="panoptic")),
        Drawing(name="a", shape=Circle(radius=2.0), colors=("red", "blue"), range=(0.0, 1.5)),
        Drawing(name="b", frame=Square(side=2.0), limit=3),
    ],
)
def test_there_and_back_through_json_and_yaml(config: object) -> None:
    tree = to_dict(config)
    assert from_dict(type(config), json.loads(json.dumps(tree))) == config
    assert from_dict(type(config), yaml.safe_load(yaml.safe_dump(tree))) == config


def test_a_choice_of_dataclasses_says_which() -> None:
    assert to_dict(Drawing(name="a"))["shape"] == {"type": "Square", "side": 1.0}
    assert to_dict(Drawing(name="a", frame=Square()))["frame"] == {"side": 1.0}


def test_defaults_may_be_left_out() -> None:
    assert from_dict(Drawing, {"name": "a"}) == Drawing(name="a")


def test_a_whole_number_will_do_for_a_float() -> None:
    drawing = from_dict(Drawing, {"name": "a", "shape": {"type": "Circle", "radius": 2}})
    assert drawing == Drawing(name="a", shape=Circle(radius=2.0))
    assert isinstance(drawing.shape, Circle)
    assert isinstance(drawing.shape.radius, float)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"nam": "a"}, r"^here: unknown key 'nam'; did you mean 'name'\?$"),
        ({"name": "a", "xyz": 1}, r"^here: unknown key 'xyz'; valid keys: name, count, "),
        ({}, r"^here: key 'name' is missing$"),
        (["a"], r"^here: expected a mapping with the fields of Drawing, got \['a'\]$"),
        ({"name": 3}, r"^here\.name: expected str, got 3$"),
        ({"name": "a", "count": 1.5}, r"^here\.count: expected int, got 1\.5$"),
        ({"name": "a", "count": True}, r"^here\.count: expected int, got True$"),
        ({"name": "a", "filled": 1}, r"^here\.filled: expected bool, got 1$"),
        ({"name": "a", "filled": None}, r"^here\.filled: expected bool, got None$"),
        ({"name": "a", "shape": {"side": 1.0}}, r"^here\.shape: unknown key 'side'"),
        (
            {"name": "a", "shape": {"type": "Cube"}},
            r"^here\.shape\.type: expected one of Circle, Sq",
        ),
        (
            {"name": "a", "shape": {"type": "Circle", "radios": 1.0}},
            r"^here\.shape: unknown key 'radios'; did you mean 'radius'",
        ),
        (
            {"name": "a", "shape": {"type": "Circle", "radius": "1"}},
            r"^here\.shape\.radius: expected float, got '1'$",
        ),
        ({"name": "a", "size": [1, 2, 3]}, r"^here\.size: expected 2 values, got 3$"),
        ({"name": "a", "size": [1, "2"]}, r"^here\.size\[1\]: expected int, got '2'$"),
        ({"name": "a", "colors": "red"}, r"^here\.colors: expected a list, got 'red'$"),
        ({"name": "a", "style": "italic"}, r"^here\.style: 'italic' is none of 'plain', 'bold'$"),
        ({"name": "a", "limit": "x"}, r"^here\.limit: expected int, got 'x'$"),
        ({"name": "a", "range": [1]}, r"^here\.range: expected 2 values, got 1$"),
    ],
)
def test_every_fault_is_named_with_its_place(tree: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(Drawing, tree, "here")


def test_deep_faults_in_a_real_config() -> None:
    tree = to_dict(train_config())
    tree["model"]["decoder"]["masked_atention"] = True
    with pytest.raises(ValueError, match="did you mean 'masked_attention'"):
        from_dict(TrainConfig, tree)
    tree = to_dict(tiny.CONFIG)
    tree["categories"][1]["color"] = [1, 2]
    with pytest.raises(ValueError, match=r"categories\[1\]\.color: expected 3 values, got 2"):
        from_dict(Mask2FormerConfig, tree)
