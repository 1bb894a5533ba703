"""Matching, losses, gradients and one optimiser step against the official code's recordings.

The random numbers that the official criterion drew are recorded; they are fed to ours in order, and
each draw must ask for the recorded shape.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
import torch
from recordings import (
    REFERENCE,
    Recorded,
    check,
    in_order,
    needs_recordings,
    official_model,
    prepared,
    recorded,
    recorded_value,
    targets,
)
from torch import Tensor

from mask2former.loss import criterion as criterion_module
from mask2former.loss.criterion import Criterion, LossConfig, Losses
from mask2former.loss.matcher import Match, Matcher
from mask2former.modeling.mask2former import Mask2Former
from mask2former.modeling.swin import DropPath, SwinConfig
from mask2former.structures import Output
from mask2former.training.optimizer import (
    OptimizerConfig,
    build_optimizer,
    parameter_groups,
    rate_factor,
    set_rates,
)
from mask2former.weights.detectron2 import official_name

pytestmark = needs_recordings
CASES = [
    ("r50_tiny", "train_A"),
    ("r50_tiny", "train_B"),
    ("swin_tiny_nano", "train_A"),
    ("swin_tiny_nano", "train_B"),
    ("swin_tiny_nano", "train_B_droppath"),
    ("video_r50_tiny", "train_clips"),
]
every_case = pytest.mark.parametrize(("folder", "name"), CASES)
# Of drop path only losses, gradient norms and a few matches are recorded.
full_case = pytest.mark.parametrize(
    ("folder", "name"), [case for case in CASES if case[1] != "train_B_droppath"]
)
LAYERS = ["final", *(f"aux_{i}" for i in range(9))]  # the order in which they are matched


@dataclass
class Step:
    """One training step of ours, and all that it was seen to do."""

    model: Mask2Former
    output: Output
    losses: Losses
    costs: list[Tensor] = field(default_factory=list)  # layer after layer, image after image
    matches: list[list[Match]] = field(default_factory=list)
    points: list[Tensor] = field(default_factory=list)


def inputs_of(folder: str, name: str) -> Recorded:
    """The recording that holds images and targets: that of drop path shares those of train_B."""
    return recorded(folder, name.removesuffix("_droppath"))


def numbers_drawn(run: Recorded) -> list[Tensor]:
    """First what drop path drew (1 keeps a branch, 0 drops it), then the criterion's points."""
    keeps = [torch.tensor(call["keep"]) for call in run.facts.get("drop_path_calls", [])]
    drawn = [keep.float().view(-1, 1, 1, 1) for keep in keeps]
    return drawn + [run[key] for key in (f"rand.{i:03}" for i in range(1000)) if key in run]


@contextmanager
def replayed(drawn: list[Tensor], step: Step) -> Iterator[None]:
    """torch.rand returns the recorded numbers; costs, matches and points are noted."""
    left = list(drawn)
    terms, match, points = Matcher.terms, Matcher.__call__, criterion_module.uncertain_points

    def rand(*size: int, **options: Any) -> Tensor:
        numbers = left.pop(0)
        assert numbers.shape == size
        return numbers

    def noted_terms(self: Matcher, *arguments: Any) -> dict[str, Tensor]:
        found = terms(self, *arguments)
        step.costs.append(sum(found.values(), torch.tensor(0.0)))
        return found

    def noted_match(self: Matcher, *arguments: Any) -> list[Match]:
        step.matches.append(match(self, *arguments))
        return step.matches[-1]

    def noted_points(*arguments: Any) -> Tensor:
        step.points.append(points(*arguments))
        return step.points[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", rand)
        patch.setattr(Matcher, "terms", noted_terms)
        patch.setattr(Matcher, "__call__", noted_match)
        patch.setattr(criterion_module, "uncertain_points", noted_points)
        yield
    assert not left, f"{len(left)} of {len(drawn)} recorded draws were not asked for"


def with_drop_path(model: Mask2Former, rate: float) -> Mask2Former:
    """A copy, with another rate if its backbone has one."""
    config = model.config
    if isinstance(config.backbone, SwinConfig):
        config = replace(config, backbone=replace(config.backbone, drop_path=rate))
    made = Mask2Former(config)
    made.load_state_dict(model.state_dict())
    return made


@cache
def trained(folder: str, name: str) -> Step:
    """The model after forward and backward of a recorded training step."""
    run, inputs = recorded(folder, name), inputs_of(folder, name)
    height, width = inputs.facts.get("padded_size", (64, 96))
    model = with_drop_path(official_model(folder), run.facts.get("drop_path_rate", 0.0)).train()
    loss = Criterion(LossConfig(points=112), model.config.categories)
    step = Step(model=model, output=None, losses=None)  # type: ignore[arg-type]
    with replayed(numbers_drawn(run), step):
        step.output = model(prepared(inputs, model, (height, width)))
        step.losses = loss(step.output, targets(inputs, (height, width)))
        step.losses.total.backward()
    return step


@every_case
def test_training_forward(folder: str, name: str) -> None:
    step, run = trained(folder, name), recorded(folder, name)
    check(step.output.class_logits.detach(), run["train_pred_logits"], 3e-5, "class logits")
    if "train_pred_masks" in run:
        check(step.output.mask_logits.detach(), run["train_pred_masks"], 3e-5, "mask logits")


@every_case
def test_losses(folder: str, name: str) -> None:
    losses, facts = trained(folder, name).losses, recorded(folder, name).facts
    ours = {"ce": losses.classification, "mask": losses.mask, "dice": losses.dice}
    for term, values in ours.items():
        assert len(values) == 10
        for i, value in enumerate(values.tolist()):
            key = f"loss_{term}" + (f"_{i}" if i < 9 else "")
            assert value == pytest.approx(facts["losses_unweighted"][key], rel=1e-5), key
    assert losses.total.item() == pytest.approx(facts["total"], rel=1e-5)


@every_case
def test_matches(folder: str, name: str) -> None:
    step, run = trained(folder, name), recorded(folder, name)
    compared = 0
    for layer, matches in zip(LAYERS, step.matches, strict=True):
        for image, match in enumerate(matches):
            key = f"match.{layer}.{image}"
            if f"{key}.pred" in run:
                assert match.queries.tolist() == run[f"{key}.pred"].tolist(), key
                assert match.objects.tolist() == run[f"{key}.target"].tolist(), key
                compared += 1
    assert 2 * compared == len([key for key in run.tensors if key.startswith("match.")]) > 0


@full_case
def test_costs(folder: str, name: str) -> None:
    step, run = trained(folder, name), recorded(folder, name)
    images = len(run.frames)
    assert len(step.costs) == 10 * images
    for i, cost in enumerate(step.costs):
        key = f"cost.{LAYERS[i // images]}.{i % images}"
        check(cost, run[key], 3e-5, key)


@full_case
def test_points_of_the_mask_terms(folder: str, name: str) -> None:
    step, run = trained(folder, name), recorded(folder, name)
    for key, points in zip(("points.final", "points.aux_0"), step.points[:2], strict=True):
        check(in_order(points), in_order(run[key]), 0.0, key)


def rounding_only(folder: str, name: str) -> set[str]:
    """Parameters whose gradient is nothing but rounding, such as a bias before a normalisation."""
    noise = inputs_of(folder, name).facts["noise"]
    return {n for kind in noise.values() for n in kind["parameters_with_rounding_only_gradient"]}


@every_case
def test_gradient_of_every_parameter(folder: str, name: str) -> None:
    step, facts = trained(folder, name), recorded(folder, name).facts
    total = facts["grad_total_l2_norm"]
    parameters = dict(step.model.named_parameters())
    assert len(parameters) == len(facts["grad_l2_norms"])
    norms = {n: p.grad.double().norm().item() for n, p in parameters.items() if p.grad is not None}
    assert norms.keys() == parameters.keys()
    for ours, norm in norms.items():
        expected = recorded_value(facts["grad_l2_norms"], ours)
        if expected > 1e-6 * total:
            assert norm == pytest.approx(expected, rel=1e-5), ours
        else:
            assert norm == pytest.approx(expected, abs=2e-5), ours
    assert sum(n**2 for n in norms.values()) ** 0.5 == pytest.approx(total, rel=1e-5)


@full_case
def test_recorded_gradients_entry_by_entry(folder: str, name: str) -> None:
    step, run = trained(folder, name), recorded(folder, name)
    ignored = rounding_only(folder, name)
    compared = 0
    for ours, parameter in step.model.named_parameters():
        key = official_name(ours)
        if f"grad.{key}" not in run:
            continue
        assert parameter.grad is not None
        expected = run[f"grad.{key}"]
        tolerance = 5e-5 if key in ignored else 1e-4 * expected.abs().max().item()
        check(parameter.grad, expected, tolerance, f"gradient of {key}")
        compared += 1
    assert compared == len([key for key in run.tensors if key.startswith("grad.")])


def test_drop_path_rises_linearly_over_the_blocks() -> None:
    rates = recorded("swin_tiny_nano", "train_B_droppath").facts["drop_path_rates_per_block"]
    model = with_drop_path(official_model("swin_tiny_nano"), 0.3)
    ours = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert ours == pytest.approx([0.0, *rates.values()], abs=1e-7)


# --- the optimiser -------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["r50_tiny", "swin_tiny_nano", "video_r50_tiny"])
def test_rate_and_decay_of_every_parameter(folder: str) -> None:
    model = official_model(folder)
    facts = json.loads((REFERENCE / folder / "optimizer.json").read_text())
    expected = {group["name"]: group for group in facts["groups"]}
    names = {id(p): name for name, p in model.named_parameters()}
    seen = set()
    for group in parameter_groups(model, OptimizerConfig()):
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.add(name)
            theirs = recorded_value(expected, name)
            assert group["lr"] == pytest.approx(theirs["lr"]), name
            assert group["weight_decay"] == pytest.approx(theirs["weight_decay"]), name
    assert seen == set(names.values())
    assert len(seen) == len(expected)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("r50_tiny", "train_B"), ("swin_tiny_nano", "train_B")],  # those that have it recorded
)
def test_one_clipped_step(folder: str, name: str) -> None:
    run = recorded(folder, name)
    recorded_keys = [key for key in run.tensors if key.startswith("after_step.")]
    assert recorded_keys
    model = copy.deepcopy(trained(folder, name).model)
    for parameter, source in zip(
        model.parameters(), trained(folder, name).model.parameters(), strict=True
    ):
        parameter.grad = None if source.grad is None else source.grad.clone()
    config = OptimizerConfig()
    optimizer = build_optimizer(model, config)
    set_rates(optimizer, rate_factor(0, 1000, config))
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    optimizer.step()
    parameters = {official_name(n): p.detach() for n, p in model.named_parameters()}
    for key in recorded_keys:
        # Adam divides a gradient by its size: where both are next to nothing, rounding shows.
        check(parameters[key.removeprefix("after_step.")], run[key], 1e-6, key)
