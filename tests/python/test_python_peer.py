"""lossd and the Python server of bench/peers, asked the same: a second opinion, and proof that the peer is one.

The peer is what a user would write with PyTorch; it computes in the type of the logits, so float32 answers differ by
what PyTorch rounds. test_pytorch.py is the sharp comparison.
"""

import re
import subprocess
import sys

import grpc
import numpy as np
import pytest

from cases import generator, product
from lossd.v1 import loss_pb2 as pb
from lossd.v1 import loss_pb2_grpc
from pytorch import REDUCTIONS
from process import PATIENCE_SECONDS, open_channel
from stubs import ROOT
from tensors import make_request, to_array

TOLERANCE = {"float32": 2e-6, "float64": 1e-13}  # of the loss relative to itself, of gradients to upstream 1


@pytest.fixture(scope="module")
def peer():
    """A call to the peer."""
    process = subprocess.Popen([sys.executable, ROOT / "bench/peers/python_server.py"], stdout=subprocess.PIPE, text=True)
    address = re.fullmatch(r"python ready grpc=(\S+)\n", process.stdout.readline())[1]
    with open_channel(address) as channel:
        stub = loss_pb2_grpc.LossServiceStub(channel)
        yield lambda request: stub.Evaluate(request, timeout=PATIENCE_SECONDS)
    process.terminate()
    assert process.wait(PATIENCE_SECONDS) == 0
    process.stdout.close()


def request_of(case, random):
    num_classes = case["shape"][1]
    logits = random.normal(scale=3, size=case["shape"]).astype(case["dtype"])
    targets = random.integers(num_classes, size=logits[:, 0].shape)
    options = {}
    if case["weights"]:
        options["class_weights"] = random.uniform(0.2, 3, num_classes).astype(case["dtype"])
    if case["ignored"] is not None:
        targets.flat[1::3] = case["ignored"]
        options["ignore_index"] = case["ignored"]
    return make_request(logits, targets, reduction=REDUCTIONS[case["reduction"]], label_smoothing=case["smoothing"],
                        **options)


@product(shape=[(6, 10), (64, 1000), (3, 7, 4, 2)], reduction=list(REDUCTIONS), smoothing=[0.0, 0.1],
         weights=[False, True], ignored=[None, -100, 2], dtype=list(TOLERANCE))
def test_same_answer(lossd, peer, case):
    request = request_of(case, generator(case))
    ours, theirs = lossd.evaluate(request), peer(request)
    tolerance = TOLERANCE[case["dtype"]]
    np.testing.assert_allclose(to_array(ours.loss), to_array(theirs.loss), rtol=tolerance, atol=tolerance)
    gradients = [to_array(answer.logits_gradient) for answer in (ours, theirs)]
    assert gradients[0].dtype == gradients[1].dtype and gradients[0].shape == gradients[1].shape == case["shape"]
    np.testing.assert_allclose(*gradients, rtol=0, atol=tolerance)
    assert ours.summary.element_count == theirs.summary.element_count
    assert ours.summary.ignored_count == theirs.summary.ignored_count


LOGITS = np.zeros((2, 3), np.float32)
BAD = {
    "a target that is no class": make_request(LOGITS, np.array([0, 3])),
    "too few targets": make_request(LOGITS, np.array([0])),
    "weights of another length": make_request(LOGITS, np.array([0, 1]), class_weights=np.ones(2, np.float32)),
    "bytes that do not fill the shape": make_request(
        pb.Tensor(data_type=pb.DATA_TYPE_FLOAT32, shape=[2, 3], raw=bytes(20)), np.array([0, 1])),
}


@pytest.mark.parametrize("what", BAD)
def test_same_refusal(lossd, peer, what):
    for evaluate in (lossd.evaluate, peer):
        with pytest.raises(grpc.RpcError) as refusal:
            evaluate(BAD[what])
        assert refusal.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_what_the_peer_does_not_know(peer):
    with pytest.raises(grpc.RpcError) as refusal:
        peer(make_request(LOGITS, np.array([0, 1]), z_loss=1.0))
    assert refusal.value.code() == grpc.StatusCode.UNIMPLEMENTED and "z_loss" in refusal.value.details()
