"""How the benchmarks measure: in turn, in processes of their own, and only what agrees."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from benchmarks.curves import read_log, smoothed
from benchmarks.inference import equality
from benchmarks.loader import measure, table
from benchmarks.measure import Run, compare, relative_distance, report
from benchmarks.stages import staged
from benchmarks.validation import Answers, validate
from torch import nn

from mask2former.data.detect import open_dataset
from mask2former.data.scenes import Scenes, write_coco_panoptic
from mask2former.data.scenes_layout import ScenesConfig


def sleeper(seconds: float, megabytes: int) -> Run:
    def run() -> list[np.ndarray]:
        filled = np.ones(megabytes << 20, np.uint8)
        time.sleep(seconds)
        return [filled[:4].astype(np.float32)]

    return run


def broken() -> Run:
    raise RuntimeError("cannot be set up")


def test_two_are_run_in_turn_and_compared() -> None:
    found = compare(
        "sleep", (sleeper, (0.05, 1)), (sleeper, (0.2, 200)), rounds=3, threads=1, agree=equality
    )
    assert len(found.ours) == len(found.peer) == 3
    assert found.times_faster > 2
    assert found.peer_memory > found.our_memory + (150 << 20)
    assert found.facts == {"distance": "0.0e+00"}
    assert "| sleep |" in report("Sleeping", ["distance"], [found])


def test_what_fails_in_a_process_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)peer:.*cannot be set up"):
        compare("x", (sleeper, (0.0, 1)), (broken, ()), rounds=1, threads=1)


def test_other_results_are_no_comparison() -> None:
    a, b = np.ones(4), np.array([1.0, 1, 1, 1.1])
    assert relative_distance(b, a) == pytest.approx(0.05)
    with pytest.raises(AssertionError, match="not the same outputs"):
        equality([a], [b])
    with pytest.raises(AssertionError, match="not the same outputs"):
        equality([a, a], [a, np.full(4, np.nan)])


def test_stages_end_where_their_modules_return(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    class Wait(nn.Module):
        def forward(self, seconds: float) -> None:
            nonlocal now
            now += seconds

    monkeypatch.setattr("benchmarks.stages.time.perf_counter", lambda: now)
    wait, backbone, pixel_decoder, decoder = Wait(), Wait(), Wait(), Wait()

    def run() -> None:
        wait(4.0)
        backbone(8.0)
        pixel_decoder(16.0)
        wait(2.0)  # what comes between counts for the module that it leads to
        decoder(1.0)

    timed = staged(run, backbone, pixel_decoder, decoder)
    for _ in range(2):  # nothing is left of the run before
        assert timed() == (4.0, 8.0, 16.0, 3.0, 0.0)
    with pytest.raises(AssertionError, match="each module runs once"):
        staged(lambda: backbone(0.0), backbone, pixel_decoder, decoder)()


def test_the_parts_of_a_view_are_told_apart(tmp_path: Path) -> None:
    drawing = ScenesConfig(size=64, max_size=30, max_things=4)
    write_coco_panoptic(Scenes(length=2, config=drawing), tmp_path, "train")
    for task in ("panoptic", "instance"):
        dataset = open_dataset(tmp_path, task=task)
        found = measure("maps", "ADE20K's, 512", dataset, views=4, workers=[0, 1])
        counts = [len(dataset[i].masks) for i in range(2)]
        assert min(counts) <= found.objects <= max(counts)
        assert min(found.decode, found.masks, found.image) > 0
        assert found.image > found.decode  # a small file, a large crop in colours
        assert set(found.rates) == {0, 1}
        assert min(found.rates.values()) > 0
        assert "| maps | ADE20K's, 512 |" in table([found], [0, 1])


def test_validation_is_measured_part_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    parts = list(validate(Answers(64, 20, 6, kinds=1), 2))
    names = [name for name, _ in parts]
    assert names == ["post-processing", "evaluators"] * 2 + ["figures"]
    assert all(spent.wall > 0 and spent.processor > 0 for _, spent in parts)
    assert "PQ " in capsys.readouterr().out


def test_a_curve_is_the_mean_of_its_parts(tmp_path: Path) -> None:
    assert smoothed([1.0, 1.0, 3.0, 5.0, 7.0], parts=2) == [(1.5, 5 / 3), (4.0, 6.0)]
    assert smoothed([2.0], parts=30) == [(0.5, 2.0)]
    with pytest.raises(ValueError, match=r"no log\.jsonl here"):
        read_log(tmp_path)
