"""Two programs timed in turn, each in a process of its own, with its peak memory."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import multiprocessing as mp
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

FIGURES = ("PQ", "AP", "mIoU")  # of an evaluation, those that are shown
Run = Callable[[], Any]  # what is timed; returns what the two are compared by
Make = Callable[..., Run]  # sets it up, in the process that runs it


class Contender:
    """A process that sets something up and runs it when it is told to."""

    def __init__(self, name: str, make: Make, *arguments: Any, threads: int) -> None:
        self.name = name
        context = mp.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, make, arguments, threads), daemon=True
        )
        self.process.start()

    def ask(self, what: str) -> Any:
        """`ready` (bytes before a run and at its peak), `run` (seconds) or `result`.

        RuntimeError, with the trace, if it failed.
        """
        self.connection.send(what)
        answer = self.connection.recv()
        if isinstance(answer, str):
            raise RuntimeError(f"{self.name}:\n{answer}")
        return answer

    def make_ready(self) -> int:
        """Set up and run once; the bytes that the run took at its peak."""
        before, peak = self.ask("ready")
        return int(max(0, peak - before))

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # it may have died
            self.connection.send("stop")
        self.process.join(timeout=10)
        self.process.terminate()


def _serve(connection: Connection, make: Make, arguments: tuple[Any, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    run: Run | None = None
    while True:
        what = connection.recv()
        if what == "stop":
            return
        try:
            if what == "ready":
                run = make(*arguments)
                before = _settled()
                run()  # warm, and where memory peaks
                connection.send((before, status("VmHWM")))
                continue
            assert run is not None
            if what == "run":
                started = time.perf_counter()
                run()
                connection.send(time.perf_counter() - started)
            elif what == "result":
                connection.send((run(),))
        except Exception:
            connection.send(traceback.format_exc())


def _settled() -> int:
    """Bytes in memory once what setting up has freed is given back; the peak counts from here."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(field: str) -> int:
    """A field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Ours against a peer: seconds of paired runs, and the memory that running took (bytes)."""

    case: str
    ours: tuple[float, ...]
    peer: tuple[float, ...]
    our_memory: int
    peer_memory: int
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def times_faster(self) -> float:
        return statistics.median(b / a for a, b in zip(self.ours, self.peer, strict=True))

    def row(self) -> list[str]:
        return [
            self.case,
            f"{statistics.median(self.ours):.3f} s",
            f"{statistics.median(self.peer):.3f} s",
            f"{self.times_faster:.2f}",
            f"{self.our_memory / 2**20:.0f} MB",
            f"{self.peer_memory / 2**20:.0f} MB",
            *(str(value) for value in self.facts.values()),
        ]


def compare(
    case: str,
    ours: tuple[Make, tuple[Any, ...]],
    peer: tuple[Make, tuple[Any, ...]],
    *,
    rounds: int,
    threads: int,
    agree: Callable[[Any, Any], dict[str, Any]] | None = None,
) -> Comparison:
    """Run both in turn. `agree` sees both results first and raises if they are not the same."""
    with side_by_side(ours, peer, threads=threads) as contenders:
        memory = [contender.make_ready() for contender in contenders]
        facts = {}
        if agree is not None:
            (mine,), (theirs,) = (contender.ask("result") for contender in contenders)
            facts = agree(mine, theirs)
        pairs = [[contender.ask("run") for contender in contenders] for _ in range(rounds)]
        return Comparison(
            case=case,
            ours=tuple(mine for mine, _ in pairs),
            peer=tuple(theirs for _, theirs in pairs),
            our_memory=memory[0],
            peer_memory=memory[1],
            facts=facts,
        )


@contextlib.contextmanager
def side_by_side(
    ours: tuple[Make, tuple[Any, ...]], peer: tuple[Make, tuple[Any, ...]], *, threads: int
) -> Iterator[list[Contender]]:
    """Both in processes of their own, which end with the block."""
    contenders = [
        Contender(name, make, *arguments, threads=threads)
        for name, (make, arguments) in (("ours", ours), ("peer", peer))
    ]
    try:
        yield contenders
    finally:
        for contender in contenders:
            contender.stop()


def command(documentation: str | None, name: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have; `name` is that of the JSON file."""
    assert documentation is not None
    parser = argparse.ArgumentParser(description=documentation.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="pairs of runs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(f"benchmark-output/{name}.json"))
    return parser


def add_same_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--same-memory", action="store_true", help="the peer keeps freed memory, too (allocator.py)"
    )


def relative_distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The norm of the difference, as a share of the norm."""
    assert ours.shape == theirs.shape, f"{ours.shape} and {theirs.shape}"
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def convolution_peak(threads: int) -> float:
    """FLOP per second of a large convolution: what this machine could do at best."""
    torch.set_num_threads(threads)
    maps = torch.randn(1, 256, 160, 160).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3).contiguous(memory_format=torch.channels_last)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(9):
            started = time.perf_counter()
            F.conv2d(maps, kernel, padding=1)
            best = min(best, time.perf_counter() - started)
    return 2 * 9 * 256 * 256 * 160 * 160 / best


def report(title: str, columns: Sequence[str], comparisons: Sequence[Comparison]) -> str:
    """A table in Markdown."""
    header = ["case", "ours", "peer", "times faster", "our memory", "peer's memory", *columns]
    return f"## {title}\n\n{markdown(header, [c.row() for c in comparisons])}\n"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_json(path: Path, threads: int, comparisons: Sequence[Comparison]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "threads": threads,
            "torch": torch.__version__,
        },
        "comparisons": [
            {
                "case": c.case,
                "ours": c.ours,
                "peer": c.peer,
                "times_faster": c.times_faster,
                "our_memory": c.our_memory,
                "peer_memory": c.peer_memory,
                **c.facts,
            }
            for c in comparisons
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
