"""Temperature, softcap, z-loss, focal, poly, units and normalizers, alone and together, against formulas.py."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import formulas
from cases import generator, make_upstream, product
from formulas import Batch
from lossd.v1 import loss_pb2 as pb
from pytorch import REDUCTIONS
from tensors import FLOATS, float_tensor, make_request
from tolerance import assert_close, loss_type

ROWS, CLASSES = 13, 10
UNITS = {pb.INFORMATION_UNIT_NATS: 1.0, pb.INFORMATION_UNIT_BITS: formulas.BITS}

FOR_ALL = [
    dict(),
    dict(temperature=0.5),
    dict(temperature=3.0),
    dict(softcap=5.0),
    dict(softcap=30.0),
    dict(z_loss=0.01),
    dict(z_loss=1.0),
    dict(temperature=0.7, softcap=4.0),
    dict(temperature=2.0, z_loss=0.1),
    dict(softcap=10.0, z_loss=0.1),
    dict(temperature=1.5, softcap=8.0, z_loss=0.05),
]
WITH_SMOOTHING = [dict(options, label_smoothing=e) for options in FOR_ALL for e in (0.1, 1.0)]
FOR_INDICES = [
    dict(focal_gamma=0.5),
    dict(focal_gamma=1.0),
    dict(focal_gamma=2.0),
    dict(poly_epsilon=1.0),
    dict(poly_epsilon=-0.5),
    dict(focal_gamma=2.0, poly_epsilon=2.0),
    dict(focal_gamma=0.5, temperature=0.7),
    dict(focal_gamma=1.0, softcap=6.0),
    dict(focal_gamma=2.0, z_loss=0.1),
    dict(poly_epsilon=1.0, temperature=2.0, softcap=6.0),
    dict(focal_gamma=0.5, poly_epsilon=1.0, temperature=1.5, softcap=8.0, z_loss=0.05),
]


def make_batch(random, kind, dtype, weighted, reduction):
    """`kind`: "indices" (every fourth ignored), "probabilities", or "sparse" (every fourth entry ignored)."""
    shape = dict(indices=(ROWS,), probabilities=(ROWS, CLASSES), sparse=(ROWS, 3))[kind]
    targets, masses = random.integers(CLASSES, size=shape), None
    if kind == "probabilities":
        targets = float_tensor(random.dirichlet(np.ones(CLASSES), ROWS), dtype)
    else:
        targets.flat[3::4] = -100
    if kind == "sparse":
        masses = float_tensor(random.normal(size=shape), dtype)
    class_weights = float_tensor(random.uniform(0.2, 3, CLASSES), dtype) if weighted else None
    sample_weights = float_tensor(random.integers(3, size=ROWS), dtype) if weighted else None
    return Batch(float_tensor(random.normal(scale=3, size=(ROWS, CLASSES)), dtype), targets, masses, class_weights,
                 sample_weights, make_upstream(random, reduction, ROWS, dtype))


def check(lossd, batch, dtype, *, reduction="mean", unit=pb.INFORMATION_UNIT_NATS, gradient_type=None, **options):
    """Everything that formulas.cross_entropy() knows about the answer."""
    want = formulas.cross_entropy(batch, reduction=reduction, unit=UNITS[unit], **options)
    outputs = [pb.OUTPUT_ELEMENT_LOSS, pb.OUTPUT_LOGITS_GRADIENT]
    if want.targets_gradient is not None:
        outputs.append(pb.OUTPUT_TARGETS_GRADIENT)
    gradient_type = gradient_type or dtype
    response = lossd.evaluate(make_request(
        **batch.tensors(), reduction=REDUCTIONS[reduction], unit=unit, outputs=outputs,
        gradient_type=pb.DataType.Value(f"DATA_TYPE_{gradient_type.upper()}"), **options))
    scale = np.abs(want.element_loss).sum() / (options.get("normalizer") or want.weight_sum or 1)
    assert_close(response.loss, want.loss, loss_type(dtype), scale if reduction == "mean" else None)
    assert_close(response.element_loss, want.element_loss, loss_type(dtype))
    assert_close(response.logits_gradient, want.logits_gradient, gradient_type)
    if want.targets_gradient is not None:
        assert_close(response.targets_gradient, want.targets_gradient, gradient_type)
    assert response.summary.weight_sum == pytest.approx(want.weight_sum, rel=1e-12)
    assert response.summary.loss_sum == pytest.approx(
        want.element_loss.sum(), rel=1e-6, abs=1e-6 * np.abs(want.element_loss).sum())
    assert response.summary.ignored_count == want.ignored_count
    return response


@product(dtype=FLOATS, options=FOR_ALL + WITH_SMOOTHING + FOR_INDICES, weighted=(False, True), reduction=REDUCTIONS)
def test_indices(lossd, case):
    batch = make_batch(generator(case), "indices", case["dtype"], case["weighted"], case["reduction"])
    check(lossd, batch, case["dtype"], reduction=case["reduction"], **case["options"])


@product(dtype=FLOATS, options=FOR_ALL + WITH_SMOOTHING, kind=("probabilities", "sparse"), weighted=(False, True),
         reduction=REDUCTIONS)
def test_probabilities(lossd, case):
    batch = make_batch(generator(case), case["kind"], case["dtype"], case["weighted"], case["reduction"])
    check(lossd, batch, case["dtype"], reduction=case["reduction"], **case["options"])


@product(dtype=FLOATS, kind=("indices", "probabilities", "sparse"), reduction=REDUCTIONS,
         options=[dict(), dict(temperature=0.7, softcap=5.0, z_loss=0.1)])
def test_bits(lossd, case):
    batch = make_batch(generator(case), case["kind"], case["dtype"], True, case["reduction"])
    check(lossd, batch, case["dtype"], reduction=case["reduction"], unit=pb.INFORMATION_UNIT_BITS, **case["options"])


@product(options=FOR_INDICES, unit=list(UNITS))
def test_focal_and_poly_in_bits(lossd, case):
    batch = make_batch(generator(case), "indices", "float64", True, "none")
    check(lossd, batch, "float64", reduction="none", unit=case["unit"], **case["options"])


@product(dtype=FLOATS, kind=("indices", "probabilities", "sparse"), normalizer=(0.25, 7.0, 1e6),
         options=[dict(), dict(z_loss=0.1, softcap=9.0)])
def test_normalizer(lossd, case):
    batch = make_batch(generator(case), case["kind"], case["dtype"], True, "mean")
    check(lossd, batch, case["dtype"], normalizer=case["normalizer"], **case["options"])


@product(dtype=FLOATS, gradient_type=FLOATS, kind=("indices", "probabilities", "sparse"),
         options=[dict(), dict(label_smoothing=0.1), dict(temperature=0.7, softcap=5.0, z_loss=0.1)])
def test_gradient_type(lossd, case):
    """It is the gradients' own, whatever the logits' is: rounded once, to its own last place."""
    batch = make_batch(generator(case), case["kind"], case["dtype"], True, "sum")
    check(lossd, batch, case["dtype"], reduction="sum", gradient_type=case["gradient_type"], **case["options"])


# ---- the other losses ------------------------------------------------------------------------------------------------


@product(loss=("negative_log_likelihood", "kl_divergence", "binary_cross_entropy"), dtype=FLOATS,
         gradient_type=FLOATS, unit=list(UNITS), normalizer=(None, 7.0))
def test_other_losses(lossd, case):
    """The gradients' type, the unit and the normalizer are every loss's."""
    random, loss = generator(case), case["loss"]
    logits = float_tensor(torch.log_softmax(torch.tensor(random.normal(size=(6, 10))), -1), case["dtype"])
    targets = random.integers(10, size=6) if loss == "negative_log_likelihood" else float_tensor(
        random.dirichlet(np.ones(10), 6), case["dtype"])
    response = lossd.evaluate(make_request(
        logits, targets, loss=loss, unit=case["unit"], normalizer=case["normalizer"],
        gradient_type=pb.DataType.Value(f"DATA_TYPE_{case['gradient_type'].upper()}")))
    x, t = formulas.to_torch(logits).requires_grad_(), formulas.to_torch(targets)
    each = {"negative_log_likelihood": lambda: F.nll_loss(x, t, reduction="none"),
            "kl_divergence": lambda: F.kl_div(x, t, reduction="none"),
            "binary_cross_entropy": lambda: F.binary_cross_entropy_with_logits(x, t, reduction="none")}[loss]()
    want = UNITS[case["unit"]] * each.sum() / (case["normalizer"] or each.numel())
    value, gradient = formulas.differentiate(want, None, x)
    assert_close(response.loss, value, loss_type(case["dtype"]), scale=1)
    assert_close(response.logits_gradient, gradient, case["gradient_type"])
