"""A lossd process: started on ports of the system's choice, asked, stopped."""

import http.client
import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections import namedtuple

import grpc
import numpy as np

from lossd.v1 import loss_pb2 as pb
from lossd.v1 import loss_pb2_grpc
from stubs import ROOT
from tensors import make_request

BINARY = ROOT / os.environ.get("LOSSD_BINARY", "build/release/bin/lossd")
METHOD = "/lossd.v1.LossService/Evaluate"
PATIENCE_SECONDS = 120  # for what takes milliseconds on a machine that is not busy

CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a connection of its own for each channel
)

Page = namedtuple("Page", "status headers body")


def wait_until(condition, seconds=PATIENCE_SECONDS):
    """Asks until the answer is true, and returns it."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.01)
    return answer


def open_channel(address, *options):
    return grpc.insecure_channel(address, options=CHANNEL_OPTIONS + options)


def run_lossd(*flags, **environment):
    """Runs lossd to its end; for starts that fail."""
    return subprocess.run([BINARY, *flags], env={**os.environ, **environment}, text=True, capture_output=True,
                          timeout=PATIENCE_SECONDS)


class Lossd:
    """`with Lossd("--threads=1") as lossd:` serves inside, and has drained and left with exit code 0 after it."""

    def __init__(self, *flags, **environment):
        self.flags = ["--grpc_listen=127.0.0.1:0", "--http_listen=127.0.0.1:0", *flags]
        self.environment = {**os.environ, **environment}

    def __enter__(self):
        self._log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([BINARY, *self.flags], env=self.environment, stdout=subprocess.PIPE,
                                        stderr=self._log)
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_SECONDS)
        line = self.process.stdout.readline().decode() if ready else ""
        match = re.fullmatch(r"lossd ready grpc=(\S+) http=(\S+)\n", line)
        if not match:
            self.process.kill()
            raise AssertionError(f"no ready line but {line!r}; log: {self.log()}")
        self.grpc, self.http = match.groups()
        self.channel = open_channel(self.grpc)
        self.stub = loss_pb2_grpc.LossServiceStub(self.channel)
        return self

    def __exit__(self, *_):
        exit_code, log = self.stop(), self.log()
        self.channel.close()
        self.process.stdout.close()
        self._log.close()
        assert exit_code == 0, log

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def stop(self):
        """SIGTERM, if it still runs; returns the exit code."""
        if self.process.poll() is None:
            self.terminate()
        try:
            return self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def log(self):
        """What it wrote to standard error so far."""
        return os.pread(self._log.fileno(), 1 << 24, 0).decode()

    def evaluate(self, request, timeout=PATIENCE_SECONDS):
        return self.stub.Evaluate(request, timeout=timeout)

    def evaluate_once(self, job="digits"):
        """One batch of eight rows and ten classes, of a training job."""
        logits = np.linspace(-1, 1, 80, dtype=np.float32).reshape(8, 10)
        return self.evaluate(make_request(logits, np.arange(8), job=job, step=1, outputs=[
            pb.OUTPUT_LOGITS_GRADIENT, pb.OUTPUT_PREDICTED_CLASS]))

    def get(self, path, method="GET"):
        """One request to the HTTP port."""
        connection = http.client.HTTPConnection(self.http, timeout=PATIENCE_SECONDS)
        connection.request(method, path)
        answer = connection.getresponse()
        page = Page(answer.status, answer.headers, answer.read().decode())
        connection.close()
        return page

    def metric(self, series):
        """The value of one series on /metrics, labels and all."""
        (value,) = re.findall(rf"^{re.escape(series)} (\S+)$", self.get("/metrics").body, re.M)
        return float(value)

    def wait_until_idle(self):
        wait_until(lambda: self.metric("lossd_inflight_requests") == 0 and self.metric("lossd_inflight_bytes") == 0)
