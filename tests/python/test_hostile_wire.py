"""Bytes that are no request, messages that are not one: faults.md, 18 to 26, over the wire."""

import gzip
import random
import re
import warnings

import grpc
import numpy as np
import pytest

from faults import field, varint, well_formed
from google.protobuf.message import DecodeError
from http2 import Connection, message
from lossd.v1 import loss_pb2 as pb
from process import METHOD, open_channel, wait_until
from tensors import make_request
from test_faults import assert_unharmed

MEGABYTE = 1 << 20
INVALID, EXHAUSTED, UNIMPLEMENTED = 3, 8, 12  # grpc-status


def resident(server):
    """Bytes of memory the process has."""
    status = open(f"/proc/{server.process.pid}/status").read()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


def assert_memory_comes_back(server, before, slack=64 * MEGABYTE):
    wait_until(lambda: resident(server) < before + slack, 30)


def outcomes(server, requests):
    """(code, words) of each, sent as fast as one channel takes them."""
    evaluate = server.channel.unary_unary(METHOD)
    futures = [evaluate.future(request, timeout=60) for request in requests]
    return [(future.code(), future.details() or "") for future in futures]


def parses(data):
    """For protobuf. Its Python bindings only warn of an end before all was read, which its parser calls an error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            pb.EvaluateRequest.FromString(data)
        except DecodeError:
            return False
    return not caught


def assert_verdict_of_protobuf(server, requests):
    """Malformed for protobuf's parser is malformed for ours, and says so; nothing is an error of the server's."""
    for request, (code, details) in zip(requests, outcomes(server, requests)):
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED), details
        malformed = code == grpc.StatusCode.INVALID_ARGUMENT and details.startswith("request: ")
        assert malformed != parses(request), (request[:200].hex(), code, details)
    assert_unharmed(server)


def full_request():
    request = well_formed()
    request.job, request.step = "job", 7
    request.loss.cross_entropy.label_smoothing = 0.5
    request.sample_weights.CopyFrom(pb.Tensor(shape=[4], floats=pb.Tensor.Floats(values=[1, 2, 3, 4])))
    return request.SerializeToString()


# ---- one message -----------------------------------------------------------------------------------------------------


def test_18_every_prefix(lossd):
    request = full_request()
    assert_verdict_of_protobuf(lossd, [request[:size] for size in range(len(request) + 1)])


def test_18_every_bit(lossd):
    request = full_request()[:1024]
    flipped = [int.to_bytes(int.from_bytes(request, "little") ^ (1 << bit), len(request), "little")
               for bit in range(8 * len(request))]
    assert_verdict_of_protobuf(lossd, flipped)


def test_19_random_bytes(lossd):
    generator = random.Random(19)
    assert_verdict_of_protobuf(lossd, [generator.randbytes(10_000_000)] +
                               [generator.randbytes(generator.randrange(64)) for _ in range(500)])


TEN_BYTES = b"\xff" * 9 + b"\x01"
LENGTHS = [varint(0xFFFFFFFF), varint(2**31), varint(2**63), TEN_BYTES, b"\xff" * 10 + b"\x01", b"\xff\xff\xff\xff\x7f"]


def test_20_lengths(lossd):
    tags = [varint(number << 3 | 2) for number in (1, 3, 9, 15, 99)]
    inner = [field(15, b"\x1a" + length) for length in LENGTHS]  # of Tensor.raw
    assert_verdict_of_protobuf(lossd, [tag + length for tag in tags for length in LENGTHS] + inner)


def test_21_wrong_wire_types(lossd):
    contents = {0: b"\x01", 1: bytes(8), 2: b"\x00", 3: b"", 4: b"", 5: bytes(4), 6: b"", 7: b""}
    cases = [varint(number << 3 | wire_type) + contents[wire_type] for number in range(17) for wire_type in contents]
    request = full_request()
    assert_verdict_of_protobuf(lossd, cases + [request + case for case in cases])


def test_22_duplicates_merge_as_in_protobuf(lossd):
    """The last of several scalars counts, and sub-messages merge: the answer is that of what protobuf reads."""
    first, last = well_formed(), well_formed()
    first.loss.cross_entropy.label_smoothing = 0.25
    first.loss.normalizer = 3
    last.ClearField("loss")
    last.loss.cross_entropy.z_loss = 0.5
    last.logits.ClearField("shape")
    last.targets.Clear()
    twice = first.SerializeToString() + last.SerializeToString()
    evaluate = lossd.channel.unary_unary(METHOD, response_deserializer=pb.EvaluateResponse.FromString)
    got, want = evaluate(twice, timeout=60), lossd.evaluate(pb.EvaluateRequest.FromString(twice))
    assert got.loss == want.loss and got.logits_gradient == want.logits_gradient
    assert got.loss != lossd.evaluate(well_formed()).loss
    assert_verdict_of_protobuf(lossd, [twice, twice * 3, full_request() * 100])


def test_23_unknown_field_of_200_mb(start_lossd):
    """Skipped, and counted against the budget."""
    limit = 210 * MEGABYTE
    server = start_lossd(f"--max_message_bytes={limit}", f"--memory_budget_bytes={limit}")
    unknown = field(99, bytes(200 * MEGABYTE))
    small, large = well_formed(), make_request(np.zeros((6 * MEGABYTE // 4, 1), np.float32), np.zeros(6 * MEGABYTE // 4,
                                                                                                  np.uint8))
    before = resident(server)
    answer = server.channel.unary_unary(METHOD)(unknown + small.SerializeToString(), timeout=60)
    assert pb.EvaluateResponse.FromString(answer).logits_gradient == server.evaluate(small).logits_gradient
    server.evaluate(large)
    ((code, details),) = outcomes(server, [unknown + large.SerializeToString()])
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED and f"memory_budget_bytes is {limit}" in details
    assert_memory_comes_back(server, before)
    assert_unharmed(server)


def test_24_groups_a_million_deep(lossd):
    start, end = varint(20 << 3 | 3), varint(20 << 3 | 4)
    request = full_request()
    deep = [start * 1_000_000, start * 1_000_000 + end * 1_000_000, request + field(3, start * 1_000_000)]
    assert_verdict_of_protobuf(lossd, deep + [request + start + end, start * 50 + end * 50, start * 150 + end * 150])


# ---- compression -----------------------------------------------------------------------------------------------------


def test_25_gzip_bomb(lossd):
    assert_unharmed(lossd)
    before = resident(lossd)
    bomb = gzip.compress(bytes(100_000_000))
    assert len(bomb) < 200_000
    with Connection(lossd.grpc) as connection:
        answers = [connection.call(stream, METHOD, message(bomb, compressed=1), ("grpc-encoding", "gzip"))
                   for stream in range(1, 41, 2)]
    assert {answer.code for answer in answers} == {UNIMPLEMENTED}
    assert resident(lossd) < before + 32 * MEGABYTE
    assert_unharmed(lossd)


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate], ids=str)
def test_25_compressing_client(lossd, compression):
    evaluate = lossd.channel.unary_unary(METHOD, pb.EvaluateRequest.SerializeToString)
    with pytest.raises(grpc.RpcError) as refused:
        evaluate(well_formed(), timeout=60, compression=compression)
    assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert_unharmed(lossd)


@pytest.mark.parametrize("flag", [1, 7])
def test_25_flag_without_an_encoding(lossd, flag):
    """Nothing is decompressed: the message is taken as it is, or refused by the transport."""
    with Connection(lossd.grpc) as connection:
        answer = connection.call(1, METHOD, message(well_formed().SerializeToString(), compressed=flag))
        assert answer is None or answer.code != 0 or len(answer.messages) == 1
    assert_unharmed(lossd)


# ---- other than one message ------------------------------------------------------------------------------------------


def test_26_none_and_a_half_close(lossd):
    with Connection(lossd.grpc) as connection:
        answer = connection.call(1, METHOD, b"")
        assert answer.code == INVALID and "without a request message" in answer.details
    assert_unharmed(lossd)


def test_26_none(lossd):
    """Held until its client is gone, and no longer."""
    with Connection(lossd.grpc) as connection:
        connection.open(1, METHOD)
        wait_until(lambda: lossd.metric("lossd_inflight_requests") == 1)
        lossd.evaluate(well_formed())
    assert_unharmed(lossd)


def test_26_two_messages(lossd):
    """The first is the request; what follows it is nobody's, and is not answered."""
    request = message(well_formed().SerializeToString())
    with Connection(lossd.grpc) as connection:
        answer = connection.call(1, METHOD, request + request)
        assert answer.code in (0, INVALID, UNIMPLEMENTED) and len(answer.messages) == (answer.code == 0)
        answer = connection.call(3, METHOD, request + message(bytes(1_000_000)))
        assert answer.code in (0, INVALID, UNIMPLEMENTED) and len(answer.messages) == (answer.code == 0)
    assert_unharmed(lossd)


def test_26_one_message_and_no_half_close(lossd):
    request = message(well_formed().SerializeToString())
    with Connection(lossd.grpc) as connection:
        assert connection.call(1, METHOD, request, end=False).code == 0
    assert_unharmed(lossd)


@pytest.mark.parametrize("data", [b"\0", message(b"x", size=2), message(b"")[:4]], ids=["flag", "short", "header"])
def test_26_message_cut_short(lossd, data):
    with Connection(lossd.grpc) as connection:
        answer = connection.call(1, METHOD, data)
        assert answer is not None and answer.code != 0
    assert_unharmed(lossd)


def test_26_stream_of_no_messages_and_of_garbage(lossd):
    method = METHOD + "Stream"
    with Connection(lossd.grpc) as connection:
        assert connection.call(1, method, b"").code == 0
        answer = connection.call(3, method, message(b"\x0f") + message(b"") + message(b"\xff" * 100))
        assert answer.code == 0 and len(answer.messages) == 3
        errors = [pb.EvaluateStreamResponse.FromString(data).error.code for data in answer.messages]
        assert errors == [INVALID] * 3
    with open_channel(lossd.grpc) as channel:
        stream = channel.stream_stream(method)(iter([b"\xff"]), timeout=60)
        assert pb.EvaluateStreamResponse.FromString(next(stream)).error.code == INVALID
    assert_unharmed(lossd)
