"""What holds for all tests: one thread each, no network, and where the shared recordings are."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

SHARED = Path(__file__).parents[2] / "shared"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """pytest-xdist fills the cores; more threads than that would only get in each other's way."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """An attempt to connect to another machine is a failure, also where the network is there."""

    def guarded(
        connect: Callable[[socket.socket, Any], Any],
    ) -> Callable[[socket.socket, Any], Any]:
        def connect_here(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in LOOPBACK:
                raise RuntimeError(f"a test reached for the network: {address}")
            return connect(self, address)

        return connect_here

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", guarded(socket.socket.connect_ex))
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and recordings, beside the checkout; without it the test skips."""
    if not SHARED.is_dir():
        pytest.skip(f"the shared images and recordings are not at {SHARED}")
    return SHARED
