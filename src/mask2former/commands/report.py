"""`mask2former report`: a training's page made anew, or several trainings on one page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from mask2former.commands.options import Report
from mask2former.training.compare import write_comparison
from mask2former.training.report import REPORT, write_report


def report(options: Report) -> Path:
    """Write the page, and say where it is; returns its path."""
    if len(options.runs) > 1:
        if options.out is None:
            raise ValueError(
                "--out: name the page that compares the runs, as in --out compare.html"
            )
        path = write_comparison(options.runs, options.out)
    else:
        (run,) = options.runs
        path = write_report(run, options.out or run / REPORT)
    Console(highlight=False, markup=False, soft_wrap=True).print(f"report: {path}")
    return path
