"""Sparse class probabilities: K classes with a mass each, for every element."""

import numpy as np
import pytest

from cases import generator, make_upstream, product
from formulas import Batch
from lossd.v1 import loss_pb2 as pb
from pytorch import REDUCTIONS
from tensors import FLOATS, float_tensor, make_request, to_array
from test_modifiers import check

ROWS, CLASSES = 9, 20
SIZES = (1, 2, 3, 5, 16, 33, 64)  # K: beyond the number of classes there must be duplicates


def make_sparse(random, size, dtype, reduction="mean", rows=ROWS, ignored=-100):
    """Duplicates, masses of any sign, dropped entries; the second row has none that lives."""
    targets = random.integers(CLASSES, size=(rows, size))
    targets[random.uniform(size=targets.shape) < 0.3] = ignored
    targets[1], targets[0, 0] = ignored, 3
    return Batch(float_tensor(random.normal(scale=3, size=(rows, CLASSES)), dtype), targets,
                 float_tensor(random.normal(size=(rows, size)), dtype),
                 upstream_gradient=make_upstream(random, reduction, rows, dtype))


@product(size=SIZES, dtype=FLOATS, reduction=REDUCTIONS, smoothing=(0.0, 0.1, 1.0), weighted=(False, True))
def test_sparse(lossd, case):
    random = generator(case)
    batch = make_sparse(random, case["size"], case["dtype"], case["reduction"])
    if case["weighted"]:
        batch = batch._replace(class_weights=float_tensor(random.uniform(0, 2, CLASSES), case["dtype"]),
                               sample_weights=float_tensor(random.integers(3, size=ROWS) + 0.5, case["dtype"]))
    check(lossd, batch, case["dtype"], reduction=case["reduction"], label_smoothing=case["smoothing"])


@product(ignored=(0, 5, -1, 127), targets=("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"))
def test_integer_types_and_ignore_index(lossd, case):
    if case["ignored"] < 0 and case["targets"].startswith("u"):
        case = dict(case, ignored=100)
    batch = make_sparse(generator(case), 4, "float64", ignored=case["ignored"])
    check(lossd, batch._replace(targets=batch.targets.astype(case["targets"])), "float64",
          ignore_index=case["ignored"])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_dense_form(lossd, size, dtype):
    """Of the same q, to rounding; targets' gradients at a class are the same number."""
    random = np.random.default_rng(size)
    targets = np.stack([random.permutation(64)[:size] for _ in range(ROWS)])
    masses = random.dirichlet(np.ones(size), ROWS).astype("float32")
    logits = float_tensor(random.normal(scale=3, size=(ROWS, 64)), dtype)
    dense = np.zeros((ROWS, 64), "float32")
    np.put_along_axis(dense, targets, masses, 1)
    options = dict(label_smoothing=0.1, reduction=pb.REDUCTION_NONE, gradient_type=pb.DATA_TYPE_FLOAT64,
                   outputs=[pb.OUTPUT_LOGITS_GRADIENT, pb.OUTPUT_TARGETS_GRADIENT])
    of_sparse = lossd.evaluate(make_request(logits, targets, target_probabilities=masses, **options))
    of_dense = lossd.evaluate(make_request(logits, dense, **options))
    np.testing.assert_allclose(to_array(of_sparse.loss), to_array(of_dense.loss), rtol=1e-6)
    np.testing.assert_allclose(to_array(of_sparse.logits_gradient), to_array(of_dense.logits_gradient), atol=1e-12)
    np.testing.assert_allclose(to_array(of_sparse.targets_gradient),
                               np.take_along_axis(to_array(of_dense.targets_gradient), targets, 1), rtol=1e-12)


@pytest.mark.parametrize("dtype", FLOATS)
def test_one_entry_of_mass_one_is_a_class_index(lossd, dtype):
    logits = float_tensor(np.random.default_rng(1).normal(scale=3, size=(ROWS, CLASSES)), dtype)
    targets = np.arange(ROWS)
    of_index = lossd.evaluate(make_request(logits, targets))
    of_sparse = lossd.evaluate(make_request(logits, targets[:, None], target_probabilities=np.ones((ROWS, 1))))
    np.testing.assert_allclose(to_array(of_sparse.loss), to_array(of_index.loss), rtol=1e-6)
    np.testing.assert_allclose(to_array(of_sparse.logits_gradient).astype(float), to_array(of_index.logits_gradient),
                               rtol=1e-2, atol=1e-7)


LAYOUTS = [((CLASSES,), 0), ((4, CLASSES, 3), 1), ((4, 3, CLASSES), -1), ((CLASSES, 2, 3), 0), ((2, 3, CLASSES, 2), -2)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape, class_axis", LAYOUTS, ids=str)
def test_class_axis(lossd, shape, class_axis, dtype):
    """The answer of every layout is the transposed one's; K is always the last axis of the targets."""
    random = np.random.default_rng(2)
    logits = random.normal(scale=3, size=shape)
    element_shape = tuple(np.delete(shape, class_axis))
    targets, masses = random.integers(CLASSES, size=(*element_shape, 3)), random.normal(size=(*element_shape, 3))
    options = dict(target_probabilities=masses, reduction=pb.REDUCTION_NONE,
                   outputs=[pb.OUTPUT_LOGITS_GRADIENT, pb.OUTPUT_TARGETS_GRADIENT])
    laid_out = lossd.evaluate(make_request(float_tensor(logits, dtype), targets, class_axis=class_axis, **options))
    last = lossd.evaluate(make_request(float_tensor(np.moveaxis(logits, class_axis, -1), dtype), targets,
                                       class_axis=-1, **options))
    assert laid_out.loss == last.loss and laid_out.targets_gradient == last.targets_gradient
    np.testing.assert_array_equal(np.moveaxis(to_array(laid_out.logits_gradient), class_axis, -1),
                                  to_array(last.logits_gradient))


def test_no_entries_at_all(lossd):
    """K = 0: no element has a live entry."""
    response = lossd.evaluate(make_request(np.zeros((3, 4), np.float32), np.zeros((3, 0), np.int64),
                                           target_probabilities=np.zeros((3, 0), np.float32)))
    assert np.isnan(to_array(response.loss)) and (to_array(response.logits_gradient) == 0).all()
    assert (response.summary.weight_sum, response.summary.ignored_count) == (0, 3)
