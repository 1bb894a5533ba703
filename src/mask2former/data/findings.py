"""What the doctor reports, and the parts of a data set that it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Literal, get_args

from mask2former.archive import AnyPath
from mask2former.data.coco_json import Problem
from mask2former.structures import Category

# An error: it cannot be read, or it falsifies what is measured. A warning: it can be trained on,
# though not as was meant. A note: good to know.
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing wrong with one record."""

    kind: str  # two to five words; findings are counted by it
    severity: Severity
    file: str
    record: str  # as in "annotation 12"; empty if it is the file's own
    message: str  # cause and cure

    def __str__(self) -> str:
        record = f"{self.record}: " if self.record else ""
        return f"{self.file}: {record}{self.message}"


def finding(file: AnyPath, kind: str, severity: Severity, record: str, message: str) -> Finding:
    """One in a file, which the message need not name again."""
    message = message.removeprefix(f"{file}: ")
    return Finding(kind=kind, severity=severity, file=str(file), record=record, message=message)


@dataclass(frozen=True, kw_only=True)
class SampleRef:
    """A record of a split."""

    file: str
    record: str
    split: str

    @property
    def place(self) -> str:
        """Where its image is, as well as is known."""
        return self.record


@dataclass(frozen=True, kw_only=True)
class ImageRef(SampleRef):
    """An image as a record names it."""

    path: AnyPath
    size: tuple[int, int]  # (H, W) that the record says

    @property
    def place(self) -> str:
        return str(self.path)


@dataclass(kw_only=True)
class Part:
    """One split in one format: what is already found, and what is left to look at."""

    file: str
    format: str
    split: str
    categories: tuple[Category, ...] = ()
    images: list[ImageRef] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    jobs: list[Callable[[], list[Finding]]] = field(default_factory=list)  # each opens some files
    overlaps: list[tuple[int, int]] = field(default_factory=list)  # pixels in two masks, in any
    samples: int = 0  # that a reader has, where nothing else is known
    bare: list[str] = field(default_factory=list)  # those of them that have no object
    _faults: dict[str, list[str]] = field(default_factory=dict)  # messages, by file
    _stems: set[str] = field(default_factory=set)  # of these files
    _missing: set[str] = field(default_factory=set)  # records whose file is

    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity == "error"]

    def add_faults(self, faults: Iterable[Finding]) -> None:
        """What files say themselves, which a reader may stumble upon afterwards."""
        for fault in faults:
            self.findings.append(fault)
            if fault.severity == "error":
                self._faults.setdefault(fault.file, []).append(fault.message)
                self._stems.add(PurePath(fault.file).stem)
            if fault.kind == MISSING:
                self._missing.add(fault.record)

    def is_faulty(self, record: str) -> bool:
        """Whether a file that is called as this image is, suffix aside, has a fault."""
        return PurePath(record).stem in self._stems

    def knows(self, error: str, record: str = "") -> bool:
        """Whether a reader's error, on a record if it is that one's, is among the faults."""
        if record and record in self._missing:
            return True
        file = error.partition(": ")[0]
        return any(message in error for message in self._faults.get(file, ()))

    def add(self, kind: str, severity: Severity, record: str, message: str) -> None:
        self.findings.append(
            Finding(kind=kind, severity=severity, file=self.file, record=record, message=message)
        )

    def add_failure(self, error: Exception) -> None:
        """What a reader said on opening a split, a problem a line, mostly with the file first."""
        for line in str(error).splitlines():
            head, colon, rest = line.partition(": ")
            named = bool(colon) and head.startswith(self.file)
            file, message = (head, rest) if named else (self.file, line)
            kind = "cannot be opened"
            self.findings.append(
                Finding(kind=kind, severity="error", file=file, record="", message=message)
            )

    def add_problems(self, problems: Iterable[Problem]) -> None:
        """What stops a reader is an error."""
        for problem in problems:
            self.add(problem.kind, "error", problem.record, problem.message)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first, each once: an image may be named by two files, and is still one."""
    kept: dict[tuple[str, str, str], Finding] = {}
    for finding in findings:
        where = finding.file if finding.kind not in SHARED_KINDS else ""
        kept.setdefault((finding.kind, where + "\n" + finding.record, finding.message), finding)
    return sorted(kept.values(), key=lambda f: (SEVERITIES.index(f.severity), f.kind, f.file))


NO_OBJECT = "has no object; leave it if there is none to see, else annotate it"
MISSING, UNREADABLE = "missing file", "unreadable image"
IMAGE_SIZE = "image of another size"
SHARED_KINDS = (MISSING, UNREADABLE, IMAGE_SIZE)
