#!/usr/bin/python3
"""What lossd does under more load than it can carry: faults.md, 32 and 33, in figures.

    bench/overload.py                     # both, against a server of its own
    bench/overload.py --burst 200 --megabytes 32 --budget 512
    bench/overload.py --load --seconds 5

--burst: so many clients send a batch of so many MB at once, and come back as they are told until all are answered.
--load: lossctl bench with 1 MB batches without a gradient. First closed loops, for the peak of goodput; then ten times
as many, which come back when they are told to, as the client library does; then loops and arrivals that know no
waiting. Client and server share the machine: a refusal costs the client as much as the server.
"""

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "python"))
import stubs  # noqa: E402

LOSSCTL = Path(__file__).parents[1] / "build/release/bin/lossctl"
MEGABYTE = 1 << 20
PUSHBACK = "grpc-retry-pushback-ms"


def resident(process):
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())[1]) >> 10


def batch(megabytes, gradient):
    import numpy as np
    from lossd.v1 import loss_pb2 as pb
    from tensors import make_request
    rows = megabytes * MEGABYTE // 4000
    return make_request(np.zeros((rows, 1000), np.float32), np.zeros(rows, np.int16),
                        outputs=[pb.OUTPUT_LOGITS_GRADIENT] if gradient else []).SerializeToString()


def burst(clients, megabytes, budget, declared):
    import grpc
    from process import METHOD, Lossd, open_channel
    request, codes = batch(megabytes, True), []
    metadata = [("lossd-request-bytes", str(len(request)))] if declared else []
    with Lossd(f"--memory_budget_bytes={budget * MEGABYTE}") as server:
        server.evaluate_once()
        idle, peak, stop = resident(server.process), [0], threading.Event()

        def watch():
            while not stop.wait(0.005):
                peak[0] = max(peak[0], resident(server.process))

        def client(i):
            evaluate = channels[i % len(channels)].unary_unary(METHOD)
            while True:
                try:
                    evaluate(request, timeout=300, metadata=metadata)
                    return codes.append("OK")
                except grpc.RpcError as error:
                    pushback = dict(error.trailing_metadata() or ()).get(PUSHBACK)
                    codes.append(error.code().name + ("" if pushback else " without pushback"))
                    time.sleep(int(pushback or 100) / 1000)

        watcher = threading.Thread(target=watch)
        watcher.start()
        channels, begin = [open_channel(server.grpc) for _ in range(16)], time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            list(pool.map(client, range(clients)))
        seconds = time.monotonic() - begin
        stop.set()
        watcher.join()
        for channel in channels:
            channel.close()
    counts = {code: codes.count(code) for code in sorted(set(codes))}
    print(f"burst of {clients} x {megabytes} MB, {'declared' if declared else 'not declared'}: {seconds:.1f} s, "
          f"{counts}, resident {idle} -> {peak[0]} MB at most (1.25 x budget + 100 = {budget * 5 // 4 + 100})",
          flush=True)


def measure(server, *flags):
    """One run of lossctl bench, as a line. Returns its goodput."""
    run = subprocess.run([LOSSCTL, "bench", f"--target={server.grpc}", "--generate=262x1000", "--warmup=500ms",
                          "--json", *flags], check=True, capture_output=True, text=True, timeout=120)
    got = json.loads(run.stdout)
    answered, refused = ({part: 1000 * seconds for part, seconds in got[name].items()}
                         for name in ("latency_seconds", "error_latency_seconds"))
    errors = sum(got["errors"].values())
    print(f"{' '.join(flags):60} {got['calls_per_second']:7.1f} calls/s, p50 {answered['p50']:.1f} p99 "
          f"{answered['p99']:.1f} ms; refused {errors}, p50 {refused['p50']:.1f} p99 {refused['p99']:.1f} ms; "
          f"not told to retry {errors - got['errors_with_pushback']}", flush=True)
    return got["calls_per_second"]


def load(seconds):
    from process import Lossd
    with Lossd(f"--max_message_bytes={4 * MEGABYTE}", f"--memory_budget_bytes={32 * MEGABYTE}") as server:
        duration = f"--duration={seconds}s"
        peak, loops = max((measure(server, f"--concurrency={loops}", duration), loops) for loops in (1, 2, 4, 8))
        many = f"--concurrency={10 * loops}", "--channels=4", duration
        polite, closed = measure(server, *many, "--honor_pushback"), measure(server, *many)
        opened = measure(server, f"--rate={10 * peak:.0f}", "--channels=4", duration)
        print(f"of the peak at {loops} loops: {polite / peak:.2f} with ten times the loops, {closed / peak:.2f} if they do "
              f"not wait when refused, {opened / peak:.2f} with ten times the arrivals")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--burst", type=int, default=0, metavar="CLIENTS")
    parser.add_argument("--megabytes", type=int, default=32)
    parser.add_argument("--budget", type=int, default=512)
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    everything = not options.burst and not options.load
    with stubs.generate():
        if options.burst or everything:
            for declared in (True, False):
                burst(options.burst or 200, options.megabytes, options.budget, declared)
        if options.load or everything:
            load(options.seconds)


if __name__ == "__main__":
    main()
