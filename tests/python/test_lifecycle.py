"""How lossd starts, or says why it does not; its flags, its HTTP port and its log. test_drain.py is how it ends."""

import json
import re
import socket

import grpc
import pytest

from lossd.v1 import loss_pb2 as pb
from lossd.v1 import loss_pb2_grpc
from process import open_channel, run_lossd

FREE = ("--grpc_listen=127.0.0.1:0", "--http_listen=127.0.0.1:0")


def complaint(*flags, **environment):
    """The sentence that a start which fails leaves."""
    run = run_lossd(*flags, **environment)
    assert run.returncode == 1 and run.stdout == ""
    (sentence,) = re.findall("^lossd: .*", run.stderr, re.M)
    return sentence


# ---- addresses -------------------------------------------------------------------------------------------------------


@pytest.fixture
def taken():
    """An address that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield "127.0.0.1:%d" % listener.getsockname()[1]


@pytest.mark.parametrize("flag", ["grpc_listen", "http_listen"])
def test_taken_port(taken, flag):
    sentence = complaint(*FREE, f"--{flag}={taken}")
    assert f"--{flag}={taken}" in sentence and "taken" in sentence


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("flag", ["grpc_listen", "http_listen"])
def test_taken_port_leaves_one_sentence_and_nothing_else(taken, flag, log_format):
    stderr = run_lossd(*FREE, f"--{flag}={taken}", f"--log_format={log_format}").stderr
    assert len(stderr.splitlines()) == 1


def test_the_port_of_another_lossd(lossd):
    assert lossd.grpc in complaint(*FREE, f"--grpc_listen={lossd.grpc}")
    assert lossd.http in complaint(*FREE, f"--http_listen={lossd.http}")


def test_second_address_taken(taken):
    assert taken in complaint(*FREE, f"--grpc_listen=127.0.0.1:0,{taken}")


@pytest.mark.parametrize("address", ["192.0.2.1:0", "no-such-host.invalid:0"])
@pytest.mark.parametrize("flag", ["grpc_listen", "http_listen"])
def test_address_of_another_machine(flag, address):
    assert f"--{flag}={address}" in complaint(*FREE, f"--{flag}={address}")


def server_info(address):
    with open_channel(address) as channel:
        return loss_pb2_grpc.LossServiceStub(channel).GetServerInfo(pb.GetServerInfoRequest(), timeout=60)


def test_several_addresses(start_lossd, tmp_path):
    lossd = start_lossd(f"--grpc_listen=127.0.0.1:0,unix:{tmp_path}/socket,127.0.0.1:0")
    first, unix, last = addresses = lossd.grpc.split(",")
    assert unix == f"unix:{tmp_path}/socket" and first != last
    assert all(server_info(address).version for address in addresses)


def test_same_port_again(start_lossd):
    """A port is free for the next lossd as soon as the last one has left."""
    first = start_lossd()
    first.evaluate_once()
    assert first.stop() == 0
    again = start_lossd(f"--grpc_listen={first.grpc}", f"--http_listen={first.http}")
    assert (again.grpc, again.http) == (first.grpc, first.http)
    again.evaluate_once()


# ---- flags -----------------------------------------------------------------------------------------------------------

BAD_FLAGS = [
    ("threads", "-1", "0 to 1024"),
    ("threads", "1025", "0 to 1024"),
    ("max_message_bytes", "0", "1024 to 2147483647"),
    ("max_message_bytes", "2147483648", "1024 to 2147483647"),
    ("memory_budget_bytes", "1000", "at least --max_message_bytes"),
    ("memory_budget_bytes", "-1", "at least --max_message_bytes"),
    ("drain_seconds", "-1", "0 to 86400"),
    ("drain_seconds", "86401", "0 to 86400"),
    ("max_jobs", "-1", "0 to 1000000"),
    ("max_jobs", "1000001", "0 to 1000000"),
    ("log_format", "xml", "text or json"),
    ("log_level", "loud", "debug, info, warning or error"),
    ("grpc_listen", "", "host:port"),
    ("grpc_listen", "127.0.0.1", "host:port"),
    ("grpc_listen", "127.0.0.1:65536", "65535"),
    ("grpc_listen", "127.0.0.1:-1", "65535"),
    ("grpc_listen", "unix:", "unix:path"),
    ("http_listen", "127.0.0.1:http", "65535"),
    ("http_listen", "unix:/tmp/socket", "host:port"),
]


@pytest.mark.parametrize("flag, value, allowed", BAD_FLAGS)
def test_bad_flag(flag, value, allowed):
    sentence = complaint(*FREE, f"--{flag}={value}")
    assert f"--{flag}={value}" in sentence and allowed in sentence


@pytest.mark.parametrize("flag, value, allowed", BAD_FLAGS)
def test_bad_environment(flag, value, allowed):
    sentence = complaint(**{f"LOSSD_{flag.upper()}": value})
    assert f"{flag}={value}" in sentence and allowed in sentence


def test_environment_that_does_not_parse():
    sentence = complaint(*FREE, LOSSD_THREADS="many")
    assert "LOSSD_THREADS=many" in sentence and "--threads" in sentence


@pytest.mark.parametrize("flag", ["TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "AUTH_TOKENS_FILE"])
def test_what_would_only_seem_to_protect(flag):
    sentence = complaint(*FREE, **{f"LOSSD_{flag}": "/no/such/file"})
    assert f"LOSSD_{flag} is set" in sentence and "neither TLS nor tokens" in sentence


def test_channelz(start_lossd):
    for flags, code in [([], grpc.StatusCode.UNIMPLEMENTED), (["--channelz"], grpc.StatusCode.OK)]:
        with open_channel(start_lossd(*flags).grpc) as channel:
            _, call = channel.unary_unary("/grpc.channelz.v1.Channelz/GetServers").with_call(b"", timeout=60) \
                if code is grpc.StatusCode.OK else (None, failure(channel))
            assert call.code() == code


def failure(channel):
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary("/grpc.channelz.v1.Channelz/GetServers")(b"", timeout=60)
    return error.value


@pytest.mark.parametrize("arguments, words", [
    (["--threads=many"], ["threads", "many"]), (["--no_such_flag=1"], ["no_such_flag"]), (["stray"], ["stray"]),
    (["--flagfile=/no/such/file"], ["/no/such/file"])])
def test_what_is_not_a_flag(arguments, words):
    run = run_lossd(*FREE, *arguments)
    assert run.returncode == 1 and all(word in run.stderr for word in words)


def test_environment_and_flags_win(start_lossd):
    lossd = start_lossd("--threads=2", LOSSD_THREADS="3", LOSSD_MAX_MESSAGE_BYTES="12345",
                        LOSSD_MEMORY_BUDGET_BYTES="54321")
    info = server_info(lossd.grpc)
    assert (info.compute_threads, info.max_message_bytes, info.memory_budget_bytes) == (2, 12345, 54321)
    assert lossd.metric("lossd_memory_budget_bytes") == 54321


def test_flagfile(start_lossd, tmp_path):
    (tmp_path / "flags").write_text("# A comment.\n--threads=3\n--max_message_bytes=12345\n")
    info = server_info(start_lossd(f"--flagfile={tmp_path}/flags", "--threads=2").grpc)
    assert (info.compute_threads, info.max_message_bytes) == (2, 12345)


def test_max_jobs(start_lossd):
    lossd = start_lossd("--max_jobs=2")
    for job in "abca":
        lossd.evaluate_once(job)
    assert set(re.findall(r'lossd_job_loss\{job="(.*)"\}', lossd.get("/metrics").body)) == {"a", "c"}


def test_version_and_help():
    version, usage = run_lossd("--version"), run_lossd("--help")
    assert version.returncode == 0 and re.fullmatch(r"lossd \d+\.\d+\.\d+\n", version.stdout)
    assert "grpc_listen" in usage.stdout and "drain_seconds" in usage.stdout


# ---- HTTP ------------------------------------------------------------------------------------------------------------

HTTP = [
    ("GET", "/healthz", 200, "text/plain"),
    ("GET", "/readyz", 200, "text/plain"),
    ("GET", "/metrics", 200, "text/plain; version=0.0.4"),
    ("GET", "/", 200, "text/html"),
    ("HEAD", "/metrics", 200, "text/plain"),
    ("GET", "/nothing", 404, "text/plain"),
    ("GET", "/metrics/", 404, "text/plain"),
    ("GET", "/../../etc/passwd", 404, "text/plain"),
    ("GET", "/metrics/../../../etc/passwd", 404, "text/plain"),
    ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404, "text/plain"),
    ("POST", "/metrics", 405, "text/plain"),
    ("PUT", "/metrics", 405, "text/plain"),
    ("DELETE", "/healthz", 405, "text/plain"),
    ("OPTIONS", "/", 405, "text/plain"),
    ("PATCH", "/", 405, "text/plain"),
]


@pytest.mark.parametrize("method, path, status, content_type", HTTP)
def test_http(lossd, method, path, status, content_type):
    page = lossd.get(path, method)
    assert page.status == status
    assert page.headers["Content-Type"].startswith(content_type)
    assert ("Allow" in page.headers) == (status == 405)
    assert bool(page.body) == (method != "HEAD") and "root:" not in page.body


def test_page_with_a_query(lossd):
    assert lossd.get("/metrics?name[]=up").status == 200


# ---- log -------------------------------------------------------------------------------------------------------------


def test_json_log(start_lossd):
    lossd = start_lossd("--log_format=json", "--log_level=debug")
    lossd.evaluate_once()
    assert lossd.stop() == 0
    events = [json.loads(line) for line in lossd.log().splitlines()]
    assert len(events) >= 3 and all({"time", "level", "message"} == event.keys() for event in events)
    assert "serving" in events[0]["message"] and "drained" in events[-1]["message"]


def test_log_level(start_lossd):
    lossd = start_lossd("--log_level=error")
    lossd.evaluate_once()
    assert lossd.stop() == 0
    assert lossd.log() == ""
