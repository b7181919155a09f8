"""PyTorch as its users run it: pytorch_peer.py THREADS, started by bench/peers/python_peer.cc.

Reads commands from standard input, one a line, and answers each but `tensor` with a line:
  ready?                                          "yes"
  tensor ID TYPE D0,D1,..                         followed by the bytes of its elements
  problem ID LOSS SMOOTHING forward|backward LOGITS TARGETS PROBABILITIES WEIGHTS
                                                  (IDs of tensors, or -) the loss
  run ID CALLS                                    the seconds that so many calls took
  forget                                          "ok", without any tensor
"""

import sys
import time
import warnings

import torch
import torch.nn.functional as F

tensors = {}
problems = {}


def read_tensor(name, type_name, shape):
    shape = [int(dim) for dim in shape.split(",")]
    tensor = torch.empty(shape, dtype=getattr(torch, type_name))
    # NumPy has no bfloat16; bytes are bytes.
    memory = memoryview(tensor.view(-1).view(torch.uint8).numpy()).cast("B")
    read = 0
    while read < len(memory):
        got = sys.stdin.buffer.readinto(memory[read:])
        if not got:
            sys.exit("pytorch_peer.py: the tensor ended early")
        read += got
    tensors[name] = tensor


def loss_of(loss, smoothing, logits, targets, probabilities, weights):
    """The mean loss as a user of PyTorch would write it."""
    # PyTorch 1.13 has no softmax of float16 on CPUs: its users convert.
    x = logits.float() if logits.dtype == torch.float16 else logits
    if loss == "kl_divergence":
        return F.kl_div(x, targets, reduction="mean")
    if loss == "binary_cross_entropy":
        return F.binary_cross_entropy_with_logits(x, targets)
    if loss == "negative_log_likelihood":
        return F.nll_loss(x, targets)
    if probabilities is not None:
        return -(F.log_softmax(x, 1).gather(1, targets) * probabilities).sum(1).mean()
    return F.cross_entropy(x, targets, weight=weights, label_smoothing=smoothing)


def add_problem(name, loss, smoothing, direction, *ids):
    logits, *others = [tensors.get(tensor) for tensor in ids]
    backward = direction == "backward"
    x = logits.detach().requires_grad_(backward)

    def call():
        with torch.set_grad_enabled(backward):
            value = loss_of(loss, float(smoothing), x, *others)
            if backward:
                value.backward()
        return value.item()

    problems[name] = (x, call)
    value = call()
    x.grad = None
    return value


def run(name, calls):
    x, call = problems[name]
    seconds = 0.0
    for _ in range(int(calls)):
        start = time.perf_counter()
        call()
        seconds += time.perf_counter() - start
        x.grad = None  # not timed
    return seconds


def forget():
    tensors.clear()
    problems.clear()
    return "ok"


def main():
    warnings.simplefilter("ignore")  # of the mean of KL divergence, which others mean differently
    torch.set_num_threads(int(sys.argv[1]))
    commands = {"ready?": lambda: "yes", "tensor": read_tensor, "problem": add_problem, "run": run,
                "forget": forget}
    while line := sys.stdin.buffer.readline():
        command, *arguments = line.decode().split()
        answer = commands[command](*arguments)
        if answer is not None:
            print(answer, flush=True)


main()
