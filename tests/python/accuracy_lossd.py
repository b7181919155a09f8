"""lossd's answers to a Batch: the ways in which a case asks."""

from dataclasses import dataclass, field, replace

import grpc
import numpy as np

from lossd.v1 import loss_pb2 as pb
from pytorch import REDUCTIONS
from tensors import float_tensor, make_request, to_array, type_name


@dataclass
class Answer:
    """Values by name and their types; or the error that came instead, or what came in words."""

    values: dict = field(default_factory=dict)
    dtypes: dict = field(default_factory=dict)
    error: str = ""
    words: str = ""


def request_of(batch, normalizer=None):
    outputs = [pb.Output.Value("OUTPUT_" + name.upper()) for name in batch.asks if name != "loss"]
    options = {"label_smoothing": batch.label_smoothing} if batch.loss == "cross_entropy" else {}
    if batch.targets.dtype.kind != "f":
        options["ignore_index"] = batch.ignore_index
    return make_request(
        float_tensor(batch.logits, batch.dtype), batch.targets, loss=batch.loss, reduction=REDUCTIONS[batch.reduction],
        normalizer=normalizer, outputs=outputs, class_weights=batch.class_weights,
        target_probabilities=batch.target_probabilities, upstream_gradient=batch.upstream_gradient, **options)


def answer_of(server, request, names):
    try:
        response = server.evaluate(request)
    except grpc.RpcError as error:
        return Answer(error=f"{error.code().name}: {error.details()}")
    tensors = {name: getattr(response, name) for name in names}
    return Answer({name: to_array(tensor) for name, tensor in tensors.items()},
                  {name: type_name(tensor) for name, tensor in tensors.items()})


def ask(server, batch):
    return answer_of(server, request_of(batch), batch.asks)


def ask_twice(server, batch):
    """The answer to a request that was answered before."""
    request = request_of(batch)
    sent = request.SerializeToString(deterministic=True)
    answer_of(server, request, batch.asks)
    assert request.SerializeToString(deterministic=True) == sent
    return answer_of(server, request, batch.asks)


def chunks(batch, sizes):
    """The batch in consecutive parts of these many rows."""
    cuts = np.cumsum(sizes)[:-1]
    return [replace(batch, logits=x, targets=y)
            for x, y in zip(np.split(batch.logits, cuts), np.split(batch.targets, cuts))]


def ask_in_chunks(sizes):
    """Each micro-batch by itself, with the whole batch's count as the normalizer; the losses add up."""

    def ask_chunks(server, batch):
        live = int((batch.targets != batch.ignore_index).sum())
        parts = [answer_of(server, request_of(part, normalizer=live), batch.asks) for part in chunks(batch, sizes)]
        values = {"loss": np.sum([part.values["loss"] for part in parts], dtype=np.float64),
                  "logits_gradient": np.concatenate([part.values["logits_gradient"] for part in parts])}
        return Answer(values, parts[0].dtypes)

    return ask_chunks


def rearrangements(batch):
    """(rows of the whole, batch of those rows): reversed, in chunks of 7, and one by one."""
    everything = np.arange(len(batch.logits))
    parts = [everything[::-1], *np.array_split(everything, len(everything) // 7), *everything.reshape(-1, 1)]
    return [(rows, replace(batch, logits=batch.logits[rows], targets=batch.targets[rows])) for rows in parts]


def transposed(batch):
    """(N, C) as (1, C, N): the same rows, their classes N apart."""
    return replace(batch, logits=np.ascontiguousarray(batch.logits.T[None]), targets=batch.targets[None])


def num_differing(one, other):
    return int((one.view(np.uint8) != other.view(np.uint8)).reshape(*one.shape, -1).any(axis=-1).sum())


def count_differing(evaluate, batch, arrangement):
    """How many losses and gradient entries have other bits when the same rows come in another way."""
    whole = evaluate(batch).values
    if arrangement == "transposed":
        other = evaluate(transposed(batch)).values
        pairs = [(whole["loss"], other["loss"][0]), (whole["logits_gradient"], other["logits_gradient"][0].T)]
    else:
        pairs = [(whole[name][rows], evaluate(part).values[name])
                 for rows, part in rearrangements(batch) for name in batch.asks]
    count = sum(num_differing(np.ascontiguousarray(a), np.ascontiguousarray(b)) for a, b in pairs)
    return Answer({"differing_numbers": np.float64(count)}, {"differing_numbers": "float64"})


def ask_rearranged(arrangement):
    return lambda server, batch: count_differing(lambda part: ask(server, part), batch, arrangement)


def ask_of_shape(shape):
    """Logits that claim a shape and hold nothing."""

    def ask_shape(server, _):
        request = pb.EvaluateRequest(targets=pb.Tensor(data_type=pb.DATA_TYPE_INT64, shape=shape[:1]),
                                     logits=pb.Tensor(data_type=pb.DATA_TYPE_FLOAT16, shape=shape, raw=b""))
        return answer_of(server, request, ("loss",))

    return ask_shape
