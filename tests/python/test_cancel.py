"""Deadlines, cancellations and clients that die, at every stage of a call: faults.md, 37 to 39.

The server has one compute thread. Calls compute for some time where one should be met computing, and others wait behind
them where they should be met in the queue; an answer that nobody reads is met while it is sent. Whether a call was met
where it should be is a matter of luck: it was not computed then, and tests try until that is so. What clients are told
and what is left afterwards is none.
"""

import signal
import subprocess
import sys
import time

import grpc
import numpy as np
import pytest

from http2 import Connection, message
from lossd.v1 import loss_pb2 as pb
from process import METHOD, Lossd, wait_until
from tensors import make_request
from test_faults import assert_unharmed

DEADLINE, CANCELLED = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED
SERIES = 'grpc_server_handled_total{grpc_code="%s",grpc_method="Evaluate",grpc_service="lossd.v1.LossService",' \
         'grpc_type="unary"}'


@pytest.fixture(scope="module")
def server():
    with Lossd("--threads=1", "--max_message_bytes=1073741824", "--memory_budget_bytes=2147483648") as lossd:
        yield lossd


def slow_request():
    """Tenths of a second of computing on one thread, in many blocks, and a small answer."""
    rows, classes, sparse = 20000, 1000, 100
    logits, targets = np.zeros((rows, classes), np.float16), np.tile(np.arange(sparse, dtype=np.int8), (rows, 1))
    return make_request(logits, targets, target_probabilities=np.full((rows, sparse), 0.01, np.float16),
                        outputs=[pb.OUTPUT_ENTROPY], temperature=1.5, softcap=30.0,
                        reduction=pb.REDUCTION_SUM).SerializeToString()


SLOW = slow_request()


def large_answer():
    """A gradient of 8 MB, far more than fits a client's window."""
    return make_request(np.zeros((20000, 100), np.float32), np.zeros(20000, np.int32)).SerializeToString()


def handled(server, code):
    found = [line for line in server.get("/metrics").body.splitlines() if line.startswith(SERIES % code)]
    return float(found[0].rsplit(" ", 1)[1]) if found else 0


def computed(server):
    return server.metric("lossd_compute_seconds_count")


def in_flight(server, count):
    wait_until(lambda: server.metric("lossd_inflight_requests") == count)


def in_flight_or_more(server, count):
    """Or they ended before anybody looked."""
    end = time.monotonic() + 1
    while server.metric("lossd_inflight_requests") < count and time.monotonic() < end:
        time.sleep(0.001)


def start(server, request, timeout=60):
    return server.channel.unary_unary(METHOD).future(request, timeout=timeout)


# ---- 37: deadlines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", ["0n", "1n", "1u"])
def test_37_deadline_already_past(server, timeout):
    """As a client whose clock is behind sends it: nothing is computed."""
    before = computed(server)
    with Connection(server.grpc) as connection:
        answer = connection.call(1, METHOD, message(large_answer()), ("grpc-timeout", timeout))
        assert answer is not None and answer.code in (None, DEADLINE.value[0]) and not answer.messages
    assert_unharmed(server)
    assert computed(server) == before + 1


def test_37_deadline_past_while_queued(server):
    def attempt():
        before = computed(server)
        blocking = [start(server, SLOW) for _ in range(4)]
        in_flight_or_more(server, 4)
        late = start(server, large_answer(), timeout=0.1)
        late_code = late.code()
        assert [call.code() for call in blocking] == [grpc.StatusCode.OK] * 4
        assert_unharmed(server)
        return late_code == DEADLINE and computed(server) == before + 5

    wait_until(attempt)


def test_37_deadline_past_while_computed(server):
    def attempt():
        before, prepared, begin = computed(server), server.metric("lossd_decode_seconds_count"), time.monotonic()
        assert start(server, SLOW).code() == grpc.StatusCode.OK
        seconds = time.monotonic() - begin
        codes = [start(server, SLOW, part * seconds).code() for part in (0.9, 0.8, 0.7, 0.6)]
        assert set(codes) <= {DEADLINE, grpc.StatusCode.OK}
        assert_unharmed(server)
        return server.metric("lossd_decode_seconds_count") - prepared > computed(server) - before

    wait_until(attempt)
    assert handled(server, "DeadlineExceeded") + handled(server, "Canceled") > 0  # the client is as quick as the server


# ---- 38: cancellations -----------------------------------------------------------------------------------------------


def test_38_cancelled_in_the_queue(server):
    def attempt():
        before = computed(server)
        blocking = [start(server, SLOW) for _ in range(4)]
        waiting = [start(server, large_answer()) for _ in range(4)]
        in_flight_or_more(server, 8)
        for call in waiting:
            call.cancel()
        assert {call.code() for call in waiting} <= {CANCELLED, grpc.StatusCode.OK}
        assert [call.code() for call in blocking] == [grpc.StatusCode.OK] * 4
        assert_unharmed(server)
        return computed(server) == before + 5

    wait_until(attempt)


def test_38_cancelled_while_computed(server):
    """The thread was free again before all blocks were computed."""
    def attempt():
        before, prepared = computed(server), server.metric("lossd_decode_seconds_count")
        call = start(server, SLOW)
        wait_until(lambda: server.metric("lossd_decode_seconds_count") > prepared)
        call.cancel()
        in_flight(server, 0)
        return computed(server) == before

    for _ in range(3):
        wait_until(attempt)
    assert_unharmed(server)


def test_38_cancelled_while_sent(server):
    cancelled = handled(server, "Canceled")
    with Connection(server.grpc, windows=False) as connection:
        before = computed(server)
        connection.open(1, METHOD)
        connection.write(1, message(large_answer()), end=True)
        wait_until(lambda: server.metric("lossd_inflight_requests") == 1 and computed(server) > before)
        connection.reset(1)
        in_flight(server, 0)
        assert connection.call(3, METHOD, message(b"")).code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert_unharmed(server)
    assert handled(server, "Canceled") >= cancelled + 1


def test_38_cancelled_while_received(server):
    cancelled, started = handled(server, "Canceled"), computed(server)
    with Connection(server.grpc) as connection:
        connection.open(1, METHOD)
        connection.write(1, message(large_answer())[:1_000_000])
        in_flight(server, 1)
        connection.reset(1)
        in_flight(server, 0)
    assert_unharmed(server)
    assert handled(server, "Canceled") == cancelled + 1 and computed(server) == started + 1


def test_38_stream_cancelled_with_batches_at_every_stage(server):
    batch = pb.EvaluateStreamRequest(request=pb.EvaluateRequest.FromString(SLOW)).SerializeToString()
    for delay in (0, 0.05, 0.3):
        call = server.channel.stream_stream(METHOD + "Stream")(iter([batch] * 4), timeout=60)
        time.sleep(delay)
        call.cancel()
        in_flight(server, 0)
    assert_unharmed(server)


# ---- 39: clients that die --------------------------------------------------------------------------------------------

# A process that does one thing and then waits to be killed; it says so on its standard output.
CLIENT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from http2 import *
stage, address, path = sys.argv[2:5]
data = message(sys.stdin.buffer.read())
connection = Connection(address, start=stage != "connected", windows=False)
if stage not in ("connected", "greeted"):
    connection.open(1, path)
if stage == "received":
    connection.write(1, data[:len(data) // 2])
if stage in ("computed", "sent"):
    connection.write(1, data, end=True)
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("method", ["", "Stream"])
@pytest.mark.parametrize("stage", ["connected", "greeted", "opened", "received", "computed", "sent"])
def test_39_client_killed(server, stage, method, request):
    data = SLOW if stage == "computed" else large_answer()
    if method:
        data = pb.EvaluateStreamRequest(request=pb.EvaluateRequest.FromString(data)).SerializeToString()
    before = server.metric("process_open_fds")
    client = subprocess.Popen([sys.executable, "-c", CLIENT, str(request.path.parent), stage, server.grpc,
                               METHOD + method], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    client.stdin.write(data)
    client.stdin.close()
    assert client.stdout.readline() == b"ready\n"
    if stage in ("computed", "sent"):
        in_flight(server, 1)
    client.send_signal(signal.SIGKILL)
    client.wait()
    client.stdout.close()
    assert_unharmed(server)
    wait_until(lambda: server.metric("process_open_fds") <= before)
