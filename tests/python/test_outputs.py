"""What comes beside the loss, and losses of batches that are parts of a larger one."""

import numpy as np
import pytest
import torch

import pytorch
from lossd.v1 import loss_pb2 as pb
from pytorch import REDUCTIONS
from tensors import make_request, to_array

ROWS, CLASSES = 64, 10


@pytest.fixture
def batch():
    random = np.random.default_rng(7)
    logits = random.normal(scale=2, size=(ROWS, CLASSES))
    targets = random.integers(CLASSES, size=ROWS)
    targets[::5] = -100
    return logits, targets, random.uniform(0.5, 2, CLASSES)


# ---- parts of a batch ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-6), ("float64", 1e-12)])
@pytest.mark.parametrize("cuts", [[32], [1, 2, 40], [13, 26, 39, 52], list(range(1, ROWS))], ids=len)
def test_normalizer_makes_chunks_add_up(lossd, batch, dtype, tolerance, cuts):
    logits, targets, weights = batch
    logits = logits.astype(dtype)
    whole = lossd.evaluate(make_request(logits, targets, class_weights=weights, label_smoothing=0.1))
    parts = [lossd.evaluate(make_request(x, y, class_weights=weights, label_smoothing=0.1,
                                         normalizer=whole.summary.weight_sum))
             for x, y in zip(np.split(logits, cuts), np.split(targets, cuts))]
    np.testing.assert_allclose(sum(to_array(part.loss) for part in parts), to_array(whole.loss), rtol=tolerance)
    assert b"".join(part.logits_gradient.raw for part in parts) == whole.logits_gradient.raw
    assert sum(part.summary.weight_sum for part in parts) == pytest.approx(whole.summary.weight_sum, rel=1e-14)


def test_normalizer_divides_the_sum(lossd, batch):
    logits, targets, _ = batch
    total = to_array(lossd.evaluate(make_request(logits, targets, reduction=pb.REDUCTION_SUM)).loss)
    part = to_array(lossd.evaluate(make_request(logits, targets, normalizer=0.25)).loss)
    assert part == total / 0.25


# ---- sample weights --------------------------------------------------------------------------------------------------


def weighted_cross_entropy(logits, targets, class_weights, sample_weights, smoothing, reduction):
    """semantics.md, written out. `targets`: int64 indices, or probabilities."""
    num_classes = logits.shape[-1]
    surprise = -torch.log_softmax(logits, -1) * class_weights
    if targets.is_floating_point():
        element = ((1 - smoothing) * targets + smoothing / num_classes).mul(surprise).sum(-1)
        denominator = sample_weights.sum()
    else:
        element = (1 - smoothing) * surprise.gather(-1, targets[:, None])[:, 0] + smoothing * surprise.mean(-1)
        denominator = (class_weights[targets] * sample_weights).sum()
    element = element * sample_weights
    return {"none": element, "sum": element.sum(), "mean": element.sum() / denominator}[reduction]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0, 0.1, 1])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_sample_weights(lossd, batch, reduction, smoothing, kind):
    logits, _, class_weights = batch
    random = np.random.default_rng(8)
    sample_weights = random.uniform(0, 2, ROWS) * (random.uniform(size=ROWS) > 0.2)
    targets = random.integers(CLASSES, size=ROWS) if kind == "indices" else random.dirichlet(np.ones(CLASSES), ROWS)

    x = torch.tensor(logits, requires_grad=True)
    want = weighted_cross_entropy(x, *map(torch.tensor, (targets, class_weights, sample_weights)), smoothing, reduction)
    want.sum().backward()
    response = lossd.evaluate(make_request(logits, targets, class_weights=class_weights, sample_weights=sample_weights,
                                           label_smoothing=smoothing, reduction=REDUCTIONS[reduction]))
    np.testing.assert_allclose(to_array(response.loss), want.detach(), rtol=1e-12)
    np.testing.assert_allclose(to_array(response.logits_gradient), x.grad, atol=1e-12)
    assert response.summary.ignored_count == (sample_weights == 0).sum()


# ---- outputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_element_loss_is_what_none_returns(lossd, batch, reduction):
    logits, targets, weights = batch
    reduced = lossd.evaluate(make_request(logits, targets, class_weights=weights, reduction=REDUCTIONS[reduction],
                                          outputs=[pb.OUTPUT_ELEMENT_LOSS]))
    none = lossd.evaluate(make_request(logits, targets, class_weights=weights, reduction=pb.REDUCTION_NONE, outputs=[]))
    assert reduced.element_loss == none.loss
    assert not reduced.HasField("logits_gradient") and not none.HasField("element_loss")


@pytest.mark.parametrize("shape, class_axis", [((7,), 0), ((9, 7), 1), ((4, 7, 3), 1), ((4, 3, 7), -1)])
def test_predicted_class_and_correct_count(lossd, shape, class_axis):
    random = np.random.default_rng(9)
    logits = random.integers(4, size=shape).astype(np.float32)  # full of ties, which go to the lowest index
    predicted = logits.argmax(axis=class_axis)
    targets = np.where(random.uniform(size=predicted.shape) < 0.5, predicted, 0)
    response = lossd.evaluate(make_request(logits, targets, class_axis=class_axis, ignore_index=0,
                                           outputs=[pb.OUTPUT_PREDICTED_CLASS]))
    assert response.predicted_class.data_type == pb.DATA_TYPE_INT64
    np.testing.assert_array_equal(to_array(response.predicted_class), predicted)
    assert response.summary.correct_count == ((predicted == targets) & (targets != 0)).sum()


def test_predicted_class_of_rows_that_are_not_finite(lossd):
    logits = np.array([[0, np.nan, 9], [0, np.inf, 9], [-np.inf, -np.inf, 0], [-np.inf] * 3], np.float32)
    response = lossd.evaluate(make_request(logits, np.array([1, 1, 2, -100]), outputs=[pb.OUTPUT_PREDICTED_CLASS]))
    np.testing.assert_array_equal(to_array(response.predicted_class), [-1, 1, 2, 0])
    assert response.summary.correct_count == 2


def test_correct_count_only_when_asked(lossd, batch):
    logits, targets, _ = batch
    assert not lossd.evaluate(make_request(logits, targets)).summary.HasField("correct_count")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_summary(lossd, batch, dtype):
    logits, targets, weights = batch
    logits = logits.astype(dtype)
    logits[1] = np.nan
    summary = lossd.evaluate(make_request(logits, targets, class_weights=weights)).summary
    live = targets != -100
    assert np.isnan(summary.loss_sum)
    assert summary.weight_sum == pytest.approx(weights[targets[live]].sum(), rel=1e-14)
    assert (summary.element_count, summary.ignored_count, summary.nonfinite_count) == (ROWS, (~live).sum(), 1)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_loss_sum_is_the_sum_whatever_the_reduction(lossd, batch, reduction):
    logits, targets, _ = batch
    want, _ = pytorch.cross_entropy(logits, targets, class_axis=1, reduction="sum")
    summary = lossd.evaluate(make_request(logits, targets, reduction=REDUCTIONS[reduction])).summary
    assert summary.loss_sum == pytest.approx(want, rel=1e-12)


def test_job_metrics(lossd, batch):
    logits, targets, _ = batch
    response = lossd.evaluate(make_request(logits.astype(np.float32), targets, job="outputs", step=17,
                                           outputs=[pb.OUTPUT_PREDICTED_CLASS]))
    live = response.summary.element_count - response.summary.ignored_count
    wanted = {"loss": to_array(response.loss), "step": 17, "rows_total": ROWS, "nonfinite_total": 0,
              "accuracy": response.summary.correct_count / live}
    for name, value in wanted.items():
        assert lossd.metric(f'lossd_job_{name}{{job="outputs"}}') == pytest.approx(value, rel=1e-12), name
