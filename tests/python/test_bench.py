"""lossctl bench against a real lossd: what it reports is what the server counted."""

import json
import os
import re
import subprocess

import pytest

from process import PATIENCE_SECONDS
from stubs import ROOT

LOSSCTL = ROOT / os.environ.get("LOSSCTL_BINARY", "build/release/bin/lossctl")
SMALL = ("--generate=8x10", "--outputs=logits_gradient", "--warmup=0s")
HANDLED = 'grpc_server_handled_total{{grpc_code="OK",grpc_method="{}",grpc_service="lossd.v1.LossService"}}'


def bench(target, *flags):
    return subprocess.run([LOSSCTL, "bench", f"--target={target}", *flags], text=True, capture_output=True,
                          timeout=PATIENCE_SECONDS)


def bench_json(target, *flags):
    run = bench(target, "--json", *flags)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize("calls, method", [("unary", "Evaluate"), ("stream", "EvaluateStream")])
@pytest.mark.parametrize("loop", [("--concurrency=4", "--channels=2"), ("--rate=500",)])
def test_counts(start_lossd, calls, method, loop):
    lossd = start_lossd()
    result = bench_json(lossd.grpc, *SMALL, f"--calls={calls}", "--count=40", *loop)
    assert result["answered"] == 40 and result["errors"] == {} and result["dropped"] == 0
    assert result["rows"] == 8 and result["request_bytes"] > 8 * 10 * 4
    latency = result["latency_seconds"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p99.9"] <= latency["max"]
    assert result["rows_per_second"] == pytest.approx(8 * result["calls_per_second"])
    lossd.wait_until_idle()
    assert lossd.metric('lossd_rows_total{loss="cross_entropy"}') == 41 * 8  # the first answer was looked at


def test_unix_socket(start_lossd, tmp_path):
    lossd = start_lossd(f"--grpc_listen=unix:{tmp_path}/socket")
    assert bench_json(lossd.grpc, *SMALL, "--count=3")["answered"] == 3


@pytest.mark.parametrize("data_type, bytes_each", [("float64", 8), ("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_types(lossd, data_type, bytes_each):
    result = bench_json(lossd.grpc, *SMALL, "--count=1", f"--data_type={data_type}", "--generate=64x100")
    assert 0 <= result["request_bytes"] - 64 * 100 * bytes_each - 64 * 8 < 100


def test_refusals_are_counted(start_lossd):
    """With no room for two at once, some are refused, each with a time to retry."""
    lossd = start_lossd("--max_message_bytes=4200000", "--memory_budget_bytes=12000000")
    result = bench_json(lossd.grpc, "--generate=1024x1000", "--outputs=logits_gradient", "--concurrency=8",
                        "--duration=1s")
    assert result["answered"] > 0 and set(result["errors"]) <= {"RESOURCE_EXHAUSTED"}
    assert result["errors_with_pushback"] == sum(result["errors"].values())


def test_text(lossd):
    run = bench(lossd.grpc, *SMALL, "--count=5")
    assert run.returncode == 0
    assert re.search(r"^answered +5 of \d+ bytes", run.stdout, re.M) and "p99.9" in run.stdout


@pytest.mark.parametrize("flags, exit_code, words", [
    (("--generate=8x10", "--outputs=targets_gradient"), 1, "INVALID_ARGUMENT"),
    (("--generate=8x10", "--calls=both"), 2, "unary, stream"),
    (("--generate=8x10", "--concurrency=2", "--rate=3"), 2, "either --concurrency or --rate"),
    (("--count=1",), 2, "--generate"),
    (("--generate=8x10", "--data_type=int8"), 2, "--data_type"),
])
def test_failures_have_a_sentence(lossd, flags, exit_code, words):
    run = bench(lossd.grpc, *flags)
    assert run.returncode == exit_code and run.stdout == ""
    assert len(run.stderr.splitlines()) == 1 and words in run.stderr
