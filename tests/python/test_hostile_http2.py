"""Peers that misuse HTTP/2, or do not speak it: faults.md, 27 to 29 and 31."""

import http.client
import socket
import ssl
import struct
import time

import grpc
import pytest

from faults import well_formed
from http2 import (CONTINUATION, END_HEADERS, END_STREAM, FRAME_BYTES, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM,
                   SETTINGS, Connection, encode, frame, message, request_headers)
from process import METHOD, Lossd
from test_faults import assert_unharmed
from test_hostile_wire import MEGABYTE, assert_memory_comes_back, resident

UNIMPLEMENTED = 12
REQUEST = message(well_formed().SerializeToString())


@pytest.fixture(scope="module")
def server():
    """A server of its own: these tests leave connections behind."""
    with Lossd() as lossd:
        lossd.evaluate_once()
        yield lossd


@pytest.fixture
def neighbour(server):
    """A connection that was there before, and must not notice."""
    with Connection(server.grpc) as connection:
        assert connection.call(1, METHOD, REQUEST).code == 0
        yield connection
        assert connection.call(3, METHOD, REQUEST).code == 0
    assert_unharmed(server)


# ---- 27: methods that are nobody's -----------------------------------------------------------------------------------

UNKNOWN = ["/lossd.v1.LossService/Nothing", "/lossd.v2.LossService/Evaluate", "/", "/a", "//", "/" + "x" * 4000,
           '/a"}/b\\n', METHOD + "/", METHOD.lower(), METHOD + "?x"]


@pytest.mark.parametrize("path", UNKNOWN, ids=lambda path: path[:30])
def test_27_unknown_method(server, neighbour, path):
    series = 'grpc_server_handled_total{grpc_code="Unimplemented",grpc_method="unknown",' \
             'grpc_service="lossd.v1.LossService",grpc_type="unary"}'
    before = server.get("/metrics").body
    with Connection(server.grpc) as connection:
        answer = connection.call(1, path, REQUEST)
        assert answer.code == UNIMPLEMENTED and len(answer.details) < 1000
        assert connection.call(3, METHOD, REQUEST).code == 0
    after = server.get("/metrics").body
    assert series in after and path not in after.replace(METHOD, "")
    assert len(after.splitlines()) <= len(before.splitlines()) + 40  # the first one makes the series


@pytest.mark.parametrize("path", ["lossd.v1.LossService/Evaluate", "", "*"])
def test_27_path_that_is_none(server, neighbour, path):
    with Connection(server.grpc) as connection:
        answer = connection.call(1, path, REQUEST)
        assert answer is None or answer.code != 0


# ---- 28: other protocols ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_28_http_1(server, neighbour, method):
    connection = http.client.HTTPConnection(server.grpc, timeout=60)
    try:
        connection.request(method, "/lossd.v1.LossService/Evaluate", body=b"x" * (method == "POST"))
        assert connection.getresponse().status >= 400
    except (http.client.HTTPException, ConnectionError):
        pass
    finally:
        connection.close()


def test_28_tls(server, neighbour):
    host, port = server.grpc.split(":")
    context = ssl.create_default_context()
    with socket.create_connection((host, int(port)), timeout=60) as plain, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(plain, server_hostname="localhost")


@pytest.mark.parametrize("data", [b"\0" * 100, b"\xff" * 100_000, PREFACE[:-1] + b"x", PREFACE + b"\xff" * 1000,
                                  PREFACE + frame(SETTINGS, payload=b"x"), PREFACE + frame(0, 0, 0, b"x"),
                                  PREFACE + frame(SETTINGS, payload=struct.pack(">HI", 4, 2**31)),
                                  PREFACE + frame(SETTINGS) + frame(HEADERS, END_HEADERS, 2, b""),
                                  PREFACE + frame(SETTINGS) + frame(HEADERS, END_HEADERS, 1, b"\xff" * 50)],
                         ids=lambda data: data[:40].hex()[-16:] + str(len(data)))
def test_28_garbage(server, neighbour, data):
    with Connection(server.grpc, start=False) as connection:
        try:
            connection.send(data)
            connection.socket.shutdown(socket.SHUT_WR)
            connection.is_closed()
        except OSError:
            pass


# ---- 29: headers -----------------------------------------------------------------------------------------------------


def test_29_metadata_over_the_limit(server, neighbour):
    with pytest.raises(grpc.RpcError) as refused:
        server.stub.Evaluate(well_formed(), timeout=60, metadata=[("x", "y" * 20000)])
    assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    for headers in [("x", "y" * 20000)], [(f"x-{i}", "y" * 100) for i in range(140)] + [("y", "y" * 3000)]:
        with Connection(server.grpc) as connection:
            assert connection.call(1, METHOD, REQUEST).code == 0  # the server's settings are acknowledged by now
            try:
                answer = connection.call(3, METHOD, REQUEST, *headers)
            except OSError:  # hung up
                continue
            assert answer is None or answer.code != 0


@pytest.mark.parametrize("header", [("x-bin", "!!!not base64!!!"), ("x-bin", "A"), ("te", "x"), (":scheme", "x"),
                                    (":method", "GET"), (":method", "PUT"), (":method", ""),
                                    ("content-type", "text/html"), ("content-type", ""), ("grpc-timeout", "x"),
                                    ("grpc-timeout", "-1S"),
                                    ("grpc-timeout", "99999999999999H"), ("grpc-encoding", "none-such"),
                                    ("grpc-accept-encoding", "\x00\xff"), ("x", "a\nb"), ("X-Upper", "x"), ("", "x"),
                                    (":unknown", "x"), ("connection", "close"), ("x\0", "y"),
                                    ("user-agent", "x" * 8000),
                                    ("lossd-request-bytes", "-1"), ("lossd-request-bytes", "9" * 40),
                                    ("lossd-request-bytes", "x"), ("lossd-request-bytes", str(2**63 - 1))],
                         ids=lambda header: f"{header[0][:12]}={header[1][:12]}".encode("ascii", "replace").hex()[:40])
def test_29_strange_header(server, neighbour, header):
    """Answered in some way, or that connection alone is closed."""
    with Connection(server.grpc) as connection:
        connection.call(1, METHOD, REQUEST, header, seconds=20)


@pytest.mark.parametrize("name", ["te", ":scheme", ":method", ":path", ":authority", "content-type"])
def test_29_missing_header(server, neighbour, name):
    with Connection(server.grpc) as connection:
        connection.open(1, METHOD, without=(name,))
        connection.write(1, REQUEST, end=True)
        connection.answer(1, 20)


def flood(connection, chunks):
    """Sends them while the peer listens. How many it took before it hung up."""
    for count, chunk in enumerate(chunks):
        try:
            connection.send(chunk)
        except OSError:
            return count
    return count + 1


@pytest.mark.parametrize("chunk", [b"", b"\0\x01a\x7f" + b"\x80" * 3, encode([("x", "y" * 1000)])],
                         ids=["empty", "cut", "headers"])
def test_29_continuation_flood(server, neighbour, chunk):
    """Headers without an end: gRPC keeps what it is sent (SECURITY.md), others are served meanwhile, and all goes with
    the connection."""
    before = resident(server)
    with Connection(server.grpc) as connection:
        connection.send(frame(HEADERS, 0, 1, encode(request_headers(METHOD))))
        flood(connection, (frame(CONTINUATION, 0, 1, chunk) * 1000 for _ in range(50)))
        server.evaluate(well_formed())
    assert_memory_comes_back(server, before)


def test_29_rapid_reset(server, neighbour):
    """50,000 streams that are opened and reset at once."""
    before = resident(server)
    block = encode(request_headers(METHOD))
    with Connection(server.grpc) as connection:
        def pairs(first):
            return b"".join(frame(HEADERS, END_HEADERS, stream, block) + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")
                            for stream in range(first, first + 1000, 2))

        flood(connection, (pairs(1 + 1000 * batch) for batch in range(100)))
        server.evaluate(well_formed())
    assert_memory_comes_back(server, before)


def test_29_ping_flood(server, neighbour):
    before = resident(server)
    with Connection(server.grpc) as connection:
        sent = flood(connection, (frame(PING, payload=bytes(8)) * 100 for _ in range(300)))
        frames = []
        while (got := connection.read_frame()) is not None and got.type != GOAWAY:
            frames.append(got)
        assert got is not None or sent < 300  # sent away: too many pings
    assert_memory_comes_back(server, before)


def test_29_settings_flood(server, neighbour):
    before = resident(server)
    with Connection(server.grpc) as connection:
        flood(connection, (frame(SETTINGS, payload=struct.pack(">HI", 4, 1 << 20)) * 100 for _ in range(100)))
        server.evaluate(well_formed())
        assert resident(server) < before + 64 * MEGABYTE


def test_29_a_byte_of_headers_at_a_time(server, neighbour):
    """And then never another one: nobody waits for it."""
    with Connection(server.grpc) as connection:
        for byte in frame(HEADERS, END_HEADERS, 1, encode(request_headers(METHOD)))[:30]:
            connection.send(bytes([byte]))
            time.sleep(0.1)
        server.evaluate(well_formed())


def test_29_empty_data_flood(server, neighbour):
    with Connection(server.grpc) as connection:
        connection.open(1, METHOD)
        flood(connection, (frame(0, 0, 1) * 1000 for _ in range(50)))
        server.evaluate(well_formed())
        connection.send(frame(0, END_STREAM, 1, REQUEST))
        answer = connection.answer(1)
        assert answer is None or answer.code == 0


def test_29_more_streams_than_allowed(server, neighbour):
    """The 1,025th of one connection is refused, the others wait for their bodies."""
    with Connection(server.grpc) as connection:
        block = encode(request_headers(METHOD))
        connection.read_frame()
        connection.send(b"".join(frame(HEADERS, END_HEADERS, stream, block) for stream in range(1, 2201, 2)))
        server.evaluate(well_formed())
