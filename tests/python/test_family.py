"""The losses that PyTorch has too, of every float type, with their gradients, against torch.nn.functional.

PyTorch computes in float64 on the very values that lossd is sent. Cross-entropy's layouts, weights and targets of every
integer type are in test_pytorch.py; what PyTorch has no function for is in test_modifiers.py and test_sparse.py.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pytorch
from cases import generator, make_upstream, product
from lossd.v1 import loss_pb2 as pb
from pytorch import REDUCTIONS, differentiate, to_class_axis_1, to_torch
from tensors import FLOATS, float_tensor, make_request
from tolerance import assert_close, loss_type

BOTH_GRADIENTS = [pb.OUTPUT_LOGITS_GRADIENT, pb.OUTPUT_TARGETS_GRADIENT]


def check(response, dtype, loss, logits_gradient, targets_gradient=None, scale=None):
    assert_close(response.loss, loss, loss_type(dtype), scale)
    assert_close(response.logits_gradient, logits_gradient, dtype)
    if targets_gradient is not None:
        assert_close(response.targets_gradient, targets_gradient, dtype)


# ---- rows ------------------------------------------------------------------------------------------------------------

LAYOUTS = [((10,), 0), ((6, 10), 1), ((3, 10, 5), 1), ((2, 10, 3, 4), 1), ((2, 7, 10), -1)]


@product(dtype=FLOATS, layout=LAYOUTS, reduction=REDUCTIONS, weights=(None, "random", "zeros"), ignored=(None, 2, -7))
def test_negative_log_likelihood(lossd, case):
    random, dtype, (shape, axis) = generator(case), case["dtype"], case["layout"]
    element_shape = tuple(np.delete(shape, axis))
    logits = float_tensor(torch.log_softmax(torch.tensor(random.normal(scale=3, size=shape)), axis), dtype)
    targets = np.asarray(random.integers(10, size=element_shape))
    ignored = -100 if case["ignored"] is None else case["ignored"]
    if targets.ndim > 0:
        targets.flat[1::3] = ignored
    targets.flat[0] = 1
    weights = None
    if case["weights"]:
        weights = random.uniform(0.2, 3, 10)
        weights[::3] *= case["weights"] == "random"
        weights = float_tensor(weights, dtype)
    upstream = make_upstream(random, case["reduction"], element_shape, dtype)

    response = lossd.evaluate(make_request(
        logits, targets, loss="negative_log_likelihood", class_axis=axis, ignore_index=case["ignored"],
        reduction=REDUCTIONS[case["reduction"]], class_weights=weights, upstream_gradient=upstream))
    x = to_torch(logits).requires_grad_()
    want = F.nll_loss(to_class_axis_1(x, axis), to_torch(targets), weight=to_torch(weights), ignore_index=ignored,
                      reduction=case["reduction"])
    check(response, dtype, *differentiate(want, upstream, x))


@product(dtype=FLOATS, layout=LAYOUTS, reduction=REDUCTIONS, smoothing=(0.0, 0.1, 1.0), weights=(False, True),
         kind=("indices", "probabilities", "unnormalised"))
def test_cross_entropy(lossd, case):
    random, dtype, (shape, axis) = generator(case), case["dtype"], case["layout"]
    element_shape = tuple(np.delete(shape, axis))
    logits = float_tensor(random.normal(scale=3, size=shape), dtype)
    targets = {
        "indices": lambda: random.integers(10, size=element_shape),
        "probabilities": lambda: float_tensor(torch.softmax(torch.tensor(random.normal(size=shape)), axis), dtype),
        "unnormalised": lambda: float_tensor(random.normal(size=shape), dtype),
    }[case["kind"]]()
    weights = float_tensor(random.uniform(0.2, 3, 10), dtype) if case["weights"] else None
    upstream = make_upstream(random, case["reduction"], element_shape, dtype)

    response = lossd.evaluate(make_request(
        logits, targets, class_axis=axis, label_smoothing=case["smoothing"], class_weights=weights,
        reduction=REDUCTIONS[case["reduction"]], upstream_gradient=upstream,
        outputs=BOTH_GRADIENTS[:1] if case["kind"] == "indices" else BOTH_GRADIENTS))
    want = pytorch.cross_entropy(logits, targets, class_axis=axis, reduction=case["reduction"], weight=weights,
                                 label_smoothing=case["smoothing"], upstream_gradient=upstream)
    check(response, dtype, *want, scale=10 if case["kind"] == "unnormalised" else None)


# ---- entries ---------------------------------------------------------------------------------------------------------

SHAPES = [(), (5,), (6, 10), (2, 3, 4, 5)]


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # on which semantics.md agrees
@product(dtype=FLOATS, shape=SHAPES, reduction=(*REDUCTIONS, "batchmean"), log_target=(False, True),
         weights=(False, True))
def test_kl_divergence(lossd, case):
    random, dtype, shape, reduction = generator(case), case["dtype"], case["shape"], case["reduction"]
    if shape == () and reduction == "batchmean":
        reduction = "mean"  # a scalar has no batch; refused in test_refusals.py
    axis = -1 if shape else 0
    logits = float_tensor(torch.log_softmax(torch.tensor(random.normal(scale=3, size=shape)), axis) - 0.5, dtype)
    targets = torch.log_softmax(torch.tensor(random.normal(scale=2, size=shape)), axis) - 0.25
    targets = float_tensor(targets if case["log_target"] else targets.exp(), dtype)
    weights = float_tensor(random.uniform(0.2, 3, shape), dtype) if case["weights"] else None
    upstream = make_upstream(random, reduction, shape, dtype)

    response = lossd.evaluate(make_request(
        logits, targets, loss="kl_divergence", log_target=case["log_target"], sample_weights=weights,
        reduction=dict(REDUCTIONS, batchmean=pb.REDUCTION_BATCH_MEAN)[reduction], upstream_gradient=upstream,
        outputs=BOTH_GRADIENTS))
    x, t = to_torch(logits).requires_grad_(), to_torch(targets).requires_grad_()
    if weights is None:
        want = F.kl_div(x, t, log_target=case["log_target"], reduction=reduction)
    else:
        each = F.kl_div(x, t, log_target=case["log_target"], reduction="none") * to_torch(weights)
        want = {"none": each, "sum": each.sum(), "mean": each.mean(),
                "batchmean": each.sum() / (shape[0] if shape else 1)}[reduction]
    check(response, dtype, *differentiate(want, upstream, x, t), scale=1 if reduction != "none" else None)
    assert response.summary.weight_sum == np.prod(shape)


POS_WEIGHTS = [None, (), (1,), (5,), (4, 1), (4, 5), (3, 1, 1), (2, 1, 4, 1), (2, 3, 4, 5)]


def broadcasts(pos_weight, shape):
    return pos_weight is None or (len(pos_weight) <= len(shape) and all(
        extent in (1, want) for extent, want in zip(pos_weight[::-1], shape[::-1])))


@product(dtype=FLOATS, layout=[(shape, pos_weight) for shape in SHAPES for pos_weight in POS_WEIGHTS
                               if broadcasts(pos_weight, shape)],
         reduction=REDUCTIONS, smoothing=(0.0, 0.2, 1.0), weights=(False, True))
def test_binary_cross_entropy(lossd, case):
    random, dtype, (shape, pos_weight) = generator(case), case["dtype"], case["layout"]
    logits = float_tensor(random.normal(scale=4, size=shape), dtype)
    targets = float_tensor(np.where(random.uniform(size=shape) < 0.5, random.integers(2, size=shape),
                                    random.uniform(size=shape)), dtype)
    pos_weight = None if pos_weight is None else float_tensor(random.uniform(0.2, 5, pos_weight), dtype)
    weights = float_tensor(random.uniform(0.2, 3, shape), dtype) if case["weights"] else None
    upstream = make_upstream(random, case["reduction"], shape, dtype)

    response = lossd.evaluate(make_request(
        logits, targets, loss="binary_cross_entropy", label_smoothing=case["smoothing"], sample_weights=weights,
        class_weights=pos_weight, reduction=REDUCTIONS[case["reduction"]], upstream_gradient=upstream,
        outputs=BOTH_GRADIENTS))
    x, t = to_torch(logits).requires_grad_(), to_torch(targets).requires_grad_()
    smooth = t * (1 - case["smoothing"]) + case["smoothing"] / 2
    want = F.binary_cross_entropy_with_logits(x, smooth, weight=to_torch(weights), pos_weight=to_torch(pos_weight),
                                              reduction=case["reduction"])
    # PyTorch 1.13 has no derivative by the targets where there is a pos_weight: the loss is linear in them.
    want, dx = differentiate(want, upstream, x)
    dt = targets_slope(x.detach(), case["smoothing"], to_torch(weights), to_torch(pos_weight)) * to_torch(upstream)
    check(response, dtype, want, dx, dt / (dt.numel() if case["reduction"] == "mean" else 1))


def targets_slope(x, smoothing, weight, pos_weight):
    """Of binary cross-entropy: what a target of 1 costs, less what a target of 0 costs."""
    def cost(target):
        return F.binary_cross_entropy_with_logits(x, torch.full_like(x, target), weight=weight, pos_weight=pos_weight,
                                                  reduction="none")
    return (1 - smoothing) * (cost(1) - cost(0))


# ---- types -----------------------------------------------------------------------------------------------------------


@product(logits=FLOATS, others=FLOATS, loss=("cross_entropy", "kl_divergence", "binary_cross_entropy"))
def test_every_tensor_may_be_of_any_float_type(lossd, case):
    random = generator(case)
    logits = float_tensor(random.normal(size=(6, 10)) - 3, case["logits"])
    targets = float_tensor(random.uniform(size=(6, 10)), case["others"])
    weights = float_tensor(random.uniform(size=6 if case["loss"] == "cross_entropy" else (6, 10)), case["others"])
    upstream = float_tensor(0.7, case["others"])
    response = lossd.evaluate(make_request(
        logits, targets, loss=case["loss"], sample_weights=weights, upstream_gradient=upstream,
        reduction=pb.REDUCTION_SUM, outputs=BOTH_GRADIENTS))
    x, t = to_torch(logits).requires_grad_(), to_torch(targets).requires_grad_()
    each = {"cross_entropy": lambda: F.cross_entropy(x, t, reduction="none"),
            "kl_divergence": lambda: F.kl_div(x, t, reduction="none"),
            "binary_cross_entropy": lambda: t * F.softplus(-x) + (1 - t) * F.softplus(x)}[case["loss"]]()
    want = (each * to_torch(weights)).sum()
    check(response, case["logits"], *differentiate(want, upstream, x, t))
