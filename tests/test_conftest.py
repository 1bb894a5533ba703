"""The promises that conftest.py makes to all other tests."""

from __future__ import annotations

import socket

import pytest
import torch


def test_other_machines_are_out_of_reach() -> None:
    with pytest.raises(RuntimeError, match="reached for the network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)


def test_this_machine_is_within_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()


def test_tests_run_in_one_thread() -> None:
    assert torch.get_num_threads() == 1
