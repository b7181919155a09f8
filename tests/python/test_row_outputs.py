"""What a row has beside its loss, against PyTorch's float64, for every logits type, layout and modifier."""

import numpy as np
import pytest
import torch

from cases import generator, product
from formulas import BITS, modified
from lossd.v1 import loss_pb2 as pb
from pytorch import to_torch
from tensors import FLOATS, float_tensor, make_request, to_array
from tolerance import assert_close, loss_type

LAYOUTS = [((10,), 0), ((6, 10), 1), ((3, 10, 5), 1), ((2, 3, 10), -1), ((10, 2, 3), 0), ((2, 3, 10, 2), -2),
           ((4, 1), 1), ((2, 1000), 1)]
MODIFIERS = [dict(), dict(temperature=0.5), dict(softcap=5.0), dict(temperature=3.0, softcap=2.0)]
ALL = [output for output in pb.Output.values() if output not in (pb.OUTPUT_UNSPECIFIED, pb.OUTPUT_TARGETS_GRADIENT)]
OF_TARGETS = (pb.OUTPUT_TARGET_LOG_PROBABILITY, pb.OUTPUT_ELEMENT_LOSS, pb.OUTPUT_LOGITS_GRADIENT)
FIELDS = {output: pb.Output.Name(output).removeprefix("OUTPUT_").lower() for output in ALL}


def make_targets(random, kind, shape, axis):
    element_shape = tuple(np.delete(shape, axis))
    if kind == "probabilities":
        return dict(targets=random.uniform(size=shape))
    if kind == "sparse":
        return dict(targets=random.integers(shape[axis], size=(*element_shape, 2)),
                    target_probabilities=np.ones((*element_shape, 2)))
    targets = np.asarray(random.integers(shape[axis], size=element_shape))
    targets.flat[1::4] = -100  # rows that are read all the same
    return dict(targets=targets)


@product(dtype=FLOATS, layout=LAYOUTS, modifiers=MODIFIERS, kind=("indices", "probabilities", "sparse"),
         unit=(pb.INFORMATION_UNIT_NATS, pb.INFORMATION_UNIT_BITS))
def test_against_pytorch(lossd, case):
    random, (shape, axis) = generator(case), case["layout"]
    logits = float_tensor(random.normal(scale=4, size=shape), case["dtype"])
    given = make_targets(random, case["kind"], shape, axis)
    outputs = [output for output in ALL if output != pb.OUTPUT_TARGET_LOG_PROBABILITY or case["kind"] == "indices"]
    response = lossd.evaluate(make_request(logits, **given, class_axis=axis, unit=case["unit"], outputs=outputs,
                                           label_smoothing=0.1, **case["modifiers"]))

    x = modified(to_torch(logits), **case["modifiers"])
    log_p = torch.log_softmax(x, axis)
    scale = BITS if case["unit"] == pb.INFORMATION_UNIT_BITS else 1
    want = {"log_sum_exp": torch.logsumexp(x, axis), "log_probabilities": log_p, "probabilities": log_p.exp(),
            "entropy": -scale * (log_p.exp() * log_p).sum(axis)}
    if case["kind"] == "indices":
        y = torch.from_numpy(given["targets"])
        of_target = log_p.gather(axis, y.clamp(min=0).unsqueeze(axis)).squeeze(axis)
        want["target_log_probability"] = torch.where(y >= 0, of_target, 0)
    for name, values in want.items():
        assert_close(getattr(response, name), values.numpy(), loss_type(case["dtype"]))
    assert response.predicted_class.data_type == pb.DATA_TYPE_INT64
    # Of the logits as they came: tanh may make equal what was not.
    np.testing.assert_array_equal(to_array(response.predicted_class), to_array(logits).argmax(axis))


@pytest.mark.parametrize("dtype", FLOATS)
def test_each_output_has_the_bits_that_all_have(lossd, dtype):
    random = np.random.default_rng(1)
    logits, targets = float_tensor(random.normal(scale=4, size=(40, 123)), dtype), random.integers(123, size=40)
    together = lossd.evaluate(make_request(logits, targets, outputs=ALL))
    for output, name in FIELDS.items():
        alone = lossd.evaluate(make_request(logits, targets, outputs=[output]))
        assert getattr(alone, name) == getattr(together, name), name
        assert [other for other in FIELDS.values() if alone.HasField(other)] == [name]
        assert alone.loss == together.loss


@pytest.mark.parametrize("dtype", FLOATS)
def test_nothing_of_a_row_depends_on_its_target(lossd, dtype):
    """Nor on its weights: rows that are left out have every output but the target's own."""
    random = np.random.default_rng(2)
    logits, outputs = float_tensor(random.normal(scale=4, size=(8, 10)), dtype), set(ALL) - set(OF_TARGETS)
    live = lossd.evaluate(make_request(logits, random.integers(10, size=8), outputs=outputs))
    ignored = lossd.evaluate(make_request(logits, np.full(8, -100), outputs=outputs))
    weightless = lossd.evaluate(make_request(logits, np.zeros(8, int), sample_weights=np.zeros(8), outputs=outputs))
    for output in outputs:
        name = FIELDS[output]
        assert getattr(live, name) == getattr(ignored, name) == getattr(weightless, name), name


def test_target_log_probability_is_not_weighted(lossd):
    random = np.random.default_rng(3)
    logits, targets = random.normal(size=(6, 4)), np.array([0, 1, 2, 3, -100, 1])
    response = lossd.evaluate(make_request(
        logits, targets, class_weights=np.array([3.0, 0, 2, 5]), sample_weights=np.array([1.0, 2, 3, 4, 5, 0]),
        unit=pb.INFORMATION_UNIT_BITS, z_loss=1.0, outputs=[pb.OUTPUT_TARGET_LOG_PROBABILITY]))
    log_p = torch.log_softmax(torch.tensor(logits), -1).numpy()
    want = [log_p[0, 0], log_p[1, 1], log_p[2, 2], log_p[3, 3], 0, 0]
    assert_close(response.target_log_probability, want, "float64")


@pytest.mark.parametrize("unit, scale", [(pb.INFORMATION_UNIT_NATS, 1), (pb.INFORMATION_UNIT_BITS, BITS)])
def test_kl_is_cross_entropy_less_entropy(lossd, unit, scale):
    """The three quantities of a prediction p and its targets q, each asked for by itself."""
    random = np.random.default_rng(4)
    logits, q = random.normal(size=(5, 7)), random.dirichlet(np.ones(7), 5)
    ask = dict(unit=unit, reduction=pb.REDUCTION_NONE)
    prediction = lossd.evaluate(make_request(logits, q, outputs=[pb.OUTPUT_LOG_PROBABILITIES], **ask))
    targets = lossd.evaluate(make_request(np.log(q), q, outputs=[pb.OUTPUT_ENTROPY], **ask))
    kl = lossd.evaluate(make_request(prediction.log_probabilities, q, loss="kl_divergence", outputs=[], **ask))
    np.testing.assert_allclose(to_array(targets.entropy), -scale * (q * np.log(q)).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(to_array(prediction.loss) - to_array(targets.entropy), to_array(kl.loss).sum(-1),
                               rtol=1e-12)


@pytest.mark.parametrize("dtype", FLOATS)
def test_log_probabilities_have_their_digits(lossd, dtype):
    """Confident rows, gaps of a thousand, and a large common offset."""
    rows = float_tensor([[0, 40, 0], [0, 1000, -1000], [30000, 30000, 30016]], dtype)
    response = lossd.evaluate(make_request(rows, np.array([1, 1, 1]), outputs=[
        pb.OUTPUT_LOG_PROBABILITIES, pb.OUTPUT_TARGET_LOG_PROBABILITY, pb.OUTPUT_ENTROPY]))
    values = to_array(rows).astype(np.float64)
    want = torch.log_softmax(torch.from_numpy(values), -1).numpy()
    want[0, 1], want[1, 1] = -2 * np.exp(-40), 0
    gaps = values[2] - values[2].max()
    want[2] = gaps - np.log(np.exp(gaps).sum())
    np.testing.assert_allclose(to_array(response.log_probabilities), want, rtol=1e-6)
    np.testing.assert_allclose(to_array(response.target_log_probability), want[:, 1], rtol=1e-6)
    np.testing.assert_allclose(to_array(response.entropy), -(np.exp(want) * want).sum(-1), rtol=1e-6)
