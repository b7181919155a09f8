"""More than the server can hold or carry: faults.md, 31 to 33. What it costs is bench/overload.py's to say."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from http2 import Connection, message
from lossd.v1 import loss_pb2 as pb
from process import METHOD, open_channel
from tensors import make_request
from test_faults import assert_unharmed
from test_hostile_wire import MEGABYTE, assert_memory_comes_back, resident

PUSHBACK = "grpc-retry-pushback-ms"
CONNECTION_BYTES = 128 * MEGABYTE  # of gRPC's own, beyond budget and one message
SLACK = 100 * MEGABYTE


class Peak:
    """The largest resident memory of a server meanwhile."""

    def __init__(self, server):
        self._server, self._stop = server, threading.Event()
        self.bytes = resident(server)

    def __enter__(self):
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._stop.wait(0.005):
            self.bytes = max(self.bytes, resident(self._server))

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()


def batch(megabytes):
    rows = int(megabytes * MEGABYTE) // 400
    return make_request(np.zeros((rows, 100), np.float32), np.zeros(rows, np.uint8)).SerializeToString()


@pytest.mark.parametrize("method", [METHOD, METHOD + "Stream"], ids=["unary", "stream"])
def test_31_a_message_of_4_gib(start_lossd, method):
    """Its stream is reset before it has taken more than budget and one message; others never notice.

    But gRPC, to win memory back, may close a connection that is idle just then: whoever calls next may find UNAVAILABLE,
    and calls again, as clients do.
    """
    limit, budget = 32 * MEGABYTE, 64 * MEGABYTE
    server = start_lossd(f"--max_message_bytes={limit}", f"--memory_budget_bytes={budget}")
    server.evaluate_once()
    before, chunk = resident(server), bytes(8 * MEGABYTE)
    stop, errors = threading.Event(), []

    def neighbour():
        while not stop.wait(0.01):
            try:
                server.evaluate_once()
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    errors.append(error)

    thread = threading.Thread(target=neighbour)
    thread.start()
    with Peak(server) as peak, Connection(server.grpc) as connection:
        connection.open(1, method)
        connection.write(1, message(b"", size=2**32 - 1))
        sent = 0
        while sent < 1024 * MEGABYTE and connection.write(1, chunk):
            sent += len(chunk)
    stop.set()
    thread.join()
    assert sent <= limit + budget + CONNECTION_BYTES + SLACK and errors == []
    assert peak.bytes < before + budget + limit + CONNECTION_BYTES + SLACK
    try:
        assert_unharmed(server)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error.details()
        assert_unharmed(server)
    assert_memory_comes_back(server, before)


def call_until_answered(server, request, metadata, codes, channels):
    """As a client that honours the pushback, if a little impatient."""
    evaluate = channels[random.randrange(len(channels))].unary_unary(
        METHOD, response_deserializer=pb.EvaluateResponse.FromString)
    while True:
        try:
            answer = evaluate(request, timeout=60, metadata=metadata)
            codes.append(grpc.StatusCode.OK)
            return answer.summary.element_count
        except grpc.RpcError as error:
            codes.append(error.code())
            assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error.details()
            pushback = dict(error.trailing_metadata() or ()).get(PUSHBACK)
            assert pushback or not metadata, error.details()  # streams that gRPC resets are not told
            time.sleep(int(pushback or 100) / 1000 * random.uniform(1, 2))


def test_31_memory_short_while_others_compute(start_lossd):
    """What waits for memory is woken by threads of ours, which give it back: that has crashed."""
    server = start_lossd(f"--max_message_bytes={16 * MEGABYTE}", f"--memory_budget_bytes={32 * MEGABYTE}")
    stop, request = threading.Event(), batch(4)

    def neighbour():
        with open_channel(server.grpc) as channel:
            while not stop.is_set():
                channel.unary_unary(METHOD).future(request, timeout=60).exception()

    with ThreadPoolExecutor(4) as neighbours:
        for _ in range(4):
            neighbours.submit(neighbour)
        for _ in range(4):
            with Connection(server.grpc) as connection:
                connection.open(1, METHOD)
                connection.write(1, message(b"", size=2**32 - 1))
                for _ in range(64):
                    if not connection.write(1, bytes(4 * MEGABYTE)):
                        break
        stop.set()
    assert_unharmed(server)


@pytest.mark.parametrize("declared", [True, False])
def test_32_calls_that_do_not_fit_together(start_lossd, declared):
    """Forty times 8 MB at once, and as much to answer, into 128 MB: who waits as told is answered."""
    budget, clients = 128 * MEGABYTE, 40
    server = start_lossd(f"--max_message_bytes={16 * MEGABYTE}", f"--memory_budget_bytes={budget}")
    server.evaluate_once()
    before, request, codes = resident(server), batch(8), []
    metadata = [("lossd-request-bytes", str(len(request)))] if declared else []
    channels = [open_channel(server.grpc) for _ in range(8)]
    with Peak(server) as peak, ThreadPoolExecutor(clients) as pool:
        counts = list(pool.map(lambda _: call_until_answered(server, request, metadata, codes, channels),
                               range(clients)))
    for channel in channels:
        channel.close()
    assert counts == [8 * MEGABYTE // 400] * clients
    if declared:
        assert peak.bytes < before + 1.25 * budget + SLACK
    assert_unharmed(server)
    assert_memory_comes_back(server, before)


def test_33_ten_times_the_load(start_lossd):
    """Nothing is lost: each call is answered, or told when to come back."""
    server = start_lossd(f"--max_message_bytes={4 * MEGABYTE}", f"--memory_budget_bytes={8 * MEGABYTE}")
    server.evaluate_once()
    before, request = resident(server), batch(1)
    metadata = (("lossd-request-bytes", str(len(request))),)
    calls, codes, late = 600, [], threading.Semaphore(60)
    answered = threading.Semaphore(0)

    def done(call):
        pushback = PUSHBACK in dict(call.trailing_metadata() or ())
        codes.append((call.code(), pushback))
        late.release()
        answered.release()

    evaluate = server.channel.unary_unary(METHOD)
    for _ in range(calls):
        assert late.acquire(timeout=60)
        evaluate.future(request, timeout=60, metadata=metadata).add_done_callback(done)
    for _ in range(calls):
        assert answered.acquire(timeout=60)
    assert set(codes) <= {(grpc.StatusCode.OK, False), (grpc.StatusCode.RESOURCE_EXHAUSTED, True)}
    assert (grpc.StatusCode.OK, False) in codes
    refused = sum(code == grpc.StatusCode.RESOURCE_EXHAUSTED for code, _ in codes)
    rejected = [line for line in server.get("/metrics").body.splitlines() if line.startswith("lossd_rejected_total{")]
    assert sum(float(line.rsplit(" ", 1)[1]) for line in rejected) == refused
    assert_unharmed(server)
    assert_memory_comes_back(server, before)
