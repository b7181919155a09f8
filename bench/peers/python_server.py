"""What a user would write otherwise: lossd's contract in a few lines of Python, with gRPC's thread pool and PyTorch.

python_server.py [--grpc_listen=127.0.0.1:0] [--threads=N]; prints "python ready grpc=ADDRESS" once it serves, and ends
with SIGTERM. Cross-entropy of class indices with its gradient, as torch.nn.functional.cross_entropy has it: reductions
mean, sum and none, label smoothing, class weights, ignore_index; float32 and float64 logits, int64 targets, classes on
axis 1. The rest is UNIMPLEMENTED. A test compares it with lossd, answer by answer.
"""

import argparse
import concurrent.futures
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import grpc
import numpy as np
import torch
import torch.nn.functional as F

ROOT = Path(__file__).resolve().parents[2]
IGNORE_INDEX = -100

with tempfile.TemporaryDirectory() as stubs:  # as README.md shows
    subprocess.run(["protoc", f"-I{ROOT / 'proto'}", f"--python_out={stubs}", f"--grpc_out={stubs}",
                    "--plugin=protoc-gen-grpc=/usr/bin/grpc_python_plugin", "lossd/v1/loss.proto"], check=True)
    sys.path.insert(0, stubs)
    from lossd.v1 import loss_pb2 as pb
    from lossd.v1 import loss_pb2_grpc

DTYPES = {pb.DATA_TYPE_FLOAT32: "<f4", pb.DATA_TYPE_FLOAT64: "<f8", pb.DATA_TYPE_INT64: "<i8"}
REDUCTIONS = {pb.REDUCTION_MEAN: "mean", pb.REDUCTION_SUM: "sum", pb.REDUCTION_NONE: "none"}
INPUTS = {"class_weights", "targets", "logits"}


class Refusal(Exception):
    """Status code and message."""


def invalid(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, message)


def unimplemented(message: str) -> Refusal:
    return Refusal(grpc.StatusCode.UNIMPLEMENTED, message)


def to_torch(tensor: pb.Tensor, name: str) -> torch.Tensor:
    """Shares the message's memory."""
    if tensor.data_type not in DTYPES:
        raise unimplemented(f"{name}: type {tensor.data_type}")
    array = np.frombuffer(tensor.raw, DTYPES[tensor.data_type])
    if array.size != np.prod(tensor.shape, dtype=object):
        raise invalid(f"{name}: {array.size} elements do not fill the shape {list(tensor.shape)}")
    return torch.from_numpy(array).reshape(tuple(tensor.shape))


def to_tensor(values: torch.Tensor) -> pb.Tensor:
    data_type = pb.DATA_TYPE_FLOAT64 if values.dtype == torch.float64 else pb.DATA_TYPE_FLOAT32
    return pb.Tensor(data_type=data_type, shape=values.shape, raw=values.detach().numpy().tobytes())


def check(request: pb.EvaluateRequest) -> None:
    """Refuses what this peer does not know, by the fields that are set."""
    inputs = {field.name for field, _ in request.ListFields() if field.message_type is pb.Tensor.DESCRIPTOR}
    spec = {field.name for field, _ in request.loss.ListFields()}
    options = {field.name for field, _ in request.loss.cross_entropy.ListFields()}
    unknown = (inputs - INPUTS) | (spec - {"cross_entropy", "reduction"})
    unknown |= options - {"label_smoothing", "ignore_index"}
    unknown |= {f"output {output}" for output in request.outputs if output != pb.OUTPUT_LOGITS_GRADIENT}
    if request.gradient_type not in (pb.DATA_TYPE_UNSPECIFIED, request.logits.data_type):
        unknown.add("gradient_type")
    if request.loss.reduction not in REDUCTIONS:
        unknown.add("reduction")
    if unknown:
        raise unimplemented(f"not in this peer: {', '.join(sorted(unknown))}")


def evaluate(request: pb.EvaluateRequest) -> pb.EvaluateResponse:
    check(request)
    options = request.loss.cross_entropy
    ignore_index = options.ignore_index if options.HasField("ignore_index") else IGNORE_INDEX
    with_gradient = pb.OUTPUT_LOGITS_GRADIENT in request.outputs
    logits = to_torch(request.logits, "logits").requires_grad_(with_gradient)
    targets = to_torch(request.targets, "targets")
    weights = to_torch(request.class_weights, "class_weights") if request.HasField("class_weights") else None
    try:
        loss = F.cross_entropy(logits, targets, weight=weights, ignore_index=ignore_index,
                               reduction=REDUCTIONS[request.loss.reduction], label_smoothing=options.label_smoothing)
        if with_gradient:
            loss.backward(torch.ones_like(loss))
    except (IndexError, RuntimeError, ValueError) as error:  # PyTorch's words for a wrong shape, type or target
        raise invalid(str(error)) from error
    response = pb.EvaluateResponse(loss=to_tensor(loss))
    response.summary.element_count = targets.numel()
    response.summary.ignored_count = int((targets == ignore_index).sum())
    if with_gradient:
        response.logits_gradient.CopyFrom(to_tensor(logits.grad))
    return response


class Service(loss_pb2_grpc.LossServiceServicer):
    def Evaluate(self, request, context):
        try:
            return evaluate(request)
        except Refusal as refusal:
            context.abort(*refusal.args)

    def EvaluateStream(self, request_iterator, context):
        for item in request_iterator:
            try:
                yield pb.EvaluateStreamResponse(sequence=item.sequence, response=evaluate(item.request))
            except Refusal as refusal:
                code, message = refusal.args
                error = pb.EvaluateStreamResponse.Error(code=code.value[0], message=message)
                yield pb.EvaluateStreamResponse(sequence=item.sequence, error=error)


def main() -> None:
    parser = argparse.ArgumentParser(description="lossd's contract in Python, with PyTorch")
    parser.add_argument("--grpc_listen", default="127.0.0.1:0")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of gRPC's pool; PyTorch has its own")
    arguments = parser.parse_args()

    warnings.simplefilter("ignore")  # that a message's bytes are not writable: nobody writes to them
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(arguments.threads), options=(
        ("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)))
    loss_pb2_grpc.add_LossServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port(arguments.grpc_listen)
    server.start()
    host = arguments.grpc_listen.rpartition(":")[0]
    address = arguments.grpc_listen if host == "unix" else f"{host}:{port}"
    print(f"python ready grpc={address}", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop(None).wait()


if __name__ == "__main__":
    main()
