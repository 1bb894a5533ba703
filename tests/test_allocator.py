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


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


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


@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_where_addresses_are_limited_none_are_taken(limit: str) -> None:
    run(f"""
import resource
resource.setrlimit(resource.{limit}, (4 * BLOCK, 4 * BLOCK))
before = status("VmSize")
keep_freed_memory()
assert status("VmSize") - before < 100 << 20
""")


def test_another_thread_takes_none_and_the_main_one_may_still() -> None:
    run("""
from threading import Thread
before = status("VmSize")
thread = Thread(target=keep_freed_memory)
thread.start()
thread.join()
assert status("VmSize") - before < 200 << 20
keep_freed_memory()
assert status("VmSize") - before > BLOCK
size = status("VmSize")
keep_freed_memory()
assert status("VmSize") == size
""")


def test_what_is_reserved_stays_where_large_parts_were_free_before() -> None:
    run("""
parts = [bytearray(100_000) for _ in range(3000)]
live = bytearray(100_000)
del parts
before = status("VmSize")
keep_freed_memory()
assert status("VmSize") - before > BLOCK
""")
