"""Measures lossd over the wire, beside an echo of the same bytes and a Python server with PyTorch; scripts/bench --rpc.

Every server is a process of its own with its defaults, and the client is another one, `lossctl bench`. In each round
every contender of a case takes its turn; medians over the rounds count. How, and why so: bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

BENCH = Path(__file__).resolve().parent
GRADIENT = "--outputs=logits_gradient"
PREFIX = "rpc/"
START_SECONDS = 60


class Unsupported(Exception):
    """The server's build lacks what a case needs."""


# ---- processes -------------------------------------------------------------------------------------------------------


class Server:
    """`with Server("lossd", command) as server:` serves at server.address inside."""

    def __init__(self, name: str, command: list):
        self.name, self.command = name, command

    def __enter__(self) -> Server:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.process.stdout.readline()
        match = re.search(r" ready grpc=(\S+)", line)
        if not match:
            self.process.kill()
            sys.exit(f"rpc.py: {self.name} did not start: {line!r}")
        self.address = match[1]
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.stdout.close()

    def memory_mb(self, key: str) -> float:
        """VmRSS: resident now; VmHWM: the most since reset_peak()."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{key}:\s+(\d+) kB", status, re.M)[1]) * 1024 / 1e6

    def reset_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


class Tools:
    """The binaries of one build, and the servers that can be started from them."""

    def __init__(self, binaries: Path):
        self.binaries = binaries

    def server(self, name: str) -> Server:
        listen = "--grpc_listen=127.0.0.1:0"
        return Server(name, {
            "lossd": [self.binaries / "lossd", listen, "--http_listen=127.0.0.1:0"],
            "echo": [self.binaries / "echo_server", listen],
            "python": ["/usr/bin/python3", BENCH / "peers/python_server.py", listen],
        }[name])

    def load(self, server: Server, *flags: str) -> dict:
        """One run of `lossctl bench`; what it printed. Refusals and drops are no measurement."""
        command = [self.binaries / "lossctl", "bench", f"--target={server.address}", "--json", *flags]
        if server.name == "echo":
            command.append("--raw")
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode != 0 and "UNIMPLEMENTED" in run.stderr:
            raise Unsupported(run.stderr.splitlines()[-1])
        if run.returncode != 0:
            sys.exit(f"rpc.py: {server.name}: {run.stderr}")
        result = json.loads(run.stdout)
        if result["errors"] or result["dropped"]:
            sys.exit(f"rpc.py: {server.name}: {result['errors']}, {result['dropped']} dropped: {run.stdout}")
        return result


# ---- what is measured ------------------------------------------------------------------------------------------------


@dataclass
class Metric:
    unit: str
    read: Callable[[dict], float]  # of what `lossctl bench` printed
    lower_is_better: bool = False

    def ratio(self, own: float, other: float) -> float:
        """How many times as fast lossd is."""
        return other / own if self.lower_is_better else own / other


BANDWIDTH = Metric("GB/s", lambda run: run["sent_gigabytes_per_second"])  # each way
CALLS = Metric("calls/s", lambda run: run["calls_per_second"])
LATENCY = Metric("ms", lambda run: run["latency_seconds"]["p50"] * 1e3, lower_is_better=True)


@dataclass
class Case:
    """lossd and a peer under the same load."""

    what: str
    shape: str
    metric: Metric
    peer: str
    concurrency: int = 1
    flags: tuple = ()

    @property
    def name(self) -> str:
        return f"{PREFIX}{self.what}/float32/{self.shape}/concurrency_{self.concurrency}"


@dataclass
class Entry:
    """One entry of the JSON list."""

    name: str
    value: float
    unit: str
    versus: Optional[str] = None
    versus_value: Optional[float] = None
    ratio: Optional[float] = None

    def as_json(self) -> str:
        rounded = {key: float(f"{value:.6g}") if isinstance(value, float) else value
                   for key, value in self.__dict__.items()}
        return json.dumps(rounded)

    def cells(self) -> list:
        versus = "" if self.versus is None else f"{self.versus} {self.versus_value:.4g} {self.unit}"
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}x"
        return [self.name, f"{self.value:.4g} {self.unit}", versus, ratio]


def cases(quick: bool) -> list:
    large, small = "64x32000" if quick else "1024x32000", "1024x1000"
    return [
        *(Case("unary/gradient", shape, BANDWIDTH, "echo", concurrency)
          for shape in (large, small) for concurrency in (1, 2)),
        Case("unary/gradient", "8x1000", LATENCY, "echo"),
        Case("unary/gradient", "8x1000", CALLS, "echo", 16),
        *(Case("stream/gradient", shape, BANDWIDTH, "echo", concurrency, ("--calls=stream",))
          for shape in (large, small) for concurrency in (2, 4)),
        Case("stream/gradient", "8x1000", CALLS, "echo", 16, ("--calls=stream",)),
        Case("unary/gradient", large, BANDWIDTH, "python"),
        Case("unary/gradient", "8x10", CALLS, "python", 16),
    ]


@dataclass
class Bench:
    tools: Tools
    quick: bool
    filter: re.Pattern
    show: Callable[[str], None]
    entries: list = field(default_factory=list)

    def wants(self, name: str) -> bool:
        return bool(self.filter.search(name))

    @property
    def num_rounds(self) -> int:
        return 1 if self.quick else 7

    def run_cases(self) -> None:
        wanted = [case for case in cases(self.quick) if self.wants(case.name)]
        if not wanted:
            return
        with ExitStack() as stack:
            names = {"lossd", *(case.peer for case in wanted)}
            servers = {name: stack.enter_context(self.tools.server(name)) for name in sorted(names)}
            for number, case in enumerate(wanted, 1):
                try:
                    self.run_case(case, servers, f"[{number}/{len(wanted)}] {case.name} and {case.peer}")
                except Unsupported as reason:
                    self.show(f"{case.name} is left out: {reason}\n")

    def run_case(self, case: Case, servers: dict, title: str) -> None:
        times = ("--warmup=20ms", "--duration=100ms") if self.quick else ("--warmup=200ms", "--duration=1s")
        values = {"lossd": [], case.peer: []}
        for number in range(1, self.num_rounds + 1):
            for name in values:
                self.show(f"{title}: round {number}, {name}")
                run = self.tools.load(servers[name], f"--generate={case.shape}", GRADIENT,
                                      f"--concurrency={case.concurrency}", *times, *case.flags)
                values[name].append(case.metric.read(run))
        own, other = (statistics.median(values[name]) for name in ("lossd", case.peer))
        self.entries.append(Entry(case.name, own, case.metric.unit, case.peer, other, case.metric.ratio(own, other)))

    def run_idle(self) -> None:
        """The first request after a connection was idle."""
        seconds, times = (1, 1) if self.quick else (5, 5)
        name = f"{PREFIX}first_after_{seconds}_idle_seconds/8x1000"
        if not self.wants(name):
            return
        self.show(f"{name}: {seconds * times} s")
        with self.tools.server("lossd") as lossd:
            # The arrival at 0 s is warm-up.
            run = self.tools.load(lossd, "--generate=8x1000", GRADIENT, f"--rate={1 / seconds}", "--warmup=1ms",
                                  f"--count={times}")
        self.entries.append(Entry(name, LATENCY.read(run), "ms"))

    def run_memory(self) -> None:
        """What lossd holds beyond its idle memory: at most during a large call, and some time after a burst of them."""
        shape, wait, burst = ("64x32000", 2, "100ms") if self.quick else ("1024x32000", 60, "5s")
        peak_name = f"{PREFIX}memory/peak_over_idle/unary/gradient/float32/{shape}"
        after_name = f"{PREFIX}memory/{wait}_s_after_a_burst/unary/gradient/float32/{shape}"
        if not (self.wants(peak_name) or self.wants(after_name)):
            return
        request = (f"--generate={shape}", GRADIENT, "--warmup=0s")
        with self.tools.server("lossd") as lossd:
            self.tools.load(lossd, "--generate=8x10", GRADIENT, "--warmup=0s", "--count=1")
            idle = lossd.memory_mb("VmRSS")
            self.show(f"{peak_name}: one call")
            lossd.reset_peak()
            payload = self.tools.load(lossd, *request, "--count=1")["request_bytes"] / 1e6
            peak = lossd.memory_mb("VmHWM") - idle
            self.entries.append(Entry(peak_name, peak, "MB", "payload", payload, peak / payload))
            self.show(f"{after_name}: burst, then {wait} s")
            self.tools.load(lossd, *request, "--concurrency=3", f"--duration={burst}")
            time.sleep(wait)
            self.entries.append(Entry(after_name, lossd.memory_mb("VmRSS") - idle, "MB"))


# ---- results ---------------------------------------------------------------------------------------------------------

TITLES = ["case", "lossd", "versus", "ratio"]
LEGEND = """\
ratio: lossd is so many times as fast as the echo of the same bytes, or as the Python server; of memory: times the
payload. GB/s are each way. TCP's congestion control: {}; BBR paces loopback (docs/operations.md, The network).
"""
CONGESTION_CONTROL = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def as_text(entries: list) -> str:
    rows = [TITLES] + [entry.cells() for entry in entries]
    widths = [max(len(row[i]) for row in rows) for i in range(len(TITLES))]
    lines = []
    for row in rows:
        numbers = "".join("  " + cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))
        lines.append(f"  {row[0].ljust(widths[0])}{numbers}".rstrip())
    return "\n".join(["", "over the wire, client and servers in processes of their own", *lines, "",
                      LEGEND.format(CONGESTION_CONTROL.read_text().strip())])


def as_markdown(entries: list) -> str:
    rows = [f"| {' | '.join(entry.cells())} |" for entry in entries]
    return "\n".join([f"| {' | '.join(TITLES)} |", "|---|--:|--:|--:|", *rows]) + "\n"


def merge_json(path: Path, entries: list) -> None:
    """Puts the entries where those of the last run were, behind the kernels'."""
    kept = json.loads(path.read_text()) if path.exists() else []
    lines = [json.dumps(entry) for entry in kept if not entry["name"].startswith(PREFIX)]
    path.write_text("[\n  " + ",\n  ".join(lines + [entry.as_json() for entry in entries]) + "\n]\n")


class Progress:
    """On standard error: in place on a terminal, else a line whenever a new case begins."""

    def __init__(self):
        self.terminal, self.case = sys.stderr.isatty(), ""

    def show(self, text: str) -> None:
        case = text.partition(": round")[0]
        if self.terminal:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        elif case and case != self.case:
            print(case.rstrip("\n"), file=sys.stderr, flush=True)
        self.case = case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binaries", type=Path, required=True, help="the folder of lossd, lossctl and echo_server")
    parser.add_argument("--quick", action="store_true", help="a smoke run: small shapes, one round, every code path")
    parser.add_argument("--filter", type=re.compile, default=re.compile(""), help="only the cases whose name has a match")
    parser.add_argument("--json", type=Path, help="add the results to the list in this file")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    arguments = parser.parse_args()

    progress = Progress()
    bench = Bench(Tools(arguments.binaries), arguments.quick, arguments.filter, progress.show)
    for run in (bench.run_cases, bench.run_idle, bench.run_memory):
        run()
    progress.show("")
    if not bench.entries:
        print("no case over the wire matches", file=sys.stderr)
        return
    print((as_markdown if arguments.markdown else as_text)(bench.entries), end="")
    if arguments.json:
        merge_json(arguments.json, bench.entries)
        print(f"added to {arguments.json}", file=sys.stderr)


if __name__ == "__main__":
    main()
