"""The command line. Each command's work is in `commands`."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import tyro
from rich.console import Console
from rich.text import Text

from mask2former.commands.options import (
    CheckData,
    Convert,
    Data,
    Demo,
    Evaluate,
    Finetune,
    Models,
    Predict,
    Report,
    Train,
    Verify,
)

DESCRIPTION = """Segment images with one model: panoptic, instance and semantic.

Example: mask2former predict photos/ --out results

Every command has its own --help. An error is told in a line or two; --traceback, or
MASK2FORMER_TRACEBACK=1 in the environment, shows where in the code it arose.
"""
OK, SOME_FAILED, FAULT, INTERRUPTED = 0, 1, 2, 130  # exit statuses
SHOWN_FAILURES = 20
USER_ERRORS = (ValueError, OSError, ImportError)

Options = Predict | Train | Finetune | Evaluate | Report | Data | Convert | Models | Verify | Demo


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status.

    0: all is done, 1: some images could not be read, a data set has errors, or a figure is not the
    published one, 2: nothing could be done, 130: interrupted; 143 and the like: a training was told
    to stop by a signal (128 + its number), and has saved what it had.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    show_traceback = "--traceback" in words or bool(os.environ.get("MASK2FORMER_TRACEBACK"))
    words = [word for word in words if word != "--traceback"]
    options = tyro.cli(
        Options,
        prog="mask2former",
        description=DESCRIPTION,
        args=words or ["--help"],
    )
    try:
        return run(options)
    except KeyboardInterrupt as interrupt:
        say(f"interrupted{f'; {interrupt}' if interrupt.args else ''}")
        return getattr(interrupt, "status", INTERRUPTED)
    except USER_ERRORS as error:
        if show_traceback:
            traceback.print_exc()
        else:
            say(f"error: {cause(error)}", "red")
        return FAULT


def run(options: Options) -> int:
    """Do what the options say. Imports wait until here, as torch's takes seconds."""
    if isinstance(options, Predict):
        from mask2former.commands.predict import predict

        failures = predict(options)
        for failure in failures[:SHOWN_FAILURES]:
            say(f"failed: {failure}", "red")
        if len(failures) > SHOWN_FAILURES:
            say(f"failed: {len(failures) - SHOWN_FAILURES} more images", "red")
        return SOME_FAILED if failures else OK
    if isinstance(options, Train):
        from mask2former.commands.train import run_training

        run_training(options)
    elif isinstance(options, Finetune):
        from mask2former.commands.finetune import finetune

        finetune(options)
    elif isinstance(options, Evaluate):
        from mask2former.commands.evaluate import measure

        measure(options)
    elif isinstance(options, Report):
        from mask2former.commands.report import report

        report(options)
    elif isinstance(options, Data):
        from mask2former.commands.data import check_data, inspect_data

        if isinstance(options.action, CheckData):
            return OK if check_data(options.action) else SOME_FAILED
        inspect_data(options.action)
    elif isinstance(options, Convert):
        from mask2former.commands.convert import convert

        convert(options)
    elif isinstance(options, Models):
        from mask2former.commands.models import list_models

        list_models(options)
    elif isinstance(options, Verify):
        from mask2former.commands.verify import verify

        return OK if verify(options) else SOME_FAILED
    else:
        from mask2former.demo import demo

        demo(options)
    return OK


def cause(error: Exception) -> str:
    """The message; one from a data loading process comes wrapped in that process's traceback."""
    text = str(error)
    if text.startswith("Caught "):
        text = text.rsplit(f"{type(error).__name__}: ", 1)[-1]
    return text.strip() or type(error).__name__


def say(message: str, style: str = "") -> None:
    """One message on stderr, never taken for markup."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(Text(message, style=style))


if __name__ == "__main__":
    sys.exit(main())
