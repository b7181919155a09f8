"""Every loss and type: the same bits for any number of threads, and for a row wherever it is; right in many blocks.

Cross-entropy of float32 and float64 is in test_semantics.py too.
"""

import numpy as np
import pytest

from cases import product
from formulas import Batch
from lossd.v1 import loss_pb2 as pb
from tensors import FLOATS, float_tensor, make_request, to_array
from test_modifiers import check

ALL = [output for output in pb.Output.values() if output != pb.OUTPUT_UNSPECIFIED]
BY_ENTRY = ("kl_divergence", "binary_cross_entropy")
EVERYTHING = dict(temperature=0.7, softcap=20.0, z_loss=0.1)
KINDS = {
    "indices": dict(label_smoothing=0.1),
    "focal": dict(focal_gamma=0.5, poly_epsilon=1.0, **EVERYTHING),
    "probabilities": dict(label_smoothing=0.1, **EVERYTHING),
    "sparse": dict(label_smoothing=0.1, **EVERYTHING),
    "negative_log_likelihood": dict(loss="negative_log_likelihood"),
    "kl_divergence": dict(loss="kl_divergence"),
    "binary_cross_entropy": dict(loss="binary_cross_entropy"),
}


def outputs_of(kind):
    """All that the kind has."""
    rows = {pb.OUTPUT_LOG_SUM_EXP, pb.OUTPUT_ENTROPY, pb.OUTPUT_PROBABILITIES, pb.OUTPUT_LOG_PROBABILITIES}
    by_index = kind in ("indices", "focal", "negative_log_likelihood")
    refused = {pb.OUTPUT_TARGETS_GRADIENT} if by_index else {pb.OUTPUT_TARGET_LOG_PROBABILITY}
    if KINDS[kind].get("loss"):
        refused |= rows
    if kind in BY_ENTRY:
        refused.add(pb.OUTPUT_PREDICTED_CLASS)
    return [output for output in ALL if output not in refused]


def make_rows(kind, dtype, num_rows, num_classes):
    """The tensors of a request, each with the rows first, as arrays of values of `dtype`."""
    random = np.random.default_rng(num_rows)

    def floats(values):
        return to_array(float_tensor(values, dtype))

    shape = (num_rows, num_classes)
    rows = dict(logits=floats(random.normal(scale=4, size=shape) - 5),
                sample_weights=floats(random.integers(3, size=shape if kind in BY_ENTRY else num_rows)))
    if kind in BY_ENTRY or kind == "probabilities":
        return dict(rows, targets=floats(random.uniform(size=shape)))
    if kind == "sparse":
        return dict(rows, targets=random.integers(num_classes, size=(num_rows, 4)),
                    target_probabilities=floats(random.normal(size=(num_rows, 4))))
    targets = random.integers(num_classes, size=num_rows)
    targets[2::5] = -100
    return dict(rows, targets=targets)


def answer(server, kind, dtype, rows, reduction):
    """Without what it took."""
    tensors = {name: float_tensor(values, dtype) if values.dtype.kind == "f" else values
               for name, values in rows.items()}
    response = server.evaluate(make_request(**tensors, reduction=reduction, outputs=outputs_of(kind), **KINDS[kind]))
    response.ClearField("timing")
    return response


def answers(server, reduction):
    return [answer(server, kind, dtype, make_rows(kind, dtype, *shape), reduction).SerializeToString(deterministic=True)
            for kind in KINDS for dtype in FLOATS for shape in [(10007, 10), (7, 20011)]]


@pytest.mark.parametrize("reduction", [pb.REDUCTION_MEAN, pb.REDUCTION_NONE])
def test_any_number_of_threads(start_lossd, reduction):
    want = answers(start_lossd("--threads=1"), reduction)
    for threads in (2, 3, 7):
        assert answers(start_lossd(f"--threads={threads}"), reduction) == want, threads


def parts(num_rows):
    """Ways to send the same rows."""
    everywhere = np.arange(num_rows)
    yield from everywhere[:, None][:40]
    yield from np.split(everywhere, range(7, num_rows, 7))
    yield everywhere[::-1]


@product(kind=list(KINDS), dtype=FLOATS, num_classes=(3, 123))
def test_a_row_wherever_it_is(lossd, case):
    """One by one, in chunks of seven, in reverse: every tensor of the answer has the bits it has in the whole."""
    kind, dtype = case["kind"], case["dtype"]
    rows = make_rows(kind, dtype, 200, case["num_classes"])
    whole = answer(lossd, kind, dtype, rows, pb.REDUCTION_NONE)
    fields = [f.name for f in pb.EvaluateResponse.DESCRIPTOR.fields if whole.HasField(f.name) and f.name != "summary"]
    for part in parts(200):
        got = answer(lossd, kind, dtype, {name: values[part] for name, values in rows.items()}, pb.REDUCTION_NONE)
        for name in fields:
            want = to_array(getattr(whole, name))[part]
            assert to_array(getattr(got, name)).tobytes() == want.tobytes(), (name, part)


@product(kind=list(KINDS)[:4], dtype=FLOATS, shape=[(3001, 33), (5, 40009)])
def test_many_blocks_against_the_formula(lossd, case):
    rows = make_rows(case["kind"], case["dtype"], *case["shape"])
    rows = {name: float_tensor(values, case["dtype"]) if values.dtype.kind == "f" else values
            for name, values in rows.items()}
    rows["masses"] = rows.pop("target_probabilities", None)
    check(lossd, Batch(**rows), case["dtype"], reduction="sum", **KINDS[case["kind"]])
