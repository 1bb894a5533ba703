"""How the benchmarks measure: in turn, in processes of their own, and only what agrees."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from benchmarks import loader
from benchmarks.inference import agreement
from benchmarks.measure import Run, compare, relative_distance, report

from mask2former.structures import Task


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
        "sleep", (sleeper, (0.05, 1)), (sleeper, (0.2, 200)), rounds=3, threads=1, agree=agreement
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
        agreement([a], [b])


@pytest.mark.parametrize(("suffix", "task"), loader.CASES)
def test_every_part_of_loading_is_seen(tmp_path: Path, suffix: str, task: Task) -> None:
    loader.write(tmp_path, 3, 256, suffix)
    stream = loader.views(tmp_path, task, 128)
    assert {Path(stream[t].name).suffix for t in range(3)} == {suffix}
    seconds, found = loader.shares(stream, 6)
    assert seconds > 0
    assert sum(found.values()) == pytest.approx(1)
    assert all(share > 0 for share in found.values())  # a renamed function would have none
    assert loader.rate(stream, 4, workers=1) > 0
