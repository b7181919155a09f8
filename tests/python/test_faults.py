"""Every fault of faults.py gets the status and the words it must, and leaves the server as it was."""

import json
import re

import grpc
import numpy as np
import pytest

import faults
import pytorch
from faults import FAULTS, MAX_MESSAGE_BYTES, altered, well_formed
from lossd.v1 import loss_pb2 as pb
from process import METHOD, Lossd
from tensors import make_request, to_array


@pytest.fixture(scope="module")
def small_lossd():
    """A server with small limits, which logs each refusal."""
    with Lossd(f"--max_message_bytes={MAX_MESSAGE_BYTES}", f"--memory_budget_bytes={4 << 20}", "--log_level=debug",
               "--log_format=json") as server:
        yield server


def refusal(server, serialized):
    """The status of a call that must fail."""
    with pytest.raises(grpc.RpcError) as refused:
        server.channel.unary_unary(METHOD)(serialized, timeout=60)
    return refused.value


def assert_unharmed(server):
    response = server.evaluate(well_formed())
    want, _ = pytorch.cross_entropy(to_array(well_formed().logits), to_array(well_formed().targets), class_axis=1,
                                    reduction="mean")
    np.testing.assert_allclose(to_array(response.loss), want, rtol=1e-6)
    server.wait_until_idle()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_fault(small_lossd, fault):
    status = refusal(small_lossd, fault.serialize())
    assert status.code() == fault.code, status.details()
    assert [word for word in fault.words if word not in status.details()] == [], status.details()
    assert_unharmed(small_lossd)


def test_every_case_is_here():
    accepted = {11, 13}
    assert {int(fault.name.split()[0]) for fault in FAULTS} >= set(range(1, 18)) - accepted


def test_5_shape_of_ten_million_entries(lossd):
    status = refusal(lossd, faults.with_logits(faults.field(2, b"\x01" * 10_000_000)))
    assert status.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "10000000" in status.details() and "16" in status.details()
    assert_unharmed(lossd)


# ---- what looks like a fault, and is none ----------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [[-1, 2, 0.5], [1, np.nan, 1], [0, 0, 0]], ids=str)
@pytest.mark.parametrize("targets", [[0, 0, 2, 2], [0, 1, 2, 1]], ids=str)
def test_11_class_weights_are_used_as_given(lossd, weights, targets):
    logits, targets, weights = np.arange(12.0).reshape(4, 3), np.array(targets), np.array(weights, float)
    want, _ = pytorch.cross_entropy(logits, targets, class_axis=1, reduction="none", weight=weights)
    response = lossd.evaluate(make_request(logits, targets, class_weights=weights, reduction=pb.REDUCTION_NONE))
    np.testing.assert_allclose(to_array(response.loss), want, rtol=1e-12)
    assert response.summary.weight_sum == pytest.approx(weights[targets].sum(), nan_ok=True)


def answer(server, serialized):
    evaluate = server.channel.unary_unary(METHOD, response_deserializer=pb.EvaluateResponse.FromString)
    return evaluate(serialized, timeout=60)


def test_13_the_last_contents_count(lossd):
    first = well_formed().logits
    last = pb.Tensor(floats=pb.Tensor.Floats(values=[5] * 12))
    response = answer(lossd, faults.with_logits(first.SerializeToString(), last.SerializeToString()))
    np.testing.assert_allclose(to_array(response.loss), np.log(3), rtol=1e-6)


def test_unknown_fields_of_the_request_are_skipped(lossd):
    serialized = well_formed().SerializeToString()
    response = answer(lossd, serialized + faults.field(99, b"from a newer client"))
    assert response.logits_gradient == answer(lossd, serialized).logits_gradient


@pytest.mark.parametrize("job", ["", "x" * 128, "run.1/layer:2_a-b", "0"], ids=lambda job: job[:20])
def test_15_good_jobs(small_lossd, job):
    small_lossd.evaluate(altered(job=job))
    assert (f'lossd_job_loss{{job="{job}"}}' in small_lossd.get("/metrics").body) == bool(job)


def test_16_repeated_outputs_count_once(lossd):
    once = lossd.evaluate(well_formed())
    twice = lossd.evaluate(altered(outputs=[pb.OUTPUT_LOGITS_GRADIENT] * 1000))
    assert twice.logits_gradient == once.logits_gradient


def test_17_is_refused_before_it_is_computed(small_lossd):
    (fault,) = [fault for fault in FAULTS if fault.name.startswith("17")]
    before = small_lossd.metric("lossd_compute_seconds_count")
    refused = small_lossd.metric('lossd_rejected_total{reason="too_large"}')
    refusal(small_lossd, fault.serialize())
    small_lossd.wait_until_idle()
    assert small_lossd.metric("lossd_compute_seconds_count") == before
    assert small_lossd.metric('lossd_rejected_total{reason="too_large"}') == refused + 1


def test_a_message_of_exactly_the_limit(small_lossd):
    logits = np.zeros((MAX_MESSAGE_BYTES // 16 - 16, 3), np.float32)
    request = make_request(logits, np.zeros(len(logits), np.int32), outputs=[])
    request.job = "x" * 100
    request.logits.raw += bytes(MAX_MESSAGE_BYTES - request.ByteSize())
    assert request.ByteSize() == MAX_MESSAGE_BYTES
    status = refusal(small_lossd, request.SerializeToString())
    assert status.code() == grpc.StatusCode.INVALID_ARGUMENT  # it was read: its logits have bytes to spare


def test_a_call_larger_than_the_budget(start_lossd):
    server = start_lossd("--max_message_bytes=1000000", "--memory_budget_bytes=1000000")
    request = make_request(np.zeros((60000, 3), np.float32), np.zeros(60000, np.uint8))
    status = refusal(server, request.SerializeToString())
    assert status.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "1000000" in status.details() and int(re.search(r"needs (\d+)", status.details())[1]) > 1440000
    assert "grpc-retry-pushback-ms" not in dict(status.trailing_metadata())
    assert_unharmed(server)


# ---- what this build does not have -----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "negative_log_likelihood", "kl_divergence", "binary_cross_entropy"])
def test_unknown_options_of_every_loss(small_lossd, loss):
    """Skipped, an option would be a wrong number."""
    number = pb.LossSpec.DESCRIPTOR.fields_by_name[loss].number
    option = faults.field(3, faults.field(number, faults.varint(41 << 3) + b"\x01"))
    status = refusal(small_lossd, well_formed().SerializeToString() + option)
    assert status.code() == grpc.StatusCode.UNIMPLEMENTED
    assert f"loss.{loss}" in status.details() and "41" in status.details()
    assert_unharmed(small_lossd)


# ---- what all of it left behind --------------------------------------------------------------------------------------


def test_metrics_and_log_are_whole(small_lossd):
    """After everything above: no broken line, and no job but the good ones."""
    for fault in faults.JOBS:
        refusal(small_lossd, fault.serialize())
    body = small_lossd.get("/metrics").body
    series = re.compile(r'\w+(\{\w+="[^"\\\n]*"(,\w+="[^"\\\n]*")*\})? \S+')
    assert [line for line in body.splitlines() if not line.startswith("#") and not series.fullmatch(line)] == []
    assert 'job="a' not in body and 'job="{' not in body and "x" * 129 not in body
    lines = [json.loads(line) for line in small_lossd.log().splitlines()]
    assert sum("InvalidArgument" in line["message"] for line in lines) >= len(faults.JOBS)
