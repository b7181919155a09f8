"""Memory: what a large call takes at its peak, and that it comes back (36)."""

import re
import threading
from pathlib import Path

import numpy as np
import pytest

from process import wait_until
from tensors import make_request

MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def large():
    """64 MB of logits and their gradient."""
    return make_request(np.zeros((1024, 16384), np.float32), np.zeros(1024, np.int64))


def memory(server, key):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(rf"{key}:\s+(\d+) kB", status)[1]) * 1024


def test_36_a_burst_of_large_calls_is_forgotten(start_lossd, large):
    server = start_lossd()
    server.evaluate_once()
    idle = memory(server, "VmRSS")
    calls = [threading.Thread(target=server.evaluate, args=(large,)) for _ in range(4)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert memory(server, "VmHWM") > idle + 100 * MEGABYTE
    wait_until(lambda: memory(server, "VmRSS") < idle + 100 * MEGABYTE, 60)
    server.evaluate_once()


def test_one_large_call_takes_little_more_than_it_carries(start_lossd, large):
    """Its request in the slices it came in, its gradient, and no copy."""
    server = start_lossd()
    server.evaluate_once()
    idle = memory(server, "VmRSS")
    server.evaluate(large)
    assert memory(server, "VmHWM") - idle < 2.2 * large.ByteSize()
