"""Rows and entries that count nowhere, batches of none, and batches that are long: for every loss of the family.

Cross-entropy's ignored rows are in test_semantics.py.
"""

import numpy as np
import pytest
import torch.nn.functional as F

from lossd.v1 import loss_pb2 as pb
from pytorch import REDUCTIONS, to_torch
from tensors import FLOATS, float_tensor, make_request, to_array
from tolerance import assert_close, loss_type

INF, NAN = np.inf, np.nan
BOTH_GRADIENTS = [pb.OUTPUT_LOGITS_GRADIENT, pb.OUTPUT_TARGETS_GRADIENT]
LOSSES = ("negative_log_likelihood", "kl_divergence", "binary_cross_entropy")

# ---- what is left out ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_negative_log_likelihood_reads_no_ignored_row(lossd, value, reduction, dtype):
    logits = np.random.default_rng(1).normal(size=(4, 3))
    ask = dict(loss="negative_log_likelihood", reduction=REDUCTIONS[reduction], ignore_index=7)
    clean = lossd.evaluate(make_request(float_tensor(logits, dtype), np.array([0, 7, 2, 7]), **ask))
    logits[[1, 3]] = value
    response = lossd.evaluate(make_request(float_tensor(logits, dtype), np.array([0, 7, 2, 7]), **ask))
    assert response.loss == clean.loss and response.logits_gradient == clean.logits_gradient
    assert np.isfinite(to_array(response.loss)).all()
    assert (response.summary.ignored_count, response.summary.nonfinite_count) == (2, 0)


def test_negative_log_likelihood_of_minus_infinity(lossd):
    logits = np.array([[-INF, 0], [0, -INF], [-INF, -1]])
    response = lossd.evaluate(make_request(logits, np.array([0, 0, 1]), loss="negative_log_likelihood",
                                           reduction=pb.REDUCTION_NONE))
    np.testing.assert_array_equal(to_array(response.loss), [INF, 0, 1])
    np.testing.assert_array_equal(to_array(response.logits_gradient), [[-1, 0], [-1, 0], [0, -1]])
    assert response.summary.nonfinite_count == 1


KINDS = {
    "indices": lambda: dict(targets=np.arange(4) % 3),
    "probabilities": lambda: dict(targets=np.full((4, 3), 0.25)),
    "sparse": lambda: dict(targets=np.zeros((4, 2), int), target_probabilities=np.full((4, 2), 0.5)),
    "focal": lambda: dict(targets=np.arange(4) % 3, focal_gamma=0.5, poly_epsilon=1.0),
    "modified": lambda: dict(targets=np.arange(4) % 3, temperature=0.5, softcap=3.0, z_loss=0.1, label_smoothing=0.1),
    "negative_log_likelihood": lambda: dict(targets=np.arange(4) % 3, loss="negative_log_likelihood"),
    "kl_divergence": lambda: dict(targets=np.full((4, 3), 0.25), loss="kl_divergence"),
    "log_target": lambda: dict(targets=np.full((4, 3), -2.0), loss="kl_divergence", log_target=True),
    "binary_cross_entropy": lambda: dict(targets=np.full((4, 3), 0.25), loss="binary_cross_entropy",
                                         class_weights=np.array([2.0, 1, 1])),
}


def has_targets_gradient(given):
    return "target_probabilities" in given or given["targets"].dtype.kind == "f"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, NAN, INF, -INF])
@pytest.mark.parametrize("dtype", FLOATS)
def test_sample_weight_zero(lossd, kind, value, dtype):
    """Neither its logits nor its targets are read: loss 0, gradients 0, counted as ignored."""
    given = KINDS[kind]()
    by_entry = given.get("loss") in LOSSES[1:]
    logits = np.random.default_rng(2).normal(size=(4, 3))
    logits[[1, 3]] = value
    if given["targets"].dtype.kind == "f":
        given["targets"][[1, 3]] = value
    weights = np.array([1.0, 0, 2, 0])
    outputs = BOTH_GRADIENTS if has_targets_gradient(given) else BOTH_GRADIENTS[:1]
    response = lossd.evaluate(make_request(
        float_tensor(logits, dtype), **given, reduction=pb.REDUCTION_NONE, outputs=outputs,
        sample_weights=np.repeat(weights[:, None], 3, 1) if by_entry else weights))
    for tensor in (response.loss, response.logits_gradient, response.targets_gradient):
        if tensor.raw:
            assert (to_array(tensor)[[1, 3]] == 0).all() and np.isfinite(to_array(tensor)).all()
    assert (to_array(response.logits_gradient)[[0, 2]] != 0).any()
    assert (response.summary.ignored_count, response.summary.nonfinite_count) == (6 if by_entry else 2, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reduction, want", [("mean", NAN), ("sum", 0), ("none", 0)])
def test_every_sample_weight_zero(lossd, kind, reduction, want):
    """MEAN's own denominator: of the losses by entry it is the number of entries, weighted or not."""
    given = KINDS[kind]()
    by_entry = given.get("loss") in LOSSES[1:]
    response = lossd.evaluate(make_request(np.full((4, 3), NAN), **given, reduction=REDUCTIONS[reduction],
                                           sample_weights=np.zeros((4, 3) if by_entry else 4)))
    want = 0 if by_entry else want
    np.testing.assert_array_equal(to_array(response.loss), np.full(to_array(response.loss).shape, want))
    assert (to_array(response.logits_gradient) == 0).all()
    assert response.summary.weight_sum == (12 if by_entry else 0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction, want", [("mean", NAN), ("sum", 0), ("none", None)])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 5), (4, 3, 0)], ids=str)
def test_zero_elements(lossd, loss, reduction, want, shape):
    rows = loss == "negative_log_likelihood"
    element_shape = shape[:1] + shape[2:] if rows else shape
    targets = np.zeros(element_shape, np.int64 if rows else np.float32)
    response = lossd.evaluate(make_request(np.zeros(shape, np.float32), targets, loss=loss,
                                           reduction=REDUCTIONS[reduction]))
    np.testing.assert_array_equal(to_array(response.loss), np.zeros(element_shape) if want is None else want)
    assert to_array(response.logits_gradient).shape == shape and response.summary.weight_sum == 0


def test_batch_mean_of_no_batch(lossd):
    response = lossd.evaluate(make_request(np.zeros((0, 3)), np.zeros((0, 3)), loss="kl_divergence",
                                           reduction=pb.REDUCTION_BATCH_MEAN))
    assert np.isnan(to_array(response.loss))


# ---- long batches, and sums ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("loss", ["cross_entropy", *LOSSES])
def test_seventy_thousand_rows(lossd, dtype, reduction, loss):
    """More than float16 can count, or sum."""
    random, rows = np.random.default_rng(3), 70_000
    logits = float_tensor(random.normal(size=(rows, 3)) - 2, dtype)
    by_class = loss in ("cross_entropy", "negative_log_likelihood")
    targets = random.integers(3, size=rows) if by_class else float_tensor(random.uniform(size=(rows, 3)), dtype)
    response = lossd.evaluate(make_request(logits, targets, loss=loss, reduction=REDUCTIONS[reduction]))
    function = {"cross_entropy": F.cross_entropy, "negative_log_likelihood": F.nll_loss, "kl_divergence": F.kl_div,
                "binary_cross_entropy": F.binary_cross_entropy_with_logits}[loss]
    each = function(to_torch(logits), to_torch(targets), reduction="none")
    assert_close(response.loss, getattr(each, reduction)().numpy(), loss_type(dtype))
    assert response.summary.weight_sum == response.summary.element_count == each.numel()
    assert response.summary.loss_sum == pytest.approx(each.sum().item(), rel=1e-7)
    assert np.isfinite(to_array(response.logits_gradient)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_bits_change_sums_of_losses_and_not_of_weights(lossd, kind):
    logits = np.random.default_rng(4).normal(size=(4, 3)) - 2
    nats, bits = (lossd.evaluate(make_request(logits, **KINDS[kind](), unit=unit))
                  for unit in (pb.INFORMATION_UNIT_NATS, pb.INFORMATION_UNIT_BITS))
    assert bits.summary.weight_sum == nats.summary.weight_sum > 0
    assert bits.summary.loss_sum == pytest.approx(nats.summary.loss_sum / np.log(2), rel=1e-14)
    for name in ("loss", "logits_gradient"):
        np.testing.assert_allclose(to_array(getattr(bits, name)), to_array(getattr(nats, name)) / np.log(2), rtol=1e-14)
