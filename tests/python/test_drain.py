"""SIGTERM with calls in flight: they finish, new ones are sent elsewhere, and the process leaves with exit code 0.

A call is held in flight by a client that does not read: its answer is larger than HTTP/2's window, and a stream's
message is read when it is asked for, not before.
"""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import health_pb2
import health_pb2_grpc
import numpy as np
import pytest

from lossd.v1 import loss_pb2 as pb
from process import METHOD, open_channel, wait_until
from tensors import make_request, to_array

ROWS, CLASSES = 20000, 100  # a gradient of 8 MB


def large_request():
    return make_request(np.zeros((ROWS, CLASSES), np.float32), np.zeros(ROWS, np.int32), reduction=pb.REDUCTION_SUM)


class HeldCall:
    """A call whose answer waits to be read."""

    def __init__(self, lossd, timeout=None):
        self._channel = open_channel(lossd.grpc, ("grpc.http2.bdp_probe", 0))
        evaluate = self._channel.unary_stream(METHOD, pb.EvaluateRequest.SerializeToString,
                                              pb.EvaluateResponse.FromString)
        self.call = evaluate(large_request(), timeout=timeout)

    def read(self):
        with self._channel:
            (response,) = self.call
            return response


def hold(lossd, count):
    """`count` calls, each of which the server has taken on."""
    calls = [HeldCall(lossd) for _ in range(count)]
    wait_until(lambda: lossd.metric("lossd_inflight_requests") == count)
    return calls


def assert_whole(response):
    np.testing.assert_allclose(to_array(response.loss), ROWS * np.log(CLASSES), rtol=1e-6)
    gradient = to_array(response.logits_gradient)
    assert gradient.shape == (ROWS, CLASSES)
    np.testing.assert_allclose(gradient[:, 0], 1 / CLASSES - 1, rtol=1e-6)


def drain(lossd):
    lossd.terminate()
    wait_until(lambda: lossd.get("/readyz").status == 503)


def assert_unavailable(lossd):
    with pytest.raises(grpc.RpcError) as refused:
        lossd.evaluate_once()
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE


def test_calls_in_flight_finish(start_lossd):
    lossd = start_lossd()
    calls = hold(lossd, 8)
    assert lossd.get("/readyz").status == 200 and lossd.metric("lossd_draining") == 0
    drain(lossd)
    health = health_pb2_grpc.HealthStub(lossd.channel)
    for service in ("", "lossd.v1.LossService"):
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert lossd.metric("lossd_draining") == 1
    assert lossd.get("/healthz").status == 200
    assert_unavailable(lossd)
    assert lossd.metric('lossd_rejected_total{reason="draining"}') == 1
    lossd.terminate()  # a second SIGTERM does not end the wait
    assert lossd.metric("lossd_inflight_requests") == 8
    for held in calls:
        assert_whole(held.read())
        assert held.call.code() == grpc.StatusCode.OK
    assert lossd.process.wait(120) == 0
    assert_unavailable(lossd)


def first_failure(lossd):
    """The status of the first of many calls in a row that is not answered."""
    with open_channel(lossd.grpc) as channel:
        evaluate = channel.unary_unary(METHOD, pb.EvaluateRequest.SerializeToString, pb.EvaluateResponse.FromString)
        while True:
            try:
                assert_whole(evaluate(large_request(), timeout=120))
            except grpc.RpcError as error:
                return error.code()


def test_busy_clients_see_nothing_but_unavailable(start_lossd):
    lossd = start_lossd()
    with ThreadPoolExecutor(4) as clients:
        failures = [clients.submit(first_failure, lossd) for _ in range(4)]
        wait_until(lambda: lossd.metric('grpc_server_handled_total{grpc_code="OK",grpc_method="Evaluate",'
                                        'grpc_service="lossd.v1.LossService",grpc_type="unary"}') >= 8)
        assert lossd.stop() == 0
    assert {failure.result() for failure in failures} == {grpc.StatusCode.UNAVAILABLE}


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_idle_server_does_not_wait(start_lossd, first):
    lossd = start_lossd("--drain_seconds=86400")
    lossd.process.send_signal(first)
    assert lossd.process.wait(120) == 0


def test_second_interrupt_ends_the_wait(start_lossd):
    lossd = start_lossd("--drain_seconds=86400")
    (held,) = hold(lossd, 1)
    drain(lossd)
    lossd.process.send_signal(signal.SIGINT)
    assert lossd.process.wait(120) == 0
    with pytest.raises(grpc.RpcError):
        held.read()


@pytest.mark.parametrize("seconds", [0, 1])
def test_drain_ends_after_drain_seconds(start_lossd, seconds):
    lossd = start_lossd(f"--drain_seconds={seconds}")
    (held,) = hold(lossd, 1)
    start = time.monotonic()
    lossd.terminate()
    assert lossd.process.wait(120) == 0
    assert time.monotonic() - start >= seconds
    with pytest.raises(grpc.RpcError):
        held.read()


# ---- deadlines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.0001])
def test_deadline_before_the_call_arrives(lossd, timeout):
    with pytest.raises(grpc.RpcError) as refused:
        lossd.evaluate(large_request(), timeout=timeout)
    assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    lossd.wait_until_idle()


def test_deadline_while_the_answer_is_sent(lossd):
    held = HeldCall(lossd, timeout=1)
    assert held.call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    lossd.wait_until_idle()


def test_cancelled_call_is_let_go(lossd):
    (held,) = hold(lossd, 1)
    held.call.cancel()
    lossd.wait_until_idle()
