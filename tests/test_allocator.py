"""Freed memory stays, in large pages; each case in a process of its own, for it holds for all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's memory is Linux's")

START = """
import re
from pathlib import Path
from mask2former.allocator import BLOCK, keep_freed_memory

def status(field, file="status"):
    text = Path(f"/proc/self/{file}").read_text()
    return int(re.search(rf"^{field}:\\s+(\\d+) kB", text, re.M)[1]) << 10
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", START + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_freed_is_kept_and_what_is_reserved_is_not_used() -> None:
    run("""
before = status("VmRSS")
keep_freed_memory()
assert status("VmRSS") - before < 4 << 20
data = bytearray(b"1") * (200 << 20)
del data
assert status("VmRSS") - before > 190 << 20
""")


@pytest.mark.skipif(
    not LARGE_PAGES.exists() or "[never]" in LARGE_PAGES.read_text(),
    reason="the system gives no large pages",
)
def test_pages_are_large() -> None:
    run("""
keep_freed_memory()
data = bytearray(b"1") * (200 << 20)
assert status("AnonHugePages", "smaps_rollup") > 150 << 20
""")


def test_where_addresses_are_limited_none_are_taken() -> None:
    run("""
import resource
resource.setrlimit(resource.RLIMIT_AS, (4 * BLOCK, 4 * BLOCK))
before = status("VmSize")
keep_freed_memory()
assert status("VmSize") - before < 100 << 20
""")
