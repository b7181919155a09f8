"""Losses and gradients over the wire against torch.nn.functional.cross_entropy.

PyTorch computes in float64 on the very values that lossd is sent, so the tolerances are lossd's alone. What PyTorch
gets wrong, or leaves open, is in test_semantics.py.
"""

import itertools
import zlib
from dataclasses import asdict, dataclass, replace
from typing import Optional

import numpy as np
import pytest

import pytorch
from pytorch import REDUCTIONS
from tensors import make_request, to_array
from tolerance import TOLERANCE

DTYPES = ("float32", "float64")  # the others are in test_family.py

SHAPES = [  # of the logits, with the class axis; None: PyTorch's own
    ((10,), None),
    ((6, 10), None),
    ((3, 10, 5), None),
    ((2, 10, 4, 5), None),
    ((2, 7, 10), -1),
    ((10, 4, 3), 0),
    ((2, 3, 10, 5), 2),
    ((2, 10, 3, 2, 2), -4),
]
WEIGHTS = ("none", "random", "zeros")
SMOOTHINGS = (0.0, 0.1, 1.0)
# None is the default, -100. 2 is a class, 101 and -7 are not.
IGNORED = (None, 2, 101, -7)
MIXED = ("float32", "float64", "float32", "float64", "float32")  # in step with nothing else
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


@dataclass(frozen=True)
class Case:
    shape: tuple = (6, 10)
    class_axis: Optional[int] = None
    targets: str = "int64"  # an integer type, or "probabilities"
    weights: str = "none"
    smoothing: float = 0.0
    reduction: str = "mean"
    ignore_index: Optional[int] = None
    dtype: str = "float32"

    def __str__(self):
        return "-".join(str(value).replace(" ", "") for value in asdict(self).values())

    @property
    def axis(self):
        return (0 if len(self.shape) == 1 else 1) if self.class_axis is None else self.class_axis

    @property
    def num_classes(self):
        return self.shape[self.axis]

    @property
    def element_shape(self):
        return tuple(np.delete(self.shape, self.axis))


def grid(**choices):
    return [Case(**dict(zip(choices, values))) for values in itertools.product(*choices.values())]


def alternate(cases, **choices):
    """Deals the choices out to the cases in turn."""
    return [replace(case, **{name: values[i % len(values)] for name, values in choices.items()})
            for i, case in enumerate(cases)]


def layouts():
    cases = grid(reduction=REDUCTIONS, smoothing=SMOOTHINGS, weights=WEIGHTS, targets=("int64", "probabilities"))
    laid_out = [replace(case, shape=shape, class_axis=axis) for shape, axis in SHAPES for case in cases]
    return alternate(laid_out, dtype=MIXED)


def ignore_indices():
    cases = grid(reduction=REDUCTIONS, weights=WEIGHTS, smoothing=SMOOTHINGS, ignore_index=IGNORED)
    return alternate(cases, targets=INTEGERS, dtype=MIXED,
                     shape=((6, 10), (3, 10, 5), (40, 10)))


def integer_types():
    return grid(targets=INTEGERS, dtype=DTYPES, ignore_index=(None, 2))


def class_counts():
    shapes = [(5, num_classes) for num_classes in (1, 2, 3, 10, 123, 1000)]
    return grid(shape=shapes, targets=("int64", "probabilities"), smoothing=(0.0, 0.1), weights=("none", "random"),
                dtype=DTYPES)


def make_targets(case, random):
    if case.targets == "probabilities":
        mass = random.exponential(size=case.shape)
        return (mass / mass.sum(axis=case.axis, keepdims=True)).astype(case.dtype)
    targets = random.integers(case.num_classes, size=case.element_shape)
    ignored = -100 if case.ignore_index is None else case.ignore_index
    holds = np.iinfo(case.targets)
    if targets.size > 1 and holds.min <= ignored <= holds.max:
        targets.flat[1::3] = ignored
    targets.flat[0] = min(1, case.num_classes - 1)  # live, and of a class that weighs something
    return targets.astype(case.targets)


def make_weights(case, random):
    if case.weights == "none":
        return None
    weights = random.uniform(0.2, 3, case.num_classes).astype(case.dtype)
    if case.weights == "zeros":
        weights[::3] = 0
    return weights


def make_upstream(case, random):
    """Not 1, and where every element has its own, not uniform, with zeros, the first among them."""
    if case.reduction != "none":
        return random.normal(size=()).astype(case.dtype)
    upstream = random.normal(size=case.element_shape).astype(case.dtype)
    if upstream.size > 1:
        upstream.flat[::4] = 0
    return upstream


@pytest.mark.parametrize("case", layouts() + ignore_indices() + integer_types() + class_counts(), ids=str)
def test_cross_entropy(lossd, case):
    random = np.random.default_rng(zlib.crc32(str(case).encode()))
    logits = random.normal(scale=3, size=case.shape).astype(case.dtype)
    targets, weights, upstream = (make(case, random) for make in (make_targets, make_weights, make_upstream))
    ignore = {} if case.ignore_index is None else {"ignore_index": case.ignore_index}

    response = lossd.evaluate(make_request(
        logits, targets, reduction=REDUCTIONS[case.reduction], class_weights=weights, upstream_gradient=upstream,
        label_smoothing=case.smoothing, class_axis=case.class_axis, **ignore))
    want_loss, want_gradient, *_ = pytorch.cross_entropy(
        logits, targets, class_axis=case.axis, reduction=case.reduction, upstream_gradient=upstream, weight=weights,
        label_smoothing=case.smoothing, **ignore)

    assert np.isfinite(want_loss).all()
    loss, gradient = to_array(response.loss), to_array(response.logits_gradient)
    assert loss.dtype == gradient.dtype == case.dtype and loss.shape == want_loss.shape
    np.testing.assert_allclose(loss, want_loss, rtol=TOLERANCE[case.dtype], atol=0)
    np.testing.assert_allclose(gradient, want_gradient, rtol=0, atol=TOLERANCE[case.dtype])
